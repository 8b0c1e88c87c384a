"""Order is a pure function of (seed, step); hosts, threads and workers do not show."""

import numpy as np
import pytest

from gcn_flax.input_pipeline import loader
from gcn_flax.input_pipeline.loader import HostShare


class FakeSource:
  """Ten examples of 4 x 4 pixels whose value is their number."""

  has_labels = True

  def __len__(self):
    return 10

  def __getitem__(self, index):
    return {
      "image": np.full((4, 4, 3), index, np.uint8),
      "label": np.full((4, 4), index, np.uint8),
      "image_id": f"example{index}",
    }


def jitter(example, rng):
  """An augmentation that leaves its random number in the image."""
  image = example["image"].copy()
  image[..., 1] = rng.integers(0, 256)
  return {**example, "image": image}


def batches(share, seed=0, num_threads=2, num_workers=0):
  found = loader.train_batches(
    FakeSource(), share, seed=seed, augment=jitter, num_threads=num_threads, num_workers=num_workers
  )
  return np.stack([batch["image"][:, 0, 0, :2] for batch in found])  # [steps, b, (number, random)]


def test_an_epoch_shows_every_example_once_and_the_next_one_in_another_order():
  numbers = batches(HostShare(5, 0, 6, 0, 1))[..., 0].reshape(3, 10)
  for epoch in numbers:
    assert sorted(epoch) == list(range(10))
  assert len({tuple(epoch) for epoch in numbers}) == 3


def test_any_step_can_be_started_from():
  whole = batches(HostShare(4, 0, 9, 0, 1))
  np.testing.assert_array_equal(batches(HostShare(4, 6, 9, 0, 1)), whole[6:])


def test_hosts_together_make_the_same_global_batch():
  whole = batches(HostShare(4, 3, 6, 0, 1))
  for hosts in (2, 4):
    parts = [batches(HostShare(4, 3, 6, host, hosts)) for host in range(hosts)]
    np.testing.assert_array_equal(np.concatenate(parts, 1), whole)


@pytest.mark.parametrize("num_threads, num_workers", [(1, 0), (7, 0), (1, 2)])
def test_threads_and_workers_do_not_change_a_batch(num_threads, num_workers):
  expected = batches(HostShare(4, 0, 5, 0, 1))
  np.testing.assert_array_equal(batches(HostShare(4, 0, 5, 0, 1), 0, num_threads, num_workers), expected)


def test_the_seed_changes_order_and_augmentation():
  one, other = batches(HostShare(5, 0, 2, 0, 1), seed=0), batches(HostShare(5, 0, 2, 0, 1), seed=1)
  assert (one[..., 0] != other[..., 0]).any()
  assert (one[..., 1] != other[..., 1]).any()


def test_a_repeated_example_is_augmented_anew():
  drawn = batches(HostShare(5, 0, 4, 0, 1)).reshape(-1, 2)
  first = dict(drawn[:10])
  assert any(first[number] != random for number, random in drawn[10:])


def test_a_batch_that_hosts_cannot_share_is_refused():
  with pytest.raises(ValueError, match="batch size 5 must be a multiple of the 2 hosts"):
    HostShare(5, 0, 1, 0, 2)


@pytest.mark.parametrize("hosts", [1, 2])
def test_evaluation_sees_every_example_once_and_fills_with_void(hosts):
  steps = loader.num_eval_steps(10, 4)
  assert steps == 3
  parts = []
  for host in range(hosts):
    share = HostShare(4, 0, steps, host, hosts)
    found = list(loader.eval_batches(FakeSource(), share, size=(32, 32), pixel=(1, 2, 3), num_threads=2, num_workers=0))
    assert len(found) == steps
    parts.append(found)
  indices = np.concatenate([batch["index"] for host in parts for batch in host])
  assert sorted(indices[indices >= 0]) == list(range(10))
  for batch in (batch for host in parts for batch in host):
    for index, size, label, image in zip(batch["index"], batch["size"], batch["label"], batch["image"], strict=True):
      if index < 0:
        assert (label == 255).all()
      else:
        assert tuple(size) == (4, 4)
        assert (label[:4, :4] == index).all() and (label[4:] == 255).all() and (label[:, 4:] == 255).all()
        assert (image[4:] == (1, 2, 3)).all()
