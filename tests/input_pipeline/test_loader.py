"""The order of examples depends on (seed, step) only, not on hosts, threads or workers."""

import numpy as np
import pytest

from gcn_flax.input_pipeline import loader, transforms
from gcn_flax.input_pipeline.examples import CorruptExample
from gcn_flax.input_pipeline.loader import HostShard


class FakeSource:
  """Ten examples of 4 x 4 pixels whose values are their index."""

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
  """An augmentation that stores its random number in the image."""
  image = example["image"].copy()
  image[..., 1] = rng.integers(0, 256)
  return {**example, "image": image}


def batches(shard, seed=0, num_threads=2, num_workers=0):
  sampler = loader.MixtureSampler([10], None, seed)
  found = loader.train_batches(
    [FakeSource()], sampler, shard, seed=seed, augment=jitter, num_threads=num_threads, num_workers=num_workers
  )
  return np.stack([batch["image"][:, 0, 0, :2] for batch in found])  # [steps, b, (number, random)]


def test_every_epoch_contains_each_example_once_in_a_new_order():
  numbers = batches(HostShard(5, 0, 6, 0, 1))[..., 0].reshape(3, 10)
  for epoch in numbers:
    assert sorted(epoch) == list(range(10))
  assert len({tuple(epoch) for epoch in numbers}) == 3


def test_training_can_start_at_any_step():
  whole = batches(HostShard(4, 0, 9, 0, 1))
  np.testing.assert_array_equal(batches(HostShard(4, 6, 9, 0, 1)), whole[6:])


def test_host_shards_form_the_same_global_batch():
  whole = batches(HostShard(4, 3, 6, 0, 1))
  for hosts in (2, 4):
    parts = [batches(HostShard(4, 3, 6, host, hosts)) for host in range(hosts)]
    np.testing.assert_array_equal(np.concatenate(parts, 1), whole)


@pytest.mark.parametrize("num_threads, num_workers", [(1, 0), (7, 0), (1, 2)])
def test_threads_and_workers_do_not_change_a_batch(num_threads, num_workers):
  expected = batches(HostShard(4, 0, 5, 0, 1))
  np.testing.assert_array_equal(batches(HostShard(4, 0, 5, 0, 1), 0, num_threads, num_workers), expected)


class Damaged(FakeSource):
  """A source whose examples `damaged` cannot be read."""

  dataset, split = "fake", "train"

  def __init__(self, damaged):
    self.damaged = damaged

  def __getitem__(self, index):
    if index in self.damaged:
      raise CorruptExample(f"example {index} is damaged")
    return super().__getitem__(index)


def read_damaged(damaged, shard, skip=True):
  sampler, options = loader.MixtureSampler([10], None, 0), {"num_threads": 2, "num_workers": 0, "skip_corrupt": skip}
  return list(loader.train_batches([Damaged(damaged)], sampler, shard, seed=0, augment=jitter, **options))


def test_a_damaged_example_is_replaced_by_the_same_one_on_every_host(caplog):
  damaged = {0, 2, 4, 6, 8}
  whole, found = batches(HostShard(4, 0, 10, 0, 1)), read_damaged(damaged, HostShard(4, 0, 10, 0, 1))
  pixels = np.stack([batch["image"][:, 0, 0, :2] for batch in found])
  skipped = np.stack([batch["skipped"] for batch in found])
  assert not set(pixels[..., 0].flat) & damaged
  np.testing.assert_array_equal(skipped > 0, np.isin(whole[..., 0], list(damaged)))
  np.testing.assert_array_equal(pixels[skipped == 0], whole[skipped == 0])
  np.testing.assert_array_equal(pixels[..., 1], whole[..., 1])  # And it is augmented as the damaged one would be.
  assert caplog.text.count("WARNING: skipped: example") == skipped.sum()
  pairs = set(zip(whole[skipped > 0][:, 0].tolist(), pixels[skipped > 0][:, 0].tolist(), strict=True))
  assert len(pairs) > len(damaged)  # Another one each time the same example is met.
  for hosts in (2, 4):
    parts = [read_damaged(damaged, HostShard(4, 3, 10, host, hosts)) for host in range(hosts)]
    together = [np.concatenate([part[step]["image_id"] for part in parts]) for step in range(7)]
    assert [list(ids) for ids in together] == [list(batch["image_id"]) for batch in found[3:]]


def test_damaged_examples_raise_unless_skipped_or_if_there_are_many():
  with pytest.raises(CorruptExample, match="example 3 is damaged"):
    read_damaged({3}, HostShard(4, 0, 10, 0, 1), skip=False)
  with pytest.raises(CorruptExample, match="fake 'train': 10 examples in a row are damaged"):
    read_damaged(set(range(10)), HostShard(4, 0, 1, 0, 1))


def test_the_seed_changes_order_and_augmentation():
  one, other = batches(HostShard(5, 0, 2, 0, 1), seed=0), batches(HostShard(5, 0, 2, 0, 1), seed=1)
  assert (one[..., 0] != other[..., 0]).any()
  assert (one[..., 1] != other[..., 1]).any()


@pytest.mark.parametrize("weights", [None, [1]])
def test_neighbouring_seeds_share_no_epoch(weights):
  epochs = [
    tuple(index for _, index in drawn(loader.MixtureSampler([50], weights, seed), 50 * epoch, 50 * epoch + 50))
    for seed in range(4)
    for epoch in range(4)
  ]
  assert len(set(epochs)) == 16 and all(sorted(epoch) == list(range(50)) for epoch in epochs)


def test_sources_of_a_mixture_have_orders_of_their_own():
  orders = [
    [index for source, index in drawn(loader.MixtureSampler([40, 40, 40], [1, 1, 1], seed), 0, 120) if source == number]
    for seed in range(2)
    for number in range(3)
  ]
  assert len(set(map(tuple, orders))) == 6


def test_a_repeated_example_gets_a_new_augmentation():
  drawn = batches(HostShard(5, 0, 4, 0, 1)).reshape(-1, 2)
  first = dict(drawn[:10])
  assert any(first[number] != random for number, random in drawn[10:])


def drawn(sampler, first, last):
  return [sampler[position] for position in range(first, last)]


def test_every_epoch_of_a_mixture_contains_each_example_once():
  sampler = loader.MixtureSampler([3, 5, 2], None, seed=1)
  everything = [(source, index) for source, size in enumerate([3, 5, 2]) for index in range(size)]
  epochs = [drawn(sampler, 10 * epoch, 10 * epoch + 10) for epoch in range(4)]
  assert all(sorted(epoch) == everything for epoch in epochs)
  assert len({tuple(epoch) for epoch in epochs}) == 4
  assert any(epoch[0][0] != 0 for epoch in epochs), "shuffled over all sources, not one source after the other"


def test_weights_are_sampling_rates_without_early_repetition():
  sizes = [20, 100, 40]
  examples = drawn(loader.MixtureSampler(sizes, [1, 1, 2], seed=0), 0, 5 * 160)
  for epoch in range(5):
    sources = [source for source, _ in examples[160 * epoch : 160 * epoch + 160]]
    assert [sources.count(number) for number in range(3)] == [40, 40, 80]
  for number, size in enumerate(sizes):
    seen = [index for source, index in examples if source == number]
    for start in range(0, len(seen) - size + 1, size):
      assert sorted(seen[start : start + size]) == list(range(size))


def test_epochs_and_sources_of_a_weighted_mixture_have_different_orders():
  sampler = loader.MixtureSampler([20, 20], [1, 1], seed=0)
  turns = [[source for source, _ in drawn(sampler, 40 * epoch, 40 * epoch + 40)] for epoch in range(2)]
  assert turns[0] != turns[1]
  first, second = ([index for source, index in drawn(sampler, 0, 40) if source == number] for number in range(2))
  assert first != second


def test_a_small_share_uses_other_examples_in_every_epoch():
  sampler = loader.MixtureSampler([90, 60], [1, 4], seed=0)
  firsts = [
    {index for source, index in drawn(sampler, 150 * epoch, 150 * epoch + 150) if source == 0} for epoch in range(3)
  ]
  assert [len(first) for first in firsts] == [30] * 3
  assert set().union(*firsts) == set(range(90))


def test_a_weight_that_rounds_to_no_example_is_rejected():
  with pytest.raises(ValueError, match="gets none of the 20 examples of an epoch"):
    loader.MixtureSampler([10, 10], [1e-6, 1], 0)


def test_a_mixture_can_start_anywhere_and_depends_on_the_seed():
  whole = drawn(loader.MixtureSampler([60, 50], [2, 1], 3), 0, 50)
  again = loader.MixtureSampler([60, 50], [2, 1], 3)
  assert [again[position] for position in (49, 7, 22)] == [whole[49], whole[7], whole[22]]
  assert drawn(loader.MixtureSampler([60, 50], [2, 1], 4), 0, 50) != whole


def test_a_batch_that_hosts_cannot_share_is_rejected():
  with pytest.raises(ValueError, match="batch size 5: must be a multiple of the 2 hosts. Use for instance 6."):
    HostShard(5, 0, 1, 0, 2)


def fit(example):
  return transforms.pad(example, CANVASES[example["label"][0, 0]], (1, 2, 3))


# Of the ten examples of FakeSource.
CANVASES = [(32, 32), (32, 64), (32, 32), (32, 32), (64, 32), (32, 32), (32, 32), (32, 32), (32, 32), (32, 64)]


def evaluated(monkeypatch, host=0, hosts=1, canvases=CANVASES):
  monkeypatch.setattr(loader.jax, "process_index", lambda: host)
  monkeypatch.setattr(loader.jax, "process_count", lambda: hosts)
  monkeypatch.setattr(loader.jax, "device_count", lambda: 2)
  return list(loader.eval_batches(FakeSource(), canvases, 4, fit=fit, num_threads=2, num_workers=0))


@pytest.mark.parametrize("hosts", [1, 2])
def test_evaluation_sees_every_example_once_and_marks_padding(hosts, monkeypatch):
  parts = [evaluated(monkeypatch, host, hosts) for host in range(hosts)]
  assert all(len(part) == 4 for part in parts)
  for batches_of_a_step in zip(*parts, strict=True):
    assert len({batch["image"].shape for batch in batches_of_a_step}) == 1  # Hosts run the same program at each step.
  indices = np.concatenate([batch["index"] for host in parts for batch in host])
  assert sorted(indices[indices >= 0]) == list(range(10))
  for batch in (batch for host in parts for batch in host):
    for index, size, label, image in zip(batch["index"], batch["size"], batch["label"], batch["image"], strict=True):
      assert tuple(size) == (4, 4)
      assert index < 0 or ((label[:4, :4] == index).all() and label.shape == CANVASES[index])
      assert (label[4:] == 255).all() and (label[:, 4:] == 255).all()
      assert (image[4:] == (1, 2, 3)).all()


def test_an_image_of_another_size_than_the_stored_one_is_named(monkeypatch):
  with pytest.raises(CorruptExample, match="example9: its size 4 x 4 is not the one stored with the data set"):
    evaluated(monkeypatch, canvases=[*CANVASES[:9], (32, 96)])
