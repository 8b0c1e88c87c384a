"""Checkpoints: which are kept, which is best, and what a checkpoint of another network reports."""

import json
import shutil
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gcn_flax.training import checkpoint as checkpoint_lib
from gcn_flax.training.checkpoint import Checkpoints, DamagedCheckpoint, check_path, open_checkpoints
from gcn_flax.training.state import TrainState


def state(value, width=3):
  params = {"conv": {"kernel": jnp.full((2, width), float(value))}}
  opt_state = (params, {"count": jnp.int32(value)})
  return TrainState(jnp.int32(value), params, {"mean": jnp.zeros(2)}, opt_state, {"mean": jnp.arange(1, 4)}, ema={})


def target(width=3):
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state(0, width)
  )


def test_the_newest_and_the_best_are_kept(tmp_path):
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    for step, score in ((1, 0.2), (2, 0.7), (3, None), (4, float("nan")), (5, None), (6, 0.6)):
      if score is not None:
        checkpoints.metrics.set(step, score)
      checkpoints.save(step, state(step))
    checkpoints.wait()
    assert checkpoints.steps() == [2, 5, 6]
    assert (checkpoints.latest(), checkpoints.best()) == (6, 2)
  with Checkpoints(tmp_path, read_only=True) as checkpoints:
    assert (checkpoints.latest(), checkpoints.best(), checkpoints.metrics.get(6)) == (6, 2, 0.6)
    restored = checkpoints.restore(2, target())
    np.testing.assert_array_equal(restored.params["conv"]["kernel"], np.full((2, 3), 2.0))
    assert int(restored.step) == 2 and int(restored.opt_state[1]["count"]) == 2


def test_without_scores_the_newest_is_best(tmp_path):
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    assert checkpoints.latest() is None and checkpoints.best() is None
    checkpoints.save(1, state(1))
    checkpoints.save(2, state(2))
    checkpoints.wait()
    assert checkpoints.best() == 2


def test_a_metric_may_come_after_its_checkpoint_and_is_kept(tmp_path):
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    checkpoints.save(1, state(1))
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    checkpoints.metrics.set(1, 0.5)
    for step in (2, 3):
      checkpoints.save(step, state(step))
    checkpoints.wait()
    assert checkpoints.steps() == [1, 3] and checkpoints.best() == 1


def test_metrics_of_steps_yet_to_come_are_forgotten(tmp_path):
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    for step in (1, 2, 3):
      checkpoints.metrics.set(step, step / 10)
    checkpoints.metrics.forget_after(2)
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    assert [checkpoints.metrics.get(step) for step in (1, 2, 3)] == [0.1, 0.2, None]


def test_another_network_is_rejected_with_the_leaves_that_differ(tmp_path):
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    checkpoints.save(1, state(1))
    checkpoints.wait()
    with pytest.raises(ValueError, match=r"params/conv/kernel is \(2, 3\) in the checkpoint, \(2, 4\) here"):
      checkpoints.restore(1, target(width=4))
    other = target().replace(params={"conv": {"bias": jax.ShapeDtypeStruct((3,), jnp.float32)}})
    with pytest.raises(
      ValueError, match="params/conv/bias .* is not in the checkpoint; .*kernel .* only in the checkpoint"
    ):
      checkpoints.restore(1, other)
    with pytest.raises(ValueError, match="no checkpoint of step 7; there are: 1"):
      checkpoints.restore(7, target())


def test_a_checkpoint_that_is_half_removed_is_named(tmp_path):
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    checkpoints.save(1, state(1))
  shutil.rmtree(tmp_path / "1" / "state")
  with Checkpoints(tmp_path, keep=1) as checkpoints, pytest.raises(ValueError, match="1 is damaged: it is incomplete"):
    checkpoints.restore(1, target())


def files_of(folder):
  return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def test_a_flipped_bit_changes_nothing_or_is_noticed(tmp_path):
  """Anywhere in any file of a checkpoint. Numbers that cannot be packed: in packed ones a flip is noticed anyhow."""
  numbers = jnp.asarray(np.random.default_rng(1).normal(size=(2, 500)), jnp.float32)
  saved = state(1, width=500).replace(params={"conv": {"kernel": numbers}})
  with Checkpoints(tmp_path / "whole", keep=1) as checkpoints:
    checkpoints.save(1, saved)
  rng = np.random.default_rng(0)
  noticed = []
  files = files_of(tmp_path / "whole" / "1")
  sizes = np.array([path.stat().st_size for path in files])
  for trial, path in enumerate([*rng.choice(files, 30), *rng.choice(files, 30, p=sizes / sizes.sum())]):
    copy = tmp_path / f"copy{trial}"
    shutil.copytree(tmp_path / "whole", copy)
    flipped = copy / path.relative_to(tmp_path / "whole")
    data = bytearray(flipped.read_bytes())
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    flipped.write_bytes(data)
    with Checkpoints(copy, read_only=True) as checkpoints:
      try:
        restored = checkpoints.restore(1, target(width=500))
      except DamagedCheckpoint as error:
        assert f"{copy}/1 is damaged" in str(error)
        noticed.append(str(error))
        continue
    jax.tree.map(np.testing.assert_array_equal, restored, saved)
  assert len(noticed) >= 20
  assert sum("params/conv/kernel differ" in error for error in noticed) >= 5  # Which Orbax alone would have passed on.


@pytest.mark.parametrize("keep", [0, 0.5])
def test_a_file_that_is_cut_is_noticed(tmp_path, keep):
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    checkpoints.save(1, state(1, width=500))
  largest = max(files_of(tmp_path / "1"), key=lambda path: path.stat().st_size)
  largest.write_bytes(largest.read_bytes()[: int(keep * largest.stat().st_size)])
  with Checkpoints(tmp_path, keep=1) as checkpoints, pytest.raises(DamagedCheckpoint, match="1 is damaged"):
    checkpoints.restore(1, target(width=500))


def test_a_full_disk_is_told_in_the_systems_words(tmp_path, monkeypatch):
  """TensorStore's message, as it came from a disk of 20 MB."""
  message = "RESOURCE_EXHAUSTED: Failed to write 9 bytes to file 7: No space left on device [os_error_code='28']"

  def fail(*_, **__):
    raise ValueError(message)

  with Checkpoints(tmp_path, keep=1) as checkpoints:
    checkpoints.save(1, state(1))
    checkpoints.wait()
    monkeypatch.setattr(checkpoints._manager, "save", fail)
    expected = r"could not be written to .* \(No space left on device\); the newest whole checkpoint is of step 1. Make"
    with pytest.raises(OSError, match=expected):
      checkpoints.save(2, state(2))


def test_what_a_save_left_that_was_broken_off_is_removed(tmp_path):
  left = tmp_path / "7.orbax-checkpoint-tmp" / "state.orbax-checkpoint-tmp"
  left.mkdir(parents=True)
  with Checkpoints(tmp_path, read_only=True):
    assert left.exists()
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    assert not checkpoints.steps()
    until = time.monotonic() + 10  # It is done in the background.
    while left.parent.exists() and time.monotonic() < until:
      time.sleep(0.02)
  assert not left.parent.exists()


def test_what_is_set_aside_makes_room(tmp_path):
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    for step in (1, 2):
      checkpoints.save(step, state(step))
    checkpoints.wait()
    for number in range(2):
      assert checkpoints.set_aside(2) == tmp_path / "damaged" / f"2.{number}"
      assert checkpoints.steps() == [1]
      checkpoints.save(2, state(2))
      checkpoints.wait()
    assert checkpoints.steps() == [1, 2]


def test_a_checkpoint_without_digests_is_read(tmp_path):
  """Older versions wrote such checkpoints."""
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    checkpoints.save(1, state(1))
  shutil.rmtree(tmp_path / "1" / "digests")
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    assert int(checkpoints.restore(1, target()).step) == 1


def test_weights_alone_can_be_read(tmp_path):
  with Checkpoints(tmp_path / "checkpoints", keep=1) as checkpoints:
    checkpoints.save(4, state(4))
  with open_checkpoints(tmp_path) as checkpoints:
    weights = checkpoints.restore_weights(4, target().weights())
  np.testing.assert_array_equal(weights["params"]["conv"]["kernel"], np.full((2, 3), 4.0))
  np.testing.assert_array_equal(weights["batch_stats"]["mean"], np.zeros(2))
  np.testing.assert_array_equal(weights["normalization"]["mean"], [1, 2, 3])


def test_averages_are_read_in_place_of_the_weights(tmp_path):
  ema = {"params": {"conv": {"kernel": jnp.full((2, 3), 9.0)}}, "batch_stats": {"mean": jnp.ones(2)}}
  with Checkpoints(tmp_path / "checkpoints", keep=1) as checkpoints:
    checkpoints.save(4, state(4).replace(ema=ema))
  with open_checkpoints(tmp_path) as checkpoints:
    weights = checkpoints.restore_weights(4, target().weights())
    part = checkpoints.restore_weights(4, {"params": target().params})
  np.testing.assert_array_equal(weights["params"]["conv"]["kernel"], np.full((2, 3), 9.0))
  np.testing.assert_array_equal(weights["batch_stats"]["mean"], np.ones(2))
  np.testing.assert_array_equal(weights["normalization"]["mean"], [1, 2, 3])
  np.testing.assert_array_equal(part["params"]["conv"]["kernel"], np.full((2, 3), 9.0))


def test_a_workdir_without_checkpoints_is_named(tmp_path):
  with pytest.raises(ValueError, match="no checkpoint in"):
    open_checkpoints(tmp_path)


# As parts of a path: a pattern for Orbax, a slash for TensorStore, and what neither can encode.
@pytest.mark.parametrize("name", ["a[b]c", "a[b", "a*", "a?", "a\\b", "a\udcffb", "gs:"])
def test_paths_that_orbax_takes_for_others_are_refused(tmp_path, name):
  with pytest.raises(ValueError, match="cannot hold checkpoints. ") as caught:
    Checkpoints(tmp_path / name / "checkpoints")
  str(caught.value).encode()
  assert not list(tmp_path.iterdir())
  if name[1:2] in "[*?":  # A run that was moved there can be evaluated.
    check_path(tmp_path / name, read_only=True)
  else:
    with pytest.raises(ValueError, match="cannot hold checkpoints"):
      check_path(tmp_path / name, read_only=True)


def test_other_odd_paths_work(tmp_path):
  folder = tmp_path / "a%20b#c~ \u00e9$x{y}" / "-1;'\"&=,!@^<>|]:" / "\n ."
  with Checkpoints(folder, keep=1) as checkpoints:
    checkpoints.save(1, state(1))
  with Checkpoints(folder, read_only=True) as checkpoints:
    assert int(checkpoints.restore(1, target()).step) == 1


def test_the_first_save_is_read_back(tmp_path, monkeypatch):
  """Without the check of its path, Orbax finishes a save whose arrays are lost."""
  monkeypatch.setattr(checkpoint_lib, "check_path", lambda *_: None)
  with (
    Checkpoints(tmp_path / "a[b]", keep=1) as checkpoints,
    pytest.raises(OSError, match="1 is damaged: .* just saved"),
  ):
    checkpoints.save(1, state(1))


def edit_digests(folder, edit):
  path = folder / "1" / "digests" / "metadata"
  path.write_text(edit(json.loads(path.read_text())))


@pytest.mark.parametrize(
  "edit",
  [
    lambda digests: "", lambda digests: "{}", lambda digests: "null", lambda digests: "[",
    lambda digests: json.dumps({name: value for name, value in digests.items() if name != "params/conv/kernel"}),
    lambda digests: json.dumps({name: str(value) for name, value in digests.items()}),
  ],
  ids=["empty", "no entries", "null", "cut", "one missing", "texts"],
)  # fmt: skip
def test_damaged_digests_are_not_missing_ones(tmp_path, edit):
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    checkpoints.save(1, state(1))
  edit_digests(tmp_path, edit)
  with (
    Checkpoints(tmp_path, keep=1) as checkpoints,
    pytest.raises(DamagedCheckpoint, match=f"^{tmp_path}/1 is damaged"),
  ):
    checkpoints.restore(1, target())


@pytest.mark.parametrize("content", ["", "null", "[]", "5", '{"1": "x"}', '{"1": NaN}', '{"1": 0.5', None])
def test_damaged_metrics_are_kept_and_the_newest_is_best(tmp_path, caplog, content):
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    for step in (1, 2):
      checkpoints.save(step, state(step))
      checkpoints.metrics.set(step, 1 - step / 10)
  scores = tmp_path / "scores.json"
  scores.unlink() if content is None else scores.write_text(content)
  with Checkpoints(tmp_path, read_only=True) as checkpoints:
    assert checkpoints.best() == 2
  assert content is None or scores.read_text() == content
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    checkpoints.metrics.set(1, 0.9)
    assert checkpoints.best() == 1
  assert scores.read_text() == '{"1": 0.9}\n'
  assert content is None or (tmp_path / "scores.json.damaged").read_text() == content
  assert f"{scores}: {'missing' if content is None else 'damaged'}" in caplog.text


def test_an_empty_folder_is_no_checkpoint(tmp_path):
  """Orbax would save nothing before its step."""
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    checkpoints.save(1, state(1))
  (tmp_path / "999").mkdir()
  with Checkpoints(tmp_path, read_only=True) as checkpoints:
    assert checkpoints.steps() == [1]
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    checkpoints.save(2, state(2))
    checkpoints.wait()
    assert checkpoints.steps() == [2]
    (tmp_path / "999").mkdir()
    checkpoints._manager.reload()
    with pytest.raises(ValueError, match="holds a checkpoint of a later step, so that of step 3 is not saved"):
      checkpoints.save(3, state(3))


def test_a_step_whose_description_is_damaged_is_named(tmp_path):
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    checkpoints.save(1, state(1))
  path = tmp_path / "1" / "_CHECKPOINT_METADATA"
  for content in ("[" * 100_000, '{"init_timestamp_nsecs": [1]}'):
    path.write_text(content)
    with pytest.raises(ValueError, match=f"^{path}: damaged .*Move it elsewhere"):
      Checkpoints(tmp_path, keep=1)
  path.unlink()
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    assert int(checkpoints.restore(1, target()).step) == 1


def test_a_damaged_checkpoint_is_one_error(tmp_path, monkeypatch):
  """TensorStore printed a traceback for each array that was still being read when the first had failed."""
  rng = np.random.default_rng(0)
  arrays = {f"{index}": jnp.asarray(rng.normal(size=20_000), jnp.float32) for index in range(200)}
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    checkpoints.save(1, arrays)
  largest = max((tmp_path / "1" / "state" / "ocdbt.process_0" / "d").iterdir(), key=lambda path: path.stat().st_size)
  data = np.fromfile(largest, np.uint8)
  data[: data.size // 10 : 97] ^= 255
  data.tofile(largest)
  wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), arrays)
  printed = []
  monkeypatch.setattr(sys, "unraisablehook", printed.append)
  with Checkpoints(tmp_path, read_only=True) as checkpoints, pytest.raises(DamagedCheckpoint):
    checkpoints.restore(1, wanted)
  time.sleep(0.2)  # The reads that go on.
  assert not printed
