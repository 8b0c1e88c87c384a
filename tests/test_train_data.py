"""A run continues only with the data it was begun with, and its metrics say which examples are missing."""

import json
import logging
import shutil

import pytest
import tensorflow_datasets as tfds

from configs import folder as folder_recipe
from data.prepare import prepare
from gcn_flax import evaluate, train
from gcn_flax.labels import CAMVID
from gcn_flax.planning import plan
from gcn_flax.preflight import preflight
from gcn_flax.run_data import RunData
from gcn_flax.workdir import crop_size
from gcn_flax.workdir.workdir import Workdir
from tests.conftest import write_street

pytestmark = pytest.mark.usefixtures("fast_runs")

CLASSES = [f"class {number}" for number in range(11)]


def write_folder(root, data_dir, classes=CLASSES, seed=1):
  """Prepares the tiny street data set as a user's own folder."""
  write_street(root, "train", 8, seed=seed)
  write_street(root, "val", 2, seed=seed + 1)
  (root / "classes.txt").write_text("\n".join(classes))
  shutil.rmtree(data_dir, ignore_errors=True)
  prepare("folder", str(root), str(data_dir))


@pytest.fixture
def own(tmp_path):
  """A config of two steps on a folder, and its workdir."""
  write_folder(tmp_path / "mine", tmp_path / "data")
  config = folder_recipe.get_config("resnet_tiny")
  config.total_steps = 2
  config.data.data_dir = str(tmp_path / "data")
  config.data.crop_size = (64, 64)
  config.data.eval_size = (64, 96)
  config.model.kernel_size = 3
  return config


def check(config, tmp_path):
  return preflight(config, Workdir(tmp_path / "run"), training=True, split=config.data.eval_split)


def test_a_run_opens_its_data_set_once(own, tmp_path, monkeypatch):
  opened, original = [], tfds.builder_from_directory
  monkeypatch.setattr(tfds, "builder_from_directory", lambda path: opened.append(path) or original(path))
  train.run(own, tmp_path / "run")
  assert len(opened) == 1


@pytest.mark.slow
def test_other_files_are_refused_by_a_resume(own, tmp_path):
  train.run(own, tmp_path / "run")
  own.total_steps = 3
  write_folder(tmp_path / "mine", tmp_path / "data", seed=5)
  with pytest.raises(ValueError, match="folder train in .* is not what the workdir was begun with .*digest"):
    train.run(own, tmp_path / "run")
  write_folder(tmp_path / "mine", tmp_path / "data")
  train.run(own, tmp_path / "run")


def test_other_classes_of_the_same_number_are_refused(own, tmp_path):
  train.run(own, tmp_path / "run")
  write_folder(tmp_path / "mine", tmp_path / "data", classes=CLASSES[::-1])
  message = "run was trained with the classes class 0, .* but folder in .* has class 10, "
  with pytest.raises(ValueError, match=message):
    evaluate.run(own, tmp_path / "run")
  own.init_from = str(tmp_path / "run")
  with pytest.raises(ValueError, match=message):
    train.run(own, tmp_path / "other")


@pytest.mark.slow
def test_missing_examples_of_the_initial_weights_are_reported_by_the_next_run(own, config, tmp_path):
  """The street data set, called camvid, is partial; the folder with the same classes is complete."""
  write_folder(tmp_path / "mine", tmp_path / "data", classes=CAMVID.classes)
  config.total_steps = 2
  train.run(config, tmp_path / "first")
  own.init_from = str(tmp_path / "first")
  own.total_steps = 1
  train.run(own, tmp_path / "second")
  lacks = ["train 12 instead of 367", "validation 5 instead of 101"]
  for kind in ("run.json", "eval_validation.json"):
    assert json.loads((tmp_path / "second" / kind).read_text())["partial"] == {"camvid": lacks}


def test_a_mix_of_other_classes_is_refused(own, data_dir, tmp_path):
  shutil.copytree(f"{data_dir}/camvid", tmp_path / "data/camvid")
  own.data.train_mix = (("folder", "train", 1), ("camvid", "train", 1))
  with pytest.raises(ValueError, match="camvid has other classes than config.data.dataset='folder'"):
    check(own, tmp_path)


def test_images_twice_in_the_mix_are_refused_and_scored_ones_are_warned_of(own, caplog, tmp_path):
  own.data.train_mix = (("folder", "train", 1), ("folder", "train", 2))
  with pytest.raises(ValueError, match="has the images of folder 'train' more than once"):
    check(own, tmp_path)
  logging.getLogger("gcn_flax").propagate = True
  own.data.train_mix = (("folder", "train", 1), ("folder", "validation", 2))
  check(own, tmp_path)
  assert "config.data.eval_split='validation' overlaps the training data" in caplog.text


def test_images_larger_than_the_padding_are_refused_before_the_first_step(own, tmp_path):
  own.data.random_scale = own.data.random_crop = False
  with pytest.raises(
    ValueError, match=r"crop_size=\(64, 64\): folder 'train' has images of up to 64 x 96. Raise it to \(64, 96\) or set"
  ):
    check(own, tmp_path)


@pytest.mark.parametrize(
  "crop, fields, warned",
  [
    ((64, 96), {}, False),
    ((64, 128), {}, True),
    ((96, 64), {}, True),
    ((96, 64), {"random_scale": True}, False),
    ((96, 64), {"eval_size": (96, 128)}, False),
  ],
)
def test_padding_of_all_training_images_is_warned_of(own, caplog, tmp_path, crop, fields, warned):
  """Images have 64 x 96 pixels; with a random scale some are padded in any case."""
  logging.getLogger("gcn_flax").propagate = True
  own.data.update({"random_scale": False, "crop_size": crop, "eval_size": (), **fields})
  check(own, tmp_path)
  assert ("padded in training, but not in evaluation. Use --config.data.crop_size='(64, " in caplog.text) == warned


def first_epoch(config):
  """Returns (split, True if the picture is unchanged) of the ten examples of an epoch, found by their labels."""
  config.batch_size, config.total_steps = 2, 5
  config.data.crop_size = (64, 96)
  config.data.random_scale = config.data.random_crop = config.data.random_flip = False
  data = RunData(config)
  sources = data.train_sources()
  stored = {example["label"].tobytes(): (source.split, example["image"]) for source in sources for example in source}
  found = []
  for batch in data.train_batches(0):
    for image, label in zip(batch["image"], batch["label"], strict=True):
      split, original = stored[label.tobytes()]
      found.append((split, bool((image == original).all())))
  return found


def test_weights_and_colours_of_the_config_reach_the_batches(own):
  own.data.color_jitter = 0.0
  own.data.train_mix = (("folder", "train", "all once"), ("folder", "validation", "all once"))
  assert sorted(first_epoch(own)) == [("train", True)] * 8 + [("validation", True)] * 2
  own.data.train_mix = (("folder", "train", 1), ("folder", "validation", 4))
  assert sorted(first_epoch(own)) == [("train", True)] * 2 + [("validation", True)] * 8
  own.data.color_jitter = 0.4
  assert not any(as_stored for _, as_stored in first_epoch(own))


def stored_crop(workdir):
  return json.loads((workdir / "config.json").read_text())["data"]["crop_size"]


@pytest.mark.slow
def test_the_recipe_takes_its_crop_from_the_images_and_a_resume_keeps_it(own, tmp_path, caplog, monkeypatch):
  logging.getLogger("gcn_flax").propagate = True
  caplog.set_level("INFO", "gcn_flax")
  own.data.crop_size = folder_recipe.get_config().data.crop_size
  train.run(own, tmp_path / "run")
  assert stored_crop(tmp_path / "run") == [64, 96] and own.data.crop_size == ()
  assert "config.data.crop_size=(64, 96), chosen from 8 training images, median 64 x 96." in caplog.text
  monkeypatch.setattr(crop_size, "crop_of", lambda *_: (32, 32))  # As another version may choose.
  own.total_steps = 3
  train.run(own, tmp_path / "run")
  assert stored_crop(tmp_path / "run") == [64, 96]
  own.data.crop_size = (64, 64)
  with pytest.raises(ValueError, match=r"config.data.crop_size was \[64, 96\], is \[64, 64\]"):
    train.run(own, tmp_path / "run")


def test_the_chosen_crop_fits_the_mesh_and_holds_whole_images(own, tmp_path):
  own.data.crop_size = ()
  own.mesh.spatial = 3  # Rows come in multiples of 96.
  assert crop_size.with_crop_size(own, Workdir(tmp_path), RunData(own)).data.crop_size == (96, 96)
  own.mesh.spatial, own.data.random_scale, own.data.random_crop = 1, False, False
  assert crop_size.with_crop_size(own, Workdir(tmp_path), RunData(own)).data.crop_size == (64, 96)


def test_a_plan_chooses_the_crop_too(own, tmp_path, capsys):
  own.data.crop_size = ()
  plan.run(own, tmp_path / "plan", "h100:1")
  assert "64 x 96" in capsys.readouterr().out
