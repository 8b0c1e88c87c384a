"""The user's own folders: training sees the masks as `classes.txt` defines them."""

import io
import json
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from data.folder.classes import read_classes
from data.prepare import main, prepare
from gcn_flax.input_pipeline.datasets import Dataset, dataset_folder, open_label_set, open_source
from gcn_flax.labels import voc_palette
from tests.data_sets.archives import blocks, jpeg, picture, png
from tests.data_sets.checks import by_id, error_lines, faults, files_in, stored_pictures
from tests.data_sets.folders import NAMES, SHAPE, write_files, write_folder

COLOURS = {"road": ((128, 64, 128),), "car": ((0, 0, 142), (0, 0, 70)), "ignore": ((0, 0, 0), (255, 255, 255))}
VALUES_TABLE = """
# Names and what stands for them.
road    = 7 8
ignore  = 0 40
car     = 26 27 28   # Vans too.

person  = 3
ignore  = 41
"""
COLOUR_TABLE = "road = 128,64,128\nignore = 0,0,0 255,255,255\ncar = 0,0,142 0,0,70\n"


def prepared(root):
  prepare("folder", str(root), str(root / "data"))
  return str(root / "data")


def test_names_only_stand_for_consecutive_values(tmp_path):
  data_dir = prepared(write_folder(tmp_path))
  assert (
    Dataset("folder", data_dir).splits == {"train": 3, "validation": 2} and Dataset("folder", data_dir).partial == []
  )
  for split, folder, ids in (("train", "train", "abc"), ("validation", "val", "de")):
    examples = by_id(open_source("folder", split, data_dir))
    assert sorted(examples) == list(ids)
    for image_id, example in examples.items():
      mask = np.asarray(Image.open(tmp_path / "masks" / folder / f"{image_id}.png"))
      assert set(np.unique(mask)) == {*range(19), 255}
      np.testing.assert_array_equal(example["label"], mask)
      picture = Image.open(tmp_path / "images" / folder / f"{image_id}.png")
      np.testing.assert_array_equal(example["image"], np.asarray(picture))


def test_classes_are_stored_in_the_prepared_data_set(tmp_path):
  data_dir = prepared(write_folder(tmp_path))
  label_set = open_source("folder", "train", data_dir).label_set
  assert label_set.classes == open_label_set("folder", data_dir).classes == NAMES
  assert label_set.palette == open_label_set("folder", data_dir).palette == voc_palette(19)
  assert label_set.num_classes == 19 and label_set.raw_to_train.tolist() == [*range(19), *[255] * 237]
  (version,) = dataset_folder("folder", data_dir).glob("*.*.*")
  metadata = json.loads((version / "metadata.json").read_text())
  assert metadata["classes"] == list(NAMES) and metadata["counts"] == {"train": 3, "validation": 2}


def test_comments_blank_lines_and_a_byte_order_mark_are_ignored(tmp_path):
  text = "\ufeffsky # blue\n\n  # nothing\r\n  road  \n"
  data_dir = prepared(write_folder(tmp_path, values=(0, 1, 255), classes=text))
  assert open_label_set("folder", data_dir).classes == ("sky", "road")


def test_a_table_of_values_merges_and_ignores_values(tmp_path):
  values = {7: 0, 8: 0, 26: 1, 27: 1, 28: 1, 3: 2, 0: 255, 40: 255, 41: 255, 255: 255}
  data_dir = prepared(write_folder(tmp_path, values=tuple(values), classes=VALUES_TABLE))
  assert open_label_set("folder", data_dir).classes == ("road", "car", "person")
  for image_id, example in by_id(open_source("folder", "train", data_dir)).items():
    mask = np.asarray(Image.open(tmp_path / f"masks/train/{image_id}.png"))
    assert set(np.unique(mask)) == set(values)
    np.testing.assert_array_equal(example["label"], np.vectorize(values.get)(mask))


def test_255_can_be_a_class_of_a_table(tmp_path):
  data_dir = prepared(write_folder(tmp_path, values=(0, 255), classes="background = 0\ncell = 255"))
  mask = np.asarray(Image.open(tmp_path / "masks/train/a.png"))
  np.testing.assert_array_equal(by_id(open_source("folder", "train", data_dir))["a"]["label"], mask == 255)


@pytest.mark.parametrize("as_palette", [False, True])
def test_a_table_of_colours_applies_to_rgb_and_palette_masks(tmp_path, as_palette):
  colours = [colour for name in ("road", "car", "ignore") for colour in COLOURS[name]]
  meaning = np.array([0, 1, 1, 255, 255])
  write_folder(tmp_path, classes=COLOUR_TABLE)
  which, rng = {}, np.random.default_rng(5)
  for split, name in (("train", "a"), ("train", "b"), ("train", "c"), ("val", "d"), ("val", "e")):
    which[name] = blocks(rng, SHAPE, range(5))
    data = png(which[name], colours) if as_palette else png(np.array(colours, np.uint8)[which[name]])
    write_files(tmp_path, {f"masks/{split}/{name}.png": data})
  data_dir = prepared(tmp_path)
  for image_id, example in by_id(open_source("folder", "train", data_dir)).items():
    np.testing.assert_array_equal(example["label"], meaning[which[image_id]])
  label_set = open_label_set("folder", data_dir)
  assert label_set.classes == ("road", "car") and label_set.palette == ((128, 64, 128), (0, 0, 142))


def test_a_palette_mask_is_read_as_indices_without_a_table_of_colours(tmp_path):
  write_folder(tmp_path)
  mask = blocks(np.random.default_rng(5), SHAPE, range(19))
  write_files(tmp_path, {"masks/train/a.png": png(mask, voc_palette(256)[::-1])})
  np.testing.assert_array_equal(by_id(open_source("folder", "train", prepared(tmp_path)))["a"]["label"], mask)


def low_bit_png(mask, depth):
  """Encodes a grey PNG with 1, 2 or 4 bits per pixel, which Pillow cannot write."""
  padded = np.pad(mask, ((0, 0), (0, -mask.shape[1] % (8 // depth)))).astype(int)
  groups = padded.reshape(len(mask), -1, 8 // depth)
  rows = (groups << np.arange(8 - depth, -1, -depth)).sum(-1).astype(np.uint8)
  header = struct.pack(">IIBBBBB", mask.shape[1], mask.shape[0], depth, 0, 0, 0, 0)
  pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
  return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def chunk(kind, data):
  return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_grey_masks_of_few_bits_keep_their_values(tmp_path, depth):
  write_folder(tmp_path)
  mask = blocks(np.random.default_rng(6), SHAPE, range(2**depth))
  data = low_bit_png(mask, depth)
  spread = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
  np.testing.assert_array_equal(spread, mask * (255 // (2**depth - 1)))  # The values that other decoders return.
  write_files(tmp_path, {"masks/train/b.png": data})
  np.testing.assert_array_equal(by_id(open_source("folder", "train", prepared(tmp_path)))["b"]["label"], mask)


def test_palette_masks_of_few_bits_are_read_as_indices(tmp_path):
  write_folder(tmp_path)
  mask = blocks(np.random.default_rng(6), SHAPE, range(4))
  write_files(tmp_path, {"masks/train/b.png": png(mask, voc_palette(4), bits=2)})
  np.testing.assert_array_equal(by_id(open_source("folder", "train", prepared(tmp_path)))["b"]["label"], mask)


def test_a_test_folder_needs_no_masks(tmp_path):
  write_files(write_folder(tmp_path), {"images/test/f.png": png(picture(np.random.default_rng(8), SHAPE))})
  data_dir = prepared(tmp_path)
  source = open_source("folder", "test", data_dir)
  assert not source.has_labels and [set(example) for example in source] == [{"image", "image_id"}]
  assert open_source("folder", "train", data_dir).has_labels


def test_a_test_folder_with_masks_has_labels(tmp_path):
  files = {"images/test/f.png": png(picture(np.random.default_rng(8), SHAPE))}
  files["masks/test/f.png"] = png(np.full(SHAPE, 4, np.uint8))
  data_dir = prepared(write_files(write_folder(tmp_path), files))
  assert (open_source("folder", "test", data_dir)[0]["label"] == 4).all()


def test_other_folders_are_splits_of_the_same_name(tmp_path):
  files = {"images/rain_2024/f.png": png(picture(np.random.default_rng(8), SHAPE))}
  files["masks/rain_2024/f.png"] = png(np.zeros(SHAPE, np.uint8))
  data_dir = prepared(write_files(write_folder(tmp_path), files))
  assert Dataset("folder", data_dir).splits == {"train": 3, "validation": 2, "rain_2024": 1}
  assert open_source("folder", "rain_2024", data_dir)[0]["image_id"] == "f"


@pytest.mark.parametrize(
  "suffix, kind", [("jpg", "JPEG"), ("JPEG", "JPEG"), ("bmp", "BMP"), ("tif", "TIFF"), ("webp", "WEBP")]
)
def test_images_of_other_formats_are_stored_losslessly(tmp_path, suffix, kind):
  write_folder(tmp_path)
  image = Image.open(tmp_path / "images/train/b.png")
  (tmp_path / "images/train/b.png").unlink()
  image.save(tmp_path / f"images/train/b.{suffix}", kind)
  data_dir = prepared(tmp_path)
  stored = stored_pictures("folder", "train", data_dir)["b"]
  if kind == "JPEG":
    assert stored == (tmp_path / f"images/train/b.{suffix}").read_bytes()
  expected = np.asarray(Image.open(tmp_path / f"images/train/b.{suffix}"))
  np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(stored))), expected)
  example = by_id(open_source("folder", "train", data_dir))["b"]
  np.testing.assert_allclose(example["image"].astype(int), expected, atol=4 if kind == "JPEG" else 0)


def test_hidden_files_are_ignored(tmp_path):
  files = dict.fromkeys(("images/train/.DS_Store", "images/val/Thumbs.db", "masks/train/._a.png"), b"")
  assert Dataset("folder", prepared(write_files(write_folder(tmp_path), files))).splits == {"train": 3, "validation": 2}


def test_hidden_folders_are_ignored(tmp_path):
  """Notebooks create some."""
  (write_folder(tmp_path) / "images/.ipynb_checkpoints").mkdir()
  assert Dataset("folder", prepared(tmp_path)).splits == {"train": 3, "validation": 2}


def test_the_folder_itself_is_not_changed(tmp_path):
  before = files_in(write_folder(tmp_path / "mine"))
  prepare("folder", str(tmp_path / "mine"), str(tmp_path / "data"))
  assert files_in(tmp_path / "mine") == before


@pytest.mark.parametrize(
  "text, expected",
  [
    ("", ["classes.txt lists no classes. Write one per line."]),
    ("# none\n\n", ["classes.txt lists no classes. Write one per line."]),
    ("road\n", ["classes.txt lists 1 classes. There must be 2 to 255."]),
    ("\n".join(map(str, range(256))), ["classes.txt lists 256 classes. There must be 2 to 255."]),
    ("road\ncar\nroad", ["classes.txt lists 'road' twice."]),
    ("road = 0\nroad = 1\n", ["classes.txt lists 'road' twice."]),
    ("= 0\nroad = 1\n", ["classes.txt has a class without a name."]),
    ("ignore = 0\nroad = 1", ["classes.txt lists 1 classes. There must be 2 to 255."]),
    (
      "road = 0\ncar\n\nsky = 1\nwhat is this",
      [
        "classes.txt line 2: 'car' has no '=', unlike other lines.",
        "classes.txt line 5: 'what is this' has no '=', unlike other lines.",
      ],
    ),
    (
      "road = 0 256\ncar = -1 x\nsky =\ntree = 1,2\nsea = 300,0,0\npath = 0",
      [
        "classes.txt line 1: '256' is neither a value from 0 to 255 nor a colour like 128,64,128.",
        "classes.txt line 2: '-1' is neither a value from 0 to 255 nor a colour like 128,64,128.",
        "classes.txt line 2: 'x' is neither a value from 0 to 255 nor a colour like 128,64,128.",
        "classes.txt line 3: 'sky' has no value or colour.",
        "classes.txt line 4: '1,2' is neither a value from 0 to 255 nor a colour like 128,64,128.",
        "classes.txt line 5: '300,0,0' is neither a value from 0 to 255 nor a colour like 128,64,128.",
        "classes.txt line 6: 0 is listed twice.",
      ],
    ),
    (
      "road = 0\ncar = 1,2,3",
      ["classes.txt mixes values and colours. Use one or the other."],
    ),
    (
      "road = 0\ncar\nsky = x",
      [
        "classes.txt line 2: 'car' has no '=', unlike other lines.",
        "classes.txt line 3: 'x' is neither a value from 0 to 255 nor a colour like 128,64,128.",
      ],
    ),
  ],
  ids=[
    "empty", "comments only", "one class", "256 classes", "class twice", "class twice in a table", "no name",
    "one class and ignore", "no value", "no valid value", "values and colours", "faults of two kinds",
  ],
)  # fmt: skip
def test_all_invalid_lines_are_reported(tmp_path, capfd, text, expected):
  write_folder(tmp_path, classes=text)
  found = faults(capfd, "folder", tmp_path, tmp_path / "data")
  assert [line.removeprefix(f"{tmp_path}/") for line in found] == expected


def test_a_missing_or_binary_classes_file_is_reported(tmp_path, capfd):
  write_folder(tmp_path)
  (tmp_path / "classes.txt").write_bytes(b"stra\xdfe\nauto")
  (line,) = faults(capfd, "folder", tmp_path, tmp_path / "data")
  assert "classes.txt is not UTF-8 text" in line
  (tmp_path / "classes.txt").unlink()
  (line,) = faults(capfd, "folder", tmp_path, tmp_path / "data")
  assert f"{tmp_path}/classes.txt not found" in line


def test_undefined_colours_are_reported(tmp_path, capfd):
  write_folder(tmp_path, classes=COLOUR_TABLE)
  road = np.full((*SHAPE, 3), (128, 64, 128), np.uint8)
  for path in (tmp_path / "masks").glob("*/*.png"):
    path.write_bytes(png(road))
  road[3, 4], road[5, 6] = (1, 2, 3), (128, 64, 129)
  write_files(tmp_path, {"masks/val/d.png": png(road)})
  assert faults(capfd, "folder", tmp_path, tmp_path / "data") == [
    f"{tmp_path}/masks/val/d.png contains 2 colours that are not in classes.txt: 1,2,3 128,64,129. Add them there, for "
    "instance to ignore."
  ]


def test_masks_of_values_are_rejected_with_a_table_of_colours(tmp_path, capfd):
  write_folder(tmp_path, classes=COLOUR_TABLE)
  found = faults(capfd, "folder", tmp_path, tmp_path / "data")
  assert len(found) == 5 and all("has grey pixels that are not in classes.txt: 1,1,1" in line for line in found)


def test_the_same_image_twice_in_one_split_is_accepted(tmp_path):
  write_folder(tmp_path)
  data = jpeg(picture(np.random.default_rng(9), SHAPE))
  for name in "ab":
    (tmp_path / f"images/train/{name}.png").write_bytes(data)
  assert Dataset("folder", prepared(tmp_path)).splits["train"] == 3


@pytest.mark.parametrize(
  "change",
  [
    lambda root: (root / "masks/train/a.png").write_bytes(png(np.zeros(SHAPE, np.uint8))),
    lambda root: (root / "classes.txt").write_text("\n".join(reversed(NAMES))),
    lambda root: [(root / kind / "train/a.png").unlink() for kind in ("images", "masks")],
  ],
  ids=["another mask", "other classes", "an image less"],
)
def test_changed_files_are_rejected(tmp_path, capfd, change):
  root = write_folder(tmp_path / "mine")
  arguments = ["--dataset=folder", f"--manual_dir={root}", f"--data_dir={tmp_path / 'data'}"]
  assert main(arguments) == 0 and main(arguments) == 0
  change(root)
  capfd.readouterr()
  assert main(arguments) == 1
  (line,) = error_lines(capfd.readouterr().err)
  assert "was prepared from other files" in line
  assert main(["--dataset=folder", f"--data_dir={tmp_path / 'data'}"]) == 0, "nothing to compare with"


@pytest.mark.parametrize("name", ["ignore", "Ignore"])
def test_ignore_is_not_a_class(tmp_path, capfd, name):
  root = write_folder(tmp_path / "names", classes=f"road\ncar\n{name}")
  (line,) = faults(capfd, "folder", root, tmp_path / "data")
  assert "lists 'ignore', which is not a class" in line
  classes = read_classes(
    write_files(tmp_path, {"classes.txt": f"road = 0\ncar = 1\n{name} = 2".encode()}) / "classes.txt"
  )
  assert classes.label_set.classes == ("road", "car") and classes.values == {0: 0, 1: 1, 2: 255, 255: 255}
