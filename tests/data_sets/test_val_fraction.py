"""`--val_fraction` keeps images of train for validation: the same ones every time, and none in both splits."""

import json
import shutil

import numpy as np
import pytest

from data.prepare import main, prepare
from gcn_flax.input_pipeline.datasets import Dataset, dataset_folder
from tests.data_sets.archives import picture, png
from tests.data_sets.checks import error_lines, faults
from tests.data_sets.folders import SHAPE, write_files, write_folder

NAMES = [f"frame {number}" for number in range(10)]


def write_flat(root, names=NAMES, images="images", masks="masks"):
  """Writes images and masks of two classes, with nothing that says which are for validation."""
  files = {"classes.txt": b"floor\nthing"}
  for index, name in enumerate(names):
    rng = np.random.default_rng(index)
    files[f"{images}/{name}.png"] = png(picture(rng, SHAPE))
    files[f"{masks}/{name}.png"] = png(rng.integers(0, 2, SHAPE).astype(np.uint8))
  return write_files(root, files)


def ids(data_dir):
  opened = Dataset("folder", str(data_dir))
  return {split: sorted(example["image_id"] for example in opened.source(split)) for split in opened.splits}


@pytest.mark.parametrize("images, masks", [("images", "masks"), ("images/train", "masks/train")])
def test_a_fraction_of_the_images_becomes_validation(tmp_path, images, masks, capsys):
  prepare("folder", str(write_flat(tmp_path / "mine", NAMES, images, masks)), str(tmp_path / "data"), val_fraction=0.3)
  found = ids(tmp_path / "data")
  assert {split: len(names) for split, names in found.items()} == {"train": 7, "validation": 3}
  assert sorted(found["train"] + found["validation"]) == NAMES
  assert found["validation"] not in (NAMES[:3], NAMES[-3:]), "neighbours may look alike"
  assert "3 of 10 images of train are kept for validation" in capsys.readouterr().out


def test_the_choice_depends_on_the_names_alone_and_changes_little_with_more_images(tmp_path):
  prepare("folder", str(write_flat(tmp_path / "mine")), str(tmp_path / "data"), val_fraction=0.3)
  write_flat(tmp_path / "other", NAMES[::-1])
  prepare("folder", str(tmp_path / "other"), str(tmp_path / "again"), val_fraction=0.3)
  assert ids(tmp_path / "data") == ids(tmp_path / "again")
  prepare("folder", str(write_flat(tmp_path / "more", [*NAMES, "new"])), str(tmp_path / "larger"), val_fraction=0.3)
  before, after = (set(ids(tmp_path / name)["validation"]) for name in ("data", "larger"))
  assert len(before - after) <= 1


@pytest.mark.parametrize("fraction, count", [(0.01, 1), (0.99, 9), (0.5, 5)])
def test_each_split_has_an_image(tmp_path, fraction, count):
  prepare("folder", str(write_flat(tmp_path / "mine")), str(tmp_path / "data"), val_fraction=fraction)
  assert len(ids(tmp_path / "data")["validation"]) == count


def test_other_splits_stay_as_they_are(tmp_path):
  root = write_flat(tmp_path / "mine", NAMES, "images/train", "masks/train")
  write_files(root, {"images/test/unseen.png": png(picture(np.random.default_rng(99), SHAPE))})
  prepare("folder", str(root), str(tmp_path / "data"), val_fraction=0.2)
  assert Dataset("folder", str(tmp_path / "data")).splits == {"train": 8, "validation": 2, "test": 1}


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_folders_of_validation_images_have_three_names_and_are_not_split_again(tmp_path, capfd, name):
  root = write_folder(tmp_path / "mine")
  for kind in ("images", "masks"):
    (root / kind / "val").rename(root / kind / name)
  assert faults(capfd, "folder", root, tmp_path / "data", "--val_fraction=0.2") == [
    f"--val_fraction=0.2: the validation images are in {root}/images/{name}. Leave out --val_fraction to use them, or "
    f"move images and masks to {root}/images/train and {root}/masks/train."
  ]
  prepare("folder", str(root), str(tmp_path / "data"))
  assert Dataset("folder", str(tmp_path / "data")).splits == {"train": 3, "validation": 2}


def test_without_the_flag_images_without_splits_are_reported_with_it(tmp_path, capfd):
  root = write_flat(tmp_path / "mine")
  (line,) = faults(capfd, "folder", root, tmp_path / "data")
  assert line == f"{root}/images has no folder val. Make one, or keep a fifth of train for it with --val_fraction=0.2."


def test_a_copy_in_both_splits_is_reported(tmp_path, capfd):
  """Beside each other in one folder; copies within a split are accepted."""
  prepare("folder", str(write_flat(tmp_path / "mine")), str(tmp_path / "data"), val_fraction=0.3)
  found = ids(tmp_path / "data")
  one, other = found["train"][0], found["validation"][0]
  root = tmp_path / "mine/images"
  shutil.copy(root / f"{found['train'][1]}.png", root / f"{one}.png")
  prepare("folder", str(tmp_path / "mine"), str(tmp_path / "accepted"), val_fraction=0.3)
  shutil.copy(root / f"{other}.png", root / f"{one}.png")
  (line,) = faults(capfd, "folder", tmp_path / "mine", tmp_path / "refused", "--val_fraction=0.3")
  assert "is the same image as" in line and f"{one}.png" in line and f"{other}.png" in line


def test_the_fraction_is_recorded_and_another_one_is_refused(tmp_path, capfd):
  arguments = [
    "--dataset=folder", f"--manual_dir={write_flat(tmp_path / 'mine')}", f"--data_dir={tmp_path / 'data'}"
  ]  # fmt: skip
  assert main([*arguments, "--val_fraction=0.3"]) == 0
  (version,) = dataset_folder("folder", str(tmp_path / "data")).glob("*.*.*")
  assert json.loads((version / "metadata.json").read_text())["val_fraction"] == 0.3
  before = ids(tmp_path / "data")
  assert main([*arguments, "--val_fraction=0.3"]) == main(arguments) == 0 and ids(tmp_path / "data") == before
  capfd.readouterr()
  assert main([*arguments, "--val_fraction=0.2"]) == 1
  (line,) = error_lines(capfd.readouterr().err)
  assert line.startswith(f"--val_fraction=0.2: {version} was prepared with 0.3. Remove that folder, or use another")


@pytest.mark.parametrize("fraction", ["0", "1", "-0.1", "nan", "20"])
def test_other_fractions_are_refused(tmp_path, capfd, fraction):
  (line,) = faults(capfd, "folder", write_flat(tmp_path / "mine"), tmp_path / "data", f"--val_fraction={fraction}")
  assert line == f"--val_fraction={float(fraction)}: must be above 0 and below 1. Use for instance 0.2."


def test_a_single_image_and_other_data_sets_are_refused(tmp_path, capfd):
  root = write_flat(tmp_path / "mine", NAMES[:1])
  (line,) = faults(capfd, "folder", root, tmp_path / "data", "--val_fraction=0.2")
  assert line == f"--val_fraction=0.2: {root}/images has only one image. Add images."
  for dataset in ("camvid", "shapes"):
    (line,) = faults(capfd, dataset, root, tmp_path / "data", "--val_fraction=0.2")
    assert line == f"--val_fraction=0.2: {dataset} has splits of its own. Leave it out."
