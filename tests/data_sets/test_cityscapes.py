"""Cityscapes: train ids, instance ids, and coarse labels of the extra images only."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from configs import cityscapes as cityscapes_recipe
from data.cityscapes.cityscapes_dataset_builder import Builder
from gcn_flax.input_pipeline.datasets import Dataset, open_source
from gcn_flax.labels import CITYSCAPES, CITYSCAPES_COARSE, differences
from gcn_flax.run_data import RunData
from tests.data_sets import archives
from tests.data_sets.archives import EXTRA, FINE
from tests.data_sets.checks import by_id, faults

IMAGES, LABELS = "leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"
STEM = "train/aachen/aachen_000001_000019"
SPLITS = [
  ("cityscapes", "train", "gtFine/train", FINE["train"]),
  ("cityscapes", "validation", "gtFine/val", FINE["val"]),
  ("cityscapes", "test", "gtFine/test", FINE["test"]),
  ("cityscapes_coarse", "train_extra", "gtCoarse/train_extra", EXTRA),
]


def read(cityscapes, dataset, name):
  archive = {"cityscapes": LABELS, "cityscapes_coarse": "gtCoarse.zip"}[dataset]
  return np.array(Image.open(io.BytesIO(cityscapes.files[archive][name])))


@pytest.mark.parametrize("dataset, split, _, stems", SPLITS)
def test_a_split_contains_the_images_of_its_folder(cityscapes, dataset, split, _, stems):
  examples = by_id(open_source(dataset, split, cityscapes.data_dir))
  assert sorted(examples) == sorted(stem.rpartition("/")[2] for stem in stems)


def test_coarse_labels_of_the_fine_images_are_left_out(cityscapes):
  assert Dataset("cityscapes_coarse", cityscapes.data_dir).splits == {"train_extra": 2}
  assert Dataset("cityscapes", cityscapes.data_dir).splits == {"train": 3, "validation": 1, "test": 2}


@pytest.mark.parametrize("dataset, split, folder, stems", [case for case in SPLITS if case[1] != "test"])
def test_labels_equal_the_table_of_cityscapesscripts(cityscapes, dataset, split, folder, stems):
  helpers = pytest.importorskip("cityscapesscripts.helpers.labels")
  table = np.array([helpers.id2label[value].trainId for value in range(34)])
  examples = by_id(open_source(dataset, split, cityscapes.data_dir))
  for stem in stems:
    raw = read(cityscapes, dataset, f"{folder}/{stem}_{folder.partition('/')[0]}_labelIds.png")
    np.testing.assert_array_equal(examples[stem.rpartition("/")[2]]["label"], table[raw])
  names = [helpers.trainId2label[index].name for index in range(19)]
  colours = [tuple(helpers.trainId2label[index].color) for index in range(19)]
  assert list(CITYSCAPES.classes) == names and list(CITYSCAPES.palette) == colours


@pytest.mark.parametrize("dataset, split, folder, stems", SPLITS)
def test_instances_are_the_ids_in_the_file(cityscapes, dataset, split, folder, stems):
  source = open_source(dataset, split, cityscapes.data_dir)
  for index, example in enumerate(source):
    (stem,) = [stem for stem in stems if stem.endswith(example["image_id"])]
    expected = read(cityscapes, dataset, f"{folder}/{stem}_{folder.partition('/')[0]}_instanceIds.png")
    assert source.instances(index).dtype == np.uint16
    assert expected.max() > 24_000 or split == "test"
    np.testing.assert_array_equal(source.instances(index), expected)


def test_images_are_the_ones_of_the_archive(cityscapes):
  for example in open_source("cityscapes", "train", cityscapes.data_dir):
    city = example["image_id"].partition("_")[0]
    data = cityscapes.files[IMAGES][f"leftImg8bit/train/{city}/{example['image_id']}_leftImg8bit.png"]
    np.testing.assert_array_equal(example["image"], np.asarray(Image.open(io.BytesIO(data))))


def test_the_test_split_has_images_but_no_labels(cityscapes):
  source = open_source("cityscapes", "test", cityscapes.data_dir)
  assert not source.has_labels and "label" not in source[0]
  config = cityscapes_recipe.get_config()
  config.data.data_dir = cityscapes.data_dir
  with pytest.raises(ValueError, match="cityscapes 'test' has no ground truth. Use another split"):
    RunData(config).eval_source("test")


def test_unpublished_counts_are_rejected_and_recorded(cityscapes, tmp_path, capfd):
  fine = ["train 3 instead of 2975", "validation 1 instead of 500", "test 2 instead of 1525"]
  for dataset, lacking in (("cityscapes", fine), ("cityscapes_coarse", ["train_extra 2 instead of 19998"])):
    assert Dataset(dataset, cityscapes.data_dir).partial == lacking
    (line,) = faults(capfd, dataset, cityscapes.root, tmp_path / "data")
    assert ", ".join(lacking) in line and "--partial" in line


def write_names(root, images, labels, kind, sizes):
  """Writes the two archives with empty files, numbered from 0 in every folder."""
  stems = [f"{split}/city/city_{number:06d}_000019" for split, size in sizes.items() for number in range(size)]
  archives.write(root, {images: {f"leftImg8bit/{stem}_leftImg8bit.png": b"" for stem in stems}})
  archives.write(root, {labels: {f"{kind}/{stem}_{kind}_labelIds.png": b"" for stem in stems}})


@pytest.mark.parametrize(
  "config, archive_names, kind, sizes, label_set",
  [
    ("fine", (IMAGES, LABELS), "gtFine", {"train": 2975, "val": 500, "test": 1525}, CITYSCAPES),
    (
      "coarse",
      ("leftImg8bit_trainextra.zip", "gtCoarse.zip"),
      "gtCoarse",
      {"train": 9, "train_extra": 19_998},
      CITYSCAPES_COARSE,
    ),
  ],
  ids=["fine", "coarse"],
)
def test_archives_of_the_published_sizes_have_the_published_counts(
  tmp_path, config, archive_names, kind, sizes, label_set
):
  write_names(tmp_path, *archive_names, kind, sizes)
  plan = Builder(data_dir=str(tmp_path / "data"), config=config).plan(tmp_path)
  assert plan.counts == {split: len(items) for split, items in plan.splits.items()} == label_set.split_sizes
  assert plan.published == label_set.split_sizes and differences(plan.counts, plan.published) == []


def test_images_are_trusted_if_the_counts_are_the_published_ones(tmp_path):
  for count, trusted in ((500, True), (499, False)):
    root = tmp_path / str(count)
    root.mkdir()
    write_names(root, IMAGES, LABELS, "gtFine", {"train": 2975, "val": count, "test": 1525})
    builder = Builder(data_dir=str(tmp_path / "data"), config="fine")
    builder.plan(root)
    assert builder.published_pictures is trusted


def test_the_black_image_is_counted_but_skipped(tmp_path):
  stems = ["train_extra/bonn/bonn_000000_000001", "train_extra/troisdorf/troisdorf_000000_000073"]
  files = {f"leftImg8bit/{stem}_leftImg8bit.png": b"" for stem in stems}
  archives.write(tmp_path, {"leftImg8bit_trainextra.zip": files})
  archives.write(tmp_path, {"gtCoarse.zip": {f"gtCoarse/{stem}_gtCoarse_labelIds.png": b"" for stem in stems}})
  plan = Builder(data_dir=str(tmp_path / "data"), config="coarse").plan(tmp_path)
  assert plan.counts == {"train_extra": 2} and plan.splits == {"train_extra": stems[:1]}
  assert "troisdorf_000000_000073 is skipped" in plan.notes[0]


def without(archive, name):
  def change(files):
    del files[archive][name]

  return change


def replaced(archive, name, data):
  def change(files):
    assert name in files[archive]
    files[archive][name] = data(files[archive][name])

  return change


def half(data):
  return data[: len(data) // 2]


def with_value(value):
  def change(data):
    mask = np.array(Image.open(io.BytesIO(data)))
    mask[5, 7] = value
    return archives.png(mask)

  return change


def without_validation(files):
  for archive in (IMAGES, LABELS):
    files[archive] = {name: data for name, data in files[archive].items() if "/val/" not in name}


IMAGE, LABEL = f"leftImg8bit/{STEM}_leftImg8bit.png", f"gtFine/{STEM}_gtFine_labelIds.png"
INSTANCES = f"gtFine/{STEM}_gtFine_instanceIds.png"


@pytest.mark.parametrize(
  "change, message",
  [
    (without(LABELS, LABEL), f"{STEM} has an image in {IMAGES}, but no labels."),
    (without(IMAGES, IMAGE), f"{STEM} has labels in {LABELS}, but no image."),
    (without(LABELS, INSTANCES), f"{INSTANCES} is not in "),
    (without_validation, f"{IMAGES} has no images in leftImg8bit/val."),
    (replaced(LABELS, LABEL, with_value(34)), f"{LABEL} contains the values 34. Allowed are 0 to 33."),
    (replaced(LABELS, LABEL, with_value(255)), f"{LABEL} contains the values 255. Allowed are 0 to 33."),
    (replaced(LABELS, LABEL, half), f"{LABEL} is damaged or truncated"),
    (replaced(IMAGES, IMAGE, half), f"{IMAGE} is damaged or truncated"),
    (replaced(LABELS, INSTANCES, half), f"{INSTANCES} is damaged or truncated"),
    (replaced(LABELS, INSTANCES, lambda data: archives.png(np.zeros((9, 9), np.uint16))), f"{INSTANCES} is 9 x 9, but"),
    (
      replaced(LABELS, LABEL, lambda data: archives.png(np.zeros((40, 40, 3), np.uint8))),
      f"{LABEL} is a PNG of mode RGB",
    ),
  ],
  ids=[
    "no labels", "no image", "no instances", "no validation", "value 34", "value 255", "half a mask", "half an image",
    "half of the instances", "instances of other size", "coloured mask",
  ],
)  # fmt: skip
def test_a_fault_in_an_archive_is_reported_with_the_file(tmp_path, capfd, change, message):
  files = archives.cityscapes()
  change(files)
  (line,) = faults(capfd, "cityscapes", archives.write(tmp_path, files), tmp_path / "data", "--partial")
  assert message in line


def test_opencv_and_pillow_read_the_same_instances(cityscapes):
  """`Source.instances` uses OpenCV."""
  name = f"gtFine/{STEM}_gtFine_instanceIds.png"
  data = cityscapes.files[LABELS][name]
  np.testing.assert_array_equal(
    cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), read(cityscapes, "cityscapes", name)
  )
