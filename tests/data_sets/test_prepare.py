"""Preparation writes what it was given, once, or nothing; sources give it back as train ids."""

import os
import shutil
import zipfile

import cv2
import numpy as np
import pytest

from configs import cityscapes as cityscapes_recipe
from data.prepare import main, prepare
from data.shapes.scene import draw_scene
from gcn_flax import build
from gcn_flax.input_pipeline.sources import open_source, split_sizes
from gcn_flax.labels import CITYSCAPES
from tests.conftest import write_street


def by_id(source):
  return {example["image_id"]: example for example in source}


def test_a_source_gives_back_images_and_masks(street, data_dir):
  examples = by_id(open_source("camvid", "validation", data_dir))
  assert sorted(examples) == [f"val{index}" for index in range(5)]
  for name, example in examples.items():
    image = cv2.imread(str(street / "images/val" / f"{name}.png"))[..., ::-1]
    mask = cv2.imread(str(street / "masks/val" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
    assert example["image"].dtype == example["label"].dtype == np.uint8
    np.testing.assert_array_equal(example["image"], image)
    np.testing.assert_array_equal(example["label"], mask)
  source = open_source("camvid", "validation", data_dir)
  assert len(list(source)) == 5 and source[-1]["image_id"] == source[4]["image_id"]
  assert split_sizes("camvid", data_dir) == {"train": 12, "validation": 5}


def test_preparing_again_changes_nothing(street, data_dir, capsys):
  before = {path: os.stat(path).st_mtime_ns for path in _files(data_dir)}
  prepare("camvid", str(street), data_dir, partial=True)
  assert before == {path: os.stat(path).st_mtime_ns for path in _files(data_dir)}
  output = capsys.readouterr().out
  assert "is there already" in output and "PARTIAL: published are 367" in output


def _files(folder):
  return [os.path.join(root, name) for root, _, names in os.walk(folder) for name in names]


def test_other_counts_than_published_stop_unless_partial(street, tmp_path, capsys):
  arguments = ["--dataset=camvid", f"--manual_dir={street}", f"--data_dir={tmp_path / 'data'}"]
  assert main(arguments) == 1
  error = capsys.readouterr().err
  assert error.startswith("error: ") and error.count("\n") == 1
  assert "train 12 instead of 367, validation 5 instead of 101" in error and "--partial" in error
  assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
  "fault, message",
  [
    (lambda root: (root / "masks/val/val3.png").unlink(), "val3.png has no mask"),
    (lambda root: (root / "images/val/val3.png").unlink(), "val3.png has no image"),
    (lambda root: (root / "images/train/train0.png").write_bytes(b"no picture"), "train0.png cannot be read"),
    (
      lambda root: cv2.imwrite(str(root / "masks/train/train1.png"), np.full((64, 96), 11, np.uint8)),
      r"train1.png holds the values \[11\], not 0 to 10 or 255",
    ),
    (
      lambda root: cv2.imwrite(str(root / "masks/train/train1.png"), np.zeros((64, 95), np.uint8)),
      r"train1.png is \(64, 95\), its image \(64, 96\)",
    ),
    (
      lambda root: cv2.imwrite(str(root / "masks/train/train1.png"), np.zeros((64, 96, 3), np.uint8)),
      "train1.png is no 8-bit single-channel PNG",
    ),
    (lambda root: shutil.rmtree(root / "images/val"), "no images in"),
  ],
)
def test_faulty_files_are_named_and_nothing_is_written(tmp_path, fault, message):
  root = tmp_path / "street"
  write_street(root, "train", 3, seed=1)
  write_street(root, "val", 4, seed=2)
  fault(root)
  with pytest.raises(ValueError, match=message):
    prepare("camvid", str(root), str(tmp_path / "data"), partial=True)
  assert not (tmp_path / "data").exists()


def test_every_fault_is_listed(tmp_path):
  write_street(tmp_path, "train", 3, seed=1)
  write_street(tmp_path, "val", 1, seed=2)
  for index in range(3):
    (tmp_path / f"images/train/train{index}.png").write_bytes(b"")
  with pytest.raises(ValueError, match=r"train0.png .*train1.png .*train2.png"):
    prepare("camvid", str(tmp_path), str(tmp_path / "data"), partial=True)


def test_what_is_not_prepared_is_said_with_the_command(tmp_path):
  with pytest.raises(ValueError, match="not prepared .* run: python -m data.prepare --dataset=camvid"):
    open_source("camvid", "train", str(tmp_path))
  with pytest.raises(ValueError, match="'voc' is unknown; choose one of"):
    open_source("voc", "train", str(tmp_path))


def test_an_unknown_split_is_refused(data_dir):
  with pytest.raises(ValueError, match="no split 'val'; choose one of train, validation"):
    open_source("camvid", "val", data_dir)


def test_scenes_are_the_same_everywhere_and_hold_one_class():
  for seed in range(20):
    image, label = draw_scene(np.random.default_rng(seed))
    again, label_again = draw_scene(np.random.default_rng(seed))
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(label, label_again)
    values = set(np.unique(label).tolist())
    assert image.shape == (256, 256, 3) and label.shape == (256, 256)
    assert {0, 255} < values and len(values) == 3 and max(values - {255}) <= 4


def test_void_lies_between_bar_and_background():
  """No background pixel touches a pixel of the bar."""
  _, label = draw_scene(np.random.default_rng(0))
  bar = ((label > 0) & (label < 255)).astype(np.uint8)
  touched = cv2.dilate(bar, np.ones((3, 3), np.uint8)) > 0
  assert not (touched & (label == 0)).any()


@pytest.fixture(scope="module")
def cityscapes(tmp_path_factory):
  return write_cityscapes(tmp_path_factory.mktemp("archives"))


def write_cityscapes(root):
  """The two archives with three images of 1024 x 2048 whose raw ids run through all of 0 to 33."""
  ids = np.repeat(np.repeat(np.arange(32).reshape(4, 8) + 2, 256, 0), 256, 1).astype(np.uint8)
  ids[:10], ids[10:20] = 0, 1
  mask = cv2.imencode(".png", ids)[1].tobytes()
  image = cv2.imencode(".png", np.stack([ids * 7] * 3, -1))[1].tobytes()
  names = [f"{split}/aachen/aachen_00000{split_id}_000019" for split_id, split in enumerate(("train", "val", "test"))]
  with zipfile.ZipFile(root / "leftImg8bit_trainvaltest.zip", "w") as archive:
    for name in names:
      archive.writestr(f"leftImg8bit/{name}_leftImg8bit.png", image)
  with zipfile.ZipFile(root / "gtFine_trainvaltest.zip", "w") as archive:
    for name in names:
      archive.writestr(f"gtFine/{name}_gtFine_labelIds.png", mask)
  return root


@pytest.fixture(scope="module")
def cityscapes_data(cityscapes, tmp_path_factory):
  target = str(tmp_path_factory.mktemp("cityscapes"))
  prepare("cityscapes", str(cityscapes), target, partial=True)
  return target


def test_cityscapes_raw_ids_become_train_ids(cityscapes_data):
  """Against cityscapesScripts' own table."""
  helpers = pytest.importorskip("cityscapesscripts.helpers.labels")
  raw = np.repeat(np.repeat(np.arange(32).reshape(4, 8) + 2, 256, 0), 256, 1)
  raw[:10], raw[10:20] = 0, 1
  official = np.array([helpers.id2label[value].trainId for value in range(34)])
  example = open_source("cityscapes", "train", cityscapes_data)[0]
  np.testing.assert_array_equal(example["label"], official[raw])
  assert example["image_id"] == "aachen_000000_000019"
  names = [helpers.trainId2label[index].name for index in range(19)]
  colours = [tuple(helpers.trainId2label[index].color) for index in range(19)]
  assert list(CITYSCAPES.classes) == names and list(CITYSCAPES.palette) == colours


def test_cityscapes_test_has_images_but_no_labels_to_score(cityscapes_data):
  assert "label" not in open_source("cityscapes", "test", cityscapes_data)[0]
  config = cityscapes_recipe.get_config()
  config.data.data_dir = cityscapes_data
  with pytest.raises(ValueError, match="cityscapes 'test' has no true labels"):
    build.open_split(config, "test")


def test_cityscapes_archives_are_counted_before_anything_is_unpacked(cityscapes, tmp_path):
  with pytest.raises(ValueError, match="train 1 instead of 2975, validation 1 instead of 500, test 1 instead of 1525"):
    prepare("cityscapes", str(cityscapes), str(tmp_path / "data"))
  with pytest.raises(ValueError, match="gtFine_trainvaltest.zip not found"):
    (tmp_path / "leftImg8bit_trainvaltest.zip").write_bytes(b"")
    prepare("cityscapes", str(tmp_path), str(tmp_path / "data"))
  assert not (tmp_path / "data").exists()
