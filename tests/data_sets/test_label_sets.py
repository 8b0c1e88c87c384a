"""Preparation looks at all masks together: shares of classes, palettes, void, and files that only look like masks."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from data.prepare import main, prepare
from gcn_flax.input_pipeline.datasets import dataset_folder, open_source
from tests.conftest import write_street
from tests.data_sets.archives import blocks, jpeg, picture, png
from tests.data_sets.checks import by_id, error_lines, faults
from tests.data_sets.folders import SHAPE, write_files, write_folder

COLOURS = np.array([(0, 0, 0), (0, 200, 0), (200, 0, 0)], np.uint8)
COLOUR_LIST = "background = 0,0,0\ntree = 0,200,0\ncar = 200,0,0"
NAMES = "background\ntree\ncar"
MASKS = [f"masks/{split}/{name}.png" for split, names in (("train", "abc"), ("val", "de")) for name in names]


def write(root, encode, values=(0, 1, 2), classes=NAMES):
  """Writes a folder whose masks are `encode(values, number)`; returns the values by name of the mask."""
  write_folder(root, classes=classes)
  rng = np.random.default_rng(4)
  stored = {name: blocks(rng, SHAPE, values) for name in MASKS}
  write_files(root, {name: encode(mask, number) for number, (name, mask) in enumerate(stored.items())})
  return stored


def output(capfd, root, dataset="folder"):
  assert main([f"--dataset={dataset}", f"--manual_dir={root}", f"--data_dir={root}/data", "--partial"]) == 0
  return capfd.readouterr().out.splitlines()


def labels(root):
  """Returns image id -> label of the prepared data set."""
  splits = ("train", "validation")
  return {
    name: example["label"]
    for split in splits
    for name, example in by_id(open_source("folder", split, f"{root}/data")).items()
  }


def test_preparation_ends_with_the_shares_of_all_classes(tmp_path, capfd):
  stored = write(tmp_path, lambda mask, _: png(mask), values=(0, 1, 1, 1, 2, 255))
  lines = output(capfd, tmp_path)
  rows = {line.split()[0]: line.split()[1:] for line in lines[-4:]}
  assert lines[-6].split() == ["train", "validation"] and lines[-5].split() == ["class", *["pixels", "%", "images"] * 2]
  for name, value in (("background", 0), ("tree", 1), ("car", 2), ("void", 255)):
    train, val = (
      np.stack([mask for path, mask in stored.items() if split in path]) == value for split in ("train", "val")
    )
    assert rows[name] == [f"{100 * train.mean():.3f}", "3", f"{100 * val.mean():.3f}", "2"]
  assert output(capfd, tmp_path)[-5:] == lines[-5:], "the same for a data set that is already prepared"


def test_a_binary_mask_whose_class_is_void_is_noticed(tmp_path, capfd):
  write(tmp_path, lambda mask, _: png(mask), values=(0, 255), classes="background\ncell")
  lines = output(capfd, tmp_path)
  assert lines[-2] == "WARNING: class 'cell' never occurs in train"
  assert "The value 255 occurs in 3 masks of train and is void" in lines[-1]
  assert "write in classes.txt: background = 0, cell = 255 (each on a line of its own)" in lines[-1]
  (row,) = [line for line in lines if line.startswith("  cell")]
  assert row.endswith("NEVER OCCURS in train, validation")
  assert output(capfd, tmp_path)[-2:] == lines[-2:]
  (tmp_path / "classes.txt").write_text("background = 0\ncell = 255\n")
  prepare("folder", str(tmp_path), str(tmp_path / "other"))
  assert "WARNING" not in capfd.readouterr().out


@pytest.mark.parametrize(
  "values, classes, cause",
  [
    ((1, 2), NAMES, "value 0. If numbering starts at 1, write in classes.txt: background = 1, tree = 2, car = 3 (each"),
    ((0, 1), NAMES, "value 2. If another one stands for car, write it in classes.txt, as car = VALUE, and the values"),
    ((0, 1), "background = 0\ntree = 1\ncar = 26 27", "No mask of train contains the value 26 27. If another one"),
    ((0, 255), "sky\nroad\ncar\nbus\nman", "255 occurs in 3 masks of train and is void. If it stands for road, write"),
  ],
)  # fmt: skip
def test_the_likely_cause_of_a_missing_class_is_named(tmp_path, capfd, values, classes, cause):
  write(tmp_path, lambda mask, _: png(mask), values=values, classes=classes)
  lines = output(capfd, tmp_path)
  first = next(number for number, line in enumerate(lines) if line.startswith("WARNING"))
  assert cause in lines[first + 1]


def test_a_class_that_occurs_in_validation_only_is_noticed(tmp_path, capfd):
  write(tmp_path, lambda mask, number: png(mask if number > 2 else np.minimum(mask, 1)))
  lines = output(capfd, tmp_path)
  assert lines[-2] == "WARNING: class 'car' never occurs in train"
  assert "It occurs in validation: move some of these images" in lines[-1]


def test_a_split_without_a_labelled_pixel_is_refused(tmp_path, capfd):
  write(tmp_path, lambda mask, number: png(mask if number < 3 else np.full_like(mask, 255)))
  (line,) = faults(capfd, "folder", tmp_path, tmp_path / "data")
  assert line.startswith("validation: all pixels of its 2 masks are void.") and "for instance cell = 255" in line


def test_a_class_that_is_called_void_is_noticed(tmp_path, capfd):
  write(tmp_path, lambda mask, _: png(mask), classes="Void\ntree\ncar")
  assert any("note: 'Void' is trained like every other class" in line for line in output(capfd, tmp_path))


def shuffled(mask, number):
  """Encodes a palette mask whose palette has another order in every second file."""
  order = [0, 1, 2] if number % 2 else [0, 2, 1]
  return png(np.argsort(order).astype(np.uint8)[mask], COLOURS[order].tolist())


def test_palettes_that_differ_are_refused_with_two_files_and_read_as_colours(tmp_path, capfd):
  stored = write(tmp_path, shuffled)
  (line,) = faults(capfd, "folder", tmp_path, tmp_path / "data")
  assert "have different palettes: index " in line and line.count(f"{tmp_path}/masks/") == 3
  assert "list them in classes.txt, for instance road = " in line
  (tmp_path / "classes.txt").write_text(COLOUR_LIST)
  prepare("folder", str(tmp_path), str(tmp_path / "data"))
  found = labels(tmp_path)
  for name, mask in stored.items():
    np.testing.assert_array_equal(found[name[-5]], mask)


def test_palettes_may_differ_where_masks_do_not_use_them(tmp_path):
  write(tmp_path, lambda mask, number: png(mask, [*COLOURS.tolist(), (number, 0, 0)]))
  prepare("folder", str(tmp_path), str(tmp_path / "data"))


def as_shown(mask, number):
  """Encodes a colour mask as editors do: with alpha, as a palette, or as grey or 1 bit if it is all black."""
  colours = COLOURS[mask]
  if number == 0:
    return png(np.dstack([colours, np.full(mask.shape, 255, np.uint8)]))
  if number == 1:
    return png(mask, COLOURS.tolist())
  return png([colours, np.zeros_like(mask), np.zeros(mask.shape, bool)][number - 2])


def test_colour_masks_count_as_what_they_show(tmp_path):
  stored = write(tmp_path, as_shown, classes=COLOUR_LIST)
  prepare("folder", str(tmp_path), str(tmp_path / "data"))
  found = labels(tmp_path)
  for number, (name, mask) in enumerate(stored.items()):
    np.testing.assert_array_equal(found[name[-5]], mask if number < 3 else np.zeros_like(mask))


def test_grey_masks_with_opaque_alpha_count_as_their_values(tmp_path):
  stored = write(tmp_path, lambda mask, _: png(np.dstack([mask, np.full_like(mask, 255)])))
  prepare("folder", str(tmp_path), str(tmp_path / "data"))
  np.testing.assert_array_equal(labels(tmp_path)["a"], stored[MASKS[0]])


def test_camvid_without_val_is_refused_in_one_line(tmp_path, capfd):
  write_street(tmp_path, "train", 2, seed=1)
  (tmp_path / "masks/train").rename(tmp_path / "trainannot")
  (tmp_path / "images/train").rename(tmp_path / "train")
  (tmp_path / "images").rmdir()
  assert faults(capfd, "camvid", tmp_path, tmp_path / "data") == [f"{tmp_path} has no folder val."]


def test_colour_masks_that_are_partly_transparent_are_refused(tmp_path, capfd):
  write(tmp_path, lambda mask, _: png(np.dstack([COLOURS[mask], 255 - mask])), classes=COLOUR_LIST)
  lines = faults(capfd, "folder", tmp_path, tmp_path / "data")
  assert len(lines) == 5 and all("has transparent pixels, whose colour viewers do not show" in line for line in lines)


def in_channels(*channels):
  return lambda mask, _: png(np.dstack([mask if index in channels else 0 * mask for index in range(3)]))


def as_jpeg(mask, _):
  return jpeg(mask)


def smoothed(mask, _):
  return png(cv2.GaussianBlur(255 * (mask > 0).astype(np.uint8), (5, 5), 0))


def run_cure(line):
  """Runs the command at the end of a message."""
  command = line[line.index("python -c") :].replace("python", sys.executable, 1)
  subprocess.run(["bash", "-c", command], check=True)


def test_masks_of_16_bits_are_refused_with_the_command_that_converts_them(tmp_path, capfd):
  stored = write(tmp_path, lambda mask, _: png(mask.astype(np.uint16)))
  lines = faults(capfd, "folder", tmp_path, tmp_path / "data")
  run_cure(lines[0])
  np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / MASKS[0])), stored[MASKS[0]])


@pytest.mark.parametrize("channels", [(0,), (2,), (0, 1, 2)], ids=str)
def test_class_numbers_in_channels_are_refused_with_the_command_that_keeps_one(tmp_path, capfd, channels):
  stored = write(tmp_path, in_channels(*channels))
  lines = faults(capfd, "folder", tmp_path, tmp_path / "data")
  assert len(lines) == 5 and f"Its numbers are in channel {'RGB'[channels[0]]}" in lines[0]
  run_cure(lines[0])
  for name in MASKS[:3]:
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / name)), stored[name])


def test_colours_are_named_if_values_are_listed(tmp_path, capfd):
  write(tmp_path, lambda mask, _: png(COLOURS[mask]))
  line = faults(capfd, "folder", tmp_path, tmp_path / "data")[0]
  assert "It shows colours (0,0,0 0,200,0 200,0,0): to read those, list them in classes.txt" in line


@pytest.mark.parametrize("kind, keys", [("values", ("0", "255")), ("colours", ("0,0,0", "255,255,255"))])
def test_smoothed_masks_are_refused_with_the_threshold(tmp_path, capfd, kind, keys):
  stored = write(tmp_path, smoothed, classes="background = {}\ncell = {}".format(*keys))
  lines = faults(capfd, "folder", tmp_path, tmp_path / "data")
  assert len(lines) == 5 and f"{kind} that are not in classes.txt (" in lines[0]
  assert "smoothed edges" in lines[0] and len(lines[0]) < 800
  run_cure(lines[0])
  restored = np.asarray(Image.open(tmp_path / MASKS[0]))
  assert (restored == 255 * (stored[MASKS[0]] > 0)).mean() > 0.95


@pytest.mark.parametrize("classes", [NAMES, COLOUR_LIST], ids=["values", "colours"])
def test_jpeg_masks_are_refused(tmp_path, capfd, classes):
  write(tmp_path, as_jpeg, classes=classes)
  lines = faults(capfd, "folder", tmp_path, tmp_path / "data")
  assert len(lines) == 5 and all("JPEG changes values near edges" in line for line in lines)
  for name in MASKS:
    (tmp_path / name).rename((tmp_path / name).with_suffix(".jpg"))
  lines = faults(capfd, "folder", tmp_path, tmp_path / "data")
  assert len(lines) == 2 and all("export the masks again as PNG" in line for line in lines)


@pytest.mark.parametrize("layout", ["masks", "annot"])
def test_camvid_is_read_as_segnet_ships_it(tmp_path, capfd, layout):
  write_street(tmp_path, "train", 3, seed=1)
  write_street(tmp_path, "val", 2, seed=2)
  mask = np.full((64, 96), 3, np.uint8)
  mask[:20] = 11
  (tmp_path / "masks/train/train1.png").write_bytes(png(mask))
  if layout == "annot":
    for split in ("train", "val"):
      (tmp_path / "images" / split).rename(tmp_path / split)
      (tmp_path / "masks" / split).rename(tmp_path / f"{split}annot")
  output(capfd, tmp_path, "camvid")
  label = by_id(open_source("camvid", "train", f"{tmp_path}/data"))["train1"]["label"]
  assert (label[:20] == 255).all() and (label[20:] == 3).all()
  changed = next(tmp_path.glob("trainannot/train1.png" if layout == "annot" else "masks/train/train1.png"))
  changed.write_bytes(png(np.full((64, 96), 4, np.uint8)))
  with pytest.raises(ValueError, match="was prepared from other files"):
    prepare("camvid", str(tmp_path), f"{tmp_path}/data", partial=True)


def test_tiles_without_data_may_be_in_train_and_val(tmp_path, capfd):
  write(tmp_path, lambda mask, _: png(mask))
  black = png(np.zeros((*SHAPE, 3), np.uint8))
  write_files(tmp_path, {f"images/{name}.png": black for name in ("train/a", "val/d")})
  prepare("folder", str(tmp_path), str(tmp_path / "data"))
  real = png(picture(np.random.default_rng(0), SHAPE))
  write_files(tmp_path, {f"images/{name}.png": real for name in ("train/a", "val/d")})
  (line,) = faults(capfd, "folder", tmp_path, tmp_path / "other")
  assert "is the same image as" in line


@pytest.mark.parametrize("changed", ["images", "masks"])
def test_changes_behind_links_are_noticed(tmp_path, capfd, changed):
  root = tmp_path / "mine"
  write(tmp_path / "store", lambda mask, _: png(mask))
  for kind in ("images", "masks"):
    (root / kind).mkdir(parents=True)
    for split in ("train", "val"):
      (root / kind / split).symlink_to(tmp_path / "store" / kind / split)
  (root / "classes.txt").write_text(NAMES)
  arguments = ["--dataset=folder", f"--manual_dir={root}", f"--data_dir={tmp_path / 'data'}"]
  assert main(arguments) == 0 and main(arguments) == 0
  shape = (*SHAPE, 3) if changed == "images" else SHAPE
  (tmp_path / "store" / changed / "train/b.png").write_bytes(png(np.zeros(shape, np.uint8)))
  capfd.readouterr()
  assert main(arguments) == 1
  (line,) = error_lines(capfd.readouterr().err)
  assert "was prepared from other files" in line


def test_data_sets_without_counts_can_still_be_shown(tmp_path, capfd):
  write(tmp_path, lambda mask, _: png(mask))
  output(capfd, tmp_path)
  (version,) = dataset_folder("folder", f"{tmp_path}/data").glob("*.*.*")
  metadata = json.loads((version / "metadata.json").read_text())
  older = {name: value for name, value in metadata.items() if name not in ("class_counts", "warnings")}
  (version / "metadata.json").write_text(json.dumps(older))
  assert output(capfd, tmp_path)[-2:] == [f"  {'train':<20} {3:>8}", f"  {'validation':<20} {2:>8}"]
