"""COCO with VOC's classes: the selection of images, and every pixel of the label maps."""

import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from data.coco_voc import masks
from data.coco_voc.coco_voc_dataset_builder import Builder
from data.prepare import prepare
from gcn_flax.input_pipeline.datasets import Dataset, open_source
from gcn_flax.labels import differences
from tests.data_sets import archives
from tests.data_sets.archives import COCO_CATEGORIES
from tests.data_sets.checks import by_id, faults, stored_pictures

ANNOTATIONS = "annotations_trainval2017.zip"
FOLDERS = {"train": "train2017", "validation": "val2017"}


def document(files, folder):
  return json.loads(files[ANNOTATIONS][f"annotations/instances_{folder}.json"])


def drawn(files, folder):
  """Returns image id -> class map: void in crowds and where classes overlap, otherwise the class or background."""
  coco = COCO()
  coco.dataset = document(files, folder)
  with contextlib.redirect_stdout(io.StringIO()):
    coco.createIndex()
  maps = {}
  for image_id in coco.imgs:
    there = np.zeros((22, 60, 80), bool)  # By class; the last is for crowds.
    for annotation in coco.imgToAnns[image_id]:
      voc_class = COCO_CATEGORIES[annotation["category_id"]][1]
      if voc_class:
        there[21 if annotation["iscrowd"] else voc_class] |= coco.annToMask(annotation) > 0
    one = np.where(there[1:21].any(0), there[1:21].argmax(0) + 1, 0)
    maps[f"{image_id:012d}"] = np.where(there[21] | (there[1:21].sum(0) > 1), 255, one)
  return maps


@pytest.mark.parametrize("split, numbers", [("train", (9, 25, 30, 34, 42, 61)), ("validation", (139,))])
def test_only_images_with_a_class_of_voc_are_prepared(coco, split, numbers):
  examples = by_id(open_source("coco_voc", split, coco.data_dir))
  assert sorted(examples) == [f"{number:012d}" for number in numbers]


@pytest.mark.parametrize("split", FOLDERS)
def test_labels_equal_instances_drawn_one_by_one(coco, split):
  expected = drawn(coco.files, FOLDERS[split])
  for example in open_source("coco_voc", split, coco.data_dir):
    np.testing.assert_array_equal(example["label"], expected[example["image_id"]], example["image_id"])


def test_the_drawn_maps_contain_every_case(coco):
  """The test above depends on it."""
  maps = drawn(coco.files, "train2017")
  assert set(np.unique(maps["000000000009"])) == set(range(21))
  assert set(np.unique(maps["000000000025"])) == {0, 2, 7, 15, 255}
  assert set(np.unique(maps["000000000030"])) == {0, 8, 15, 255}
  assert set(np.unique(maps["000000000034"])) == {0, 17, 255}


def test_all_twenty_classes_have_a_category():
  categories = [{"id": number, "name": name} for number, (name, _) in COCO_CATEGORIES.items()]
  expected = {number: voc_class for number, (_, voc_class) in COCO_CATEGORIES.items() if voc_class}
  assert masks.train_ids(categories) == expected and sorted(expected.values()) == list(range(1, 21))


def test_polygons_with_fewer_than_three_corners_are_empty():
  outlines = [[1.0, 1.0, 9.0, 9.0], [2.0, 2.0, 8.0, 2.0, 8.0, 8.0, 2.0, 8.0]]
  alone = masks.class_map(12, 12, [(5, False, outlines[1:])])
  np.testing.assert_array_equal(masks.class_map(12, 12, [(5, False, outlines)]), alone)
  assert not masks.class_map(12, 12, [(5, False, outlines[:1]), (5, False, [])]).any()


def test_grey_and_rotated_images_are_used_as_stored(coco):
  examples = by_id(open_source("coco_voc", "train", coco.data_dir))
  for number in (42, 61):
    data = coco.files["train2017.zip"][f"train2017/{number:012d}.jpg"]
    picture = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), int)
    assert picture.shape == (60, 80, 3)
    np.testing.assert_allclose(examples[f"{number:012d}"]["image"], picture, atol=4)
    assert stored_pictures("coco_voc", "train", coco.data_dir)[f"{number:012d}"] == data


@pytest.mark.parametrize("mode, kind", [("CMYK", "JPEG"), ("RGBA", "PNG"), ("P", "PNG"), ("RGB", "PNG")])
def test_images_of_other_modes_are_stored_as_rgb(tmp_path, mode, kind):
  files = archives.coco()
  name = "train2017/000000000009.jpg"
  original = Image.open(io.BytesIO(files["train2017.zip"][name]))
  buffer = io.BytesIO()
  original.convert(mode).save(buffer, kind)
  files["train2017.zip"][name] = buffer.getvalue()
  prepare("coco_voc", str(archives.write(tmp_path, files)), str(tmp_path / "data"), partial=True)
  stored = by_id(open_source("coco_voc", "train", str(tmp_path / "data")))["000000000009"]["image"]
  expected = np.asarray(Image.open(buffer).convert("RGB"), int)
  np.testing.assert_allclose(stored, expected, atol=0 if kind == "PNG" else 4)


def test_all_images_are_counted(coco, tmp_path, capfd):
  expected = ["images in train2017 8 instead of 118287", "images in val2017 2 instead of 5000"]
  assert Dataset("coco_voc", coco.data_dir).partial == expected
  assert Dataset("coco_voc", coco.data_dir).splits == {"train": 6, "validation": 1}
  (line,) = faults(capfd, "coco_voc", coco.root, tmp_path / "data")
  assert ", ".join(expected) in line


def annotation_file(num_images, first_id):
  """Returns JSON in which two of three images show a person, the others a truck."""
  ids = range(first_id, first_id + num_images)
  corners = "[[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]]"
  images = [f'{{"id": {number}, "file_name": "{number:012d}.jpg", "height": 480, "width": 640}}' for number in ids]
  instances = [
    f'{{"image_id": {number}, "category_id": {1 if number % 3 else 8}, "iscrowd": 0, "segmentation": {corners}}}'
    for number in ids
  ]
  categories = '[{"id": 1, "name": "person"}, {"id": 8, "name": "truck"}]'
  return f'{{"images": [{", ".join(images)}], "annotations": [{", ".join(instances)}], "categories": {categories}}}'


def test_annotations_of_the_published_sizes_have_the_published_counts(tmp_path):
  sizes = {"train2017": (118_287, 1), "val2017": (5_000, 500_001)}
  files = {f"annotations/instances_{name}.json": annotation_file(*size).encode() for name, size in sizes.items()}
  archives.write(tmp_path, {ANNOTATIONS: files, "train2017.zip": {}, "val2017.zip": {}})
  plan = Builder(data_dir=str(tmp_path / "data")).plan(tmp_path)
  assert differences(plan.counts, plan.published) == []
  assert plan.counts["train"] == len(plan.splits["train"]) == 78_858
  assert plan.counts["validation"] == len(plan.splits["validation"]) == 3_333
  assert "82,191 images contain a class of VOC; with the 10,582 of VOC and SBD that makes 92,773." in plan.notes[0]


def write_changed(root, change):
  """Writes archives with a changed annotation file of val2017."""
  files = archives.coco()
  found = document(files, "val2017")
  change(found)
  files[ANNOTATIONS]["annotations/instances_val2017.json"] = json.dumps(found).encode()
  return archives.write(root, files)


@pytest.mark.parametrize(
  "change, message",
  [
    (lambda found: found["images"].append(found["images"][0]), "instances_val2017.json lists image 285 more than once"),
    (lambda found: found.pop("categories"), "instances_val2017.json in "),
    (lambda found: found["annotations"][0].pop("iscrowd"), "instances_val2017.json in "),
    (lambda found: found["images"][1].pop("height"), "instances_val2017.json"),
    (lambda found: found["images"][1].update(width=81), "label map of val2017/000000000139.jpg is 60 x 81"),
    (lambda found: found["images"][1].update(file_name="7.jpg"), "val2017/7.jpg is not in "),
    (
      lambda found: found["annotations"][0].update(segmentation={"size": [61, 80], "counts": [4880]}),
      "000000000139.jpg",
    ),
  ],
  ids=["twice", "no categories", "no crowd flag", "no height", "other width", "no such file", "runs of other size"],
)
def test_a_fault_in_the_annotations_is_reported_with_the_file(tmp_path, capfd, change, message):
  (line,) = faults(capfd, "coco_voc", write_changed(tmp_path, change), tmp_path / "data", "--partial")
  assert message in line


def test_annotations_that_are_not_json_are_reported(tmp_path, capfd):
  files = archives.coco()
  files[ANNOTATIONS]["annotations/instances_train2017.json"] = b'{"images": ['
  archives.write(tmp_path, files)
  (line,) = faults(capfd, "coco_voc", tmp_path, tmp_path / "data", "--partial")
  assert "annotations/instances_train2017.json in " in line and "is no COCO instances file" in line
