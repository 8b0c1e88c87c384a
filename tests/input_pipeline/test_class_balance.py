"""Class-balanced sampling: its statistics, exact resume, and the classes that are read from the labels."""

import json
import logging

import numpy as np
import pytest

from data.prepare import prepare
from gcn_flax.input_pipeline import class_balance, loader
from gcn_flax.input_pipeline.class_balance import ClassBalancedSampler
from gcn_flax.input_pipeline.datasets import Dataset
from gcn_flax.run_data import RunData
from tests.conftest import write_street

# Two sources of 60 and 40 images: class 0 is in all of them, 1 in 25, 2 in none, 3 in 4 of the second source.
PRESENCE = [np.zeros((60, 4), bool), np.zeros((40, 4), bool)]
for rows in PRESENCE:
  rows[:, 0] = True
PRESENCE[0][:25, 1] = PRESENCE[1][[3, 8, 20, 39], 3] = True


def sampler(share, seed=0, weights=None):
  return ClassBalancedSampler(loader.MixtureSampler([60, 40], weights, seed), PRESENCE, share, seed)


def drawn(sequence, first, last):
  return [sequence[position] for position in range(first, last)]


def test_rare_classes_are_drawn_by_the_root_of_their_frequency():
  """Images of one class are drawn alike. 100, 25 and 4 images: the weights of the classes are as 0.1 to 0.2 to 0.5."""
  examples = drawn(sampler(1.0), 0, 20_000)
  counts = [np.zeros(60), np.zeros(40)]
  for source, index in examples:
    counts[source][index] += 1
  probabilities = np.array([0.1, 0.2, 0.5]) / 0.8
  expected = [rows[:, 0] * probabilities[0] / 100 for rows in PRESENCE]
  expected[0][:25] += probabilities[1] / 25
  expected[1][[3, 8, 20, 39]] += probabilities[2] / 4
  for found, probability in zip(counts, expected, strict=True):
    assert np.abs(found - 20_000 * probability).max() < 5 * np.sqrt(20_000 * probability.max())
    np.testing.assert_allclose(found.sum(), 20_000 * probability.sum(), rtol=0.03)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.3, 0.5, 0.9])
def test_the_other_images_still_come_once_per_epoch_and_every_batch_has_its_share(share):
  balanced, plain = sampler(share), loader.MixtureSampler([60, 40], None, 0)
  kinds, others = [], []
  for position in range(1_000):
    by_class = int((position + 1) * share) > int(position * share)
    kinds.append(by_class)
    if not by_class:
      others.append(balanced[position])
  assert others == drawn(plain, 0, len(others)) and sum(kinds) == int(1_000 * share)
  batches = np.reshape(kinds, (-1, 20)).sum(1)
  assert np.abs(batches - 20 * share).max() < 1


def test_it_starts_anywhere_and_depends_on_the_seed():
  whole = drawn(sampler(0.5, seed=3), 0, 200)
  again = sampler(0.5, seed=3)
  assert [again[position] for position in (199, 7, 120)] == [whole[199], whole[7], whole[120]]
  whole, other = (drawn(sampler(1.0, seed=seed), 0, 200) for seed in (3, 4))
  assert other != whole and other[1:] != whole[:-1] and other[:-1] != whole[1:]


def test_void_alone_cannot_be_balanced():
  with pytest.raises(ValueError, match="config.data.class_balance: no training image has a class.* Set it to 0"):
    ClassBalancedSampler([], [np.zeros((3, 4), bool)], 0.5, 0)


@pytest.fixture
def prepared(tmp_path):
  """The data directory of a small data set of the user's."""
  write_street(tmp_path / "mine", "train", 6, seed=0)
  write_street(tmp_path / "mine", "val", 2, seed=1)
  (tmp_path / "mine/classes.txt").write_text("\n".join(f"class {number}" for number in range(11)))
  prepare("folder", str(tmp_path / "mine"), str(tmp_path / "data"))
  return str(tmp_path / "data")


def true_presence(source):
  return np.array([np.isin(np.arange(11), source[index]["label"]) for index in range(len(source))])


def test_classes_are_read_from_the_labels_once(prepared, caplog):
  caplog.set_level(logging.INFO, "gcn_flax")
  dataset = Dataset("folder", prepared)
  presence, expected = dataset.class_presence("train"), true_presence(dataset.source("train"))
  np.testing.assert_array_equal(presence, expected)
  assert expected.any() and "reading the labels of folder 'train', 0 of 6" in caplog.text
  caplog.clear()
  np.testing.assert_array_equal(Dataset("folder", prepared).class_presence("train"), expected)
  assert "reading the labels" not in caplog.text


@pytest.mark.parametrize("content", ["", "[[0]]", "[[11], [], [], [], [], []]", "{}"])
def test_a_damaged_file_of_classes_is_replaced(prepared, caplog, content):
  dataset = Dataset("folder", prepared)
  path = dataset._folder / "class_presence_train.json"
  path.write_text(content)
  expected = true_presence(dataset.source("train"))
  np.testing.assert_array_equal(dataset.class_presence("train"), expected)
  assert f"WARNING: {path}: damaged (" in caplog.text
  assert len(json.loads(path.read_text())) == 6


def test_a_folder_that_cannot_be_written_and_damaged_labels_are_no_obstacle(prepared, monkeypatch, caplog):
  caplog.set_level(logging.INFO, "gcn_flax")
  dataset = Dataset("folder", prepared)
  expected = true_presence(dataset.source("train"))

  def fail(*_):
    raise OSError("read-only file system")

  monkeypatch.setattr(class_balance.files, "write", fail)
  np.testing.assert_array_equal(dataset.class_presence("train"), expected)
  assert "could not be written (read-only file system)" in caplog.text
  monkeypatch.undo()

  source = dataset.source("train")
  original = type(source).label

  def label(self, index):
    if index == 2:
      raise class_balance.CorruptExample("example 2 is damaged")
    return original(self, index)

  monkeypatch.setattr(type(source), "label", label)
  expected[2] = False
  np.testing.assert_array_equal(dataset.class_presence("train"), expected)
  assert "WARNING: example 2 is damaged" in caplog.text
  assert not (dataset._folder / "class_presence_train.json").exists()


def test_the_config_switches_it_on_and_batches_resume(config):
  """Batches from step 2 on are those of a run that began at step 0."""
  plain = RunData(config).train_sampler()
  config.data.class_balance = 0.5
  data = RunData(config)
  assert isinstance(plain, loader.MixtureSampler) and isinstance(data.train_sampler(), ClassBalancedSampler)
  whole, resumed = (list(data.train_batches(step)) for step in (0, 2))
  assert [list(batch["image_id"]) for batch in resumed] == [list(batch["image_id"]) for batch in whole[2:]]
  for one, other in zip(resumed, whole[2:], strict=True):
    np.testing.assert_array_equal(one["image"], other["image"])
