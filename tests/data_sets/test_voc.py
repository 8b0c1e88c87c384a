"""VOC with SBD: the images of each split, and the origin of each mask."""

import io
import json

import numpy as np
import pytest
import scipy.io
from PIL import Image

from data.prepare import prepare
from data.voc_segmentation import lists
from gcn_flax.input_pipeline.datasets import Dataset, dataset_folder, open_source
from gcn_flax.labels import VOC, differences
from tests.data_sets import archives
from tests.data_sets.archives import SBD_ONLY, VOC_TEST, VOC_TRAIN, VOC_VAL
from tests.data_sets.checks import by_id, faults, stored_pictures

TRAINVAL, SBD = "VOCtrainval_11-May-2012.tar", "benchmark.tgz"
VOC_ROOT, SBD_ROOT = "VOCdevkit/VOC2012", "benchmark_RELEASE/dataset"


def voc_mask(files, image_id):
  return np.array(Image.open(io.BytesIO(files[TRAINVAL][f"{VOC_ROOT}/SegmentationClass/{image_id}.png"])))


def sbd_mask(files, image_id):
  record = scipy.io.loadmat(io.BytesIO(files[SBD][f"{SBD_ROOT}/cls/{image_id}.mat"]), simplify_cells=True)
  return record["GTcls"]["Segmentation"]


@pytest.mark.parametrize(
  "split, ids",
  [
    ("train", VOC_TRAIN),
    ("validation", VOC_VAL),
    ("trainval", VOC_TRAIN + VOC_VAL),
    ("sbd", SBD_ONLY),
    ("train_aug", VOC_TRAIN + SBD_ONLY),
    ("test", VOC_TEST),
  ],
)
def test_a_split_contains_each_image_of_its_lists_once(voc, split, ids):
  assert sorted(by_id(open_source("voc_segmentation", split, voc.data_dir))) == sorted(ids)
  assert Dataset("voc_segmentation", voc.data_dir).splits[split] == len(ids)


def test_labels_are_the_values_of_vocs_masks_and_sbds_matrices(voc):
  examples = by_id(open_source("voc_segmentation", "train_aug", voc.data_dir))
  examples |= by_id(open_source("voc_segmentation", "validation", voc.data_dir))
  assert len(examples) == 9
  for image_id, example in examples.items():
    label = sbd_mask(voc.files, image_id) if image_id in SBD_ONLY else voc_mask(voc.files, image_id)
    assert example["label"].dtype == np.uint8 and (255 in label) == (image_id not in SBD_ONLY)
    np.testing.assert_array_equal(example["label"], label, image_id)


def test_an_image_in_both_has_vocs_file(voc):
  both = VOC_TRAIN[0]
  ours, theirs = (files[f"{root}/{both}.jpg"] for files, root in both_pictures(voc.files))
  assert ours != theirs and stored_pictures("voc_segmentation", "train", voc.data_dir)[both] == ours


def both_pictures(files):
  return (files[TRAINVAL], f"{VOC_ROOT}/JPEGImages"), (files[SBD], f"{SBD_ROOT}/img")


def test_images_are_stored_byte_for_byte(voc):
  found = {}
  for split in ("train", "validation", "test", "sbd"):
    found |= stored_pictures("voc_segmentation", split, voc.data_dir)
  jpegs = voc.files[TRAINVAL] | voc.files["VOC2012test.tar"]
  assert len(found) == 11
  for image_id, data in found.items():
    folder = (voc.files[SBD], f"{SBD_ROOT}/img") if image_id in SBD_ONLY else (jpegs, f"{VOC_ROOT}/JPEGImages")
    assert data == folder[0][f"{folder[1]}/{image_id}.jpg"]


def test_sources_return_images_as_rgb(voc):
  for example in open_source("voc_segmentation", "train_aug", voc.data_dir):
    picture = Image.open(io.BytesIO(stored(voc, example["image_id"])))
    np.testing.assert_allclose(example["image"].astype(int), np.asarray(picture), atol=4)


def stored(voc, image_id):
  (ours, our_folder), (theirs, their_folder) = both_pictures(voc.files)
  return ours.get(f"{our_folder}/{image_id}.jpg") or theirs[f"{their_folder}/{image_id}.jpg"]


def test_a_label_can_be_read_without_its_image(voc):
  source = open_source("voc_segmentation", "train_aug", voc.data_dir)
  for index, example in enumerate(source):
    np.testing.assert_array_equal(source.label(index), example["label"])


def test_the_test_split_has_no_labels(voc):
  source = open_source("voc_segmentation", "test", voc.data_dir)
  assert not source.has_labels and all(set(example) == {"image", "image_id"} for example in source)
  assert open_source("voc_segmentation", "train_aug", voc.data_dir).has_labels
  with pytest.raises(ValueError, match="voc_segmentation 'test' has no true labels"):
    source.label(0)
  with pytest.raises(ValueError, match="voc_segmentation has no instance ids"):
    source.instances(0)


def test_a_composed_split_is_a_sequence_like_any(voc):
  source = open_source("voc_segmentation", "train_aug", voc.data_dir)
  ids = [example["image_id"] for example in source]
  assert len(source) == 7 and [source[index]["image_id"] for index in range(-7, 0)] == ids
  for index in (7, -8):
    with pytest.raises(IndexError):
      source[index]


def test_missing_examples_are_recorded_in_the_data_set(voc):
  expected = [
    "train 3 instead of 1464",
    "validation 2 instead of 1449",
    "trainval 5 instead of 2913",
    "train_aug 7 instead of 10582",
    "test 2 instead of 1456",
  ]
  assert Dataset("voc_segmentation", voc.data_dir).partial == expected
  (version,) = dataset_folder("voc_segmentation", voc.data_dir).glob("*.*.*")
  metadata = json.loads((version / "metadata.json").read_text())
  assert metadata["partial"] == expected and metadata["published"] == VOC.split_sizes
  assert metadata["counts"] == {"train": 3, "validation": 2, "trainval": 5, "train_aug": 7, "test": 2}
  assert metadata["unlabelled"] == ["test"] and metadata["classes"] == list(VOC.classes)


def test_unpublished_counts_are_rejected(voc, tmp_path, capfd):
  (line,) = faults(capfd, "voc_segmentation", voc.root, tmp_path / "data")
  assert "train_aug 7 instead of 10582" in line and "test 2 instead of 1456" in line and "--partial" in line


def published_lists():
  """Returns lists of the published sizes; 1,678 and 559 images of SBD's are in VOC's lists, too."""
  voc = [f"voc_{number:06d}" for number in range(1464 + 1449 + 1456)]
  train, val, test = voc[:1464], voc[1464 : 1464 + 1449], voc[1464 + 1449 :]
  only = [f"sbd_{number:06d}" for number in range(6820 + 2298)]
  return lists.Lists(
    voc_train=train,
    voc_val=val,
    voc_test=test,
    sbd_train=train[:1130] + only[:6820] + val[:548],
    sbd_val=only[6820:] + val[548:807] + train[1130:1430],
  )


def test_lists_of_the_published_sizes_give_the_published_splits():
  found = published_lists()
  assert [len(found.sbd_train), len(found.sbd_val)] == [8498, 2857] and 8498 + 2857 == 11_355
  stored = lists.splits(found)
  assert {split: len(ids) for split, ids in stored.items()} == {
    "train": 1464,
    "validation": 1449,
    "test": 1456,
    "sbd": 9118,
  }
  assert not set(stored["sbd"]) & {*found.voc_train, *found.voc_val}
  counts = lists.counts(stored)
  assert counts["train_aug"] == 10_582 and counts["trainval"] == 2913
  assert counts == VOC.split_sizes and differences(counts, VOC.split_sizes) == []


def test_a_missing_image_is_a_difference():
  found = published_lists()
  counts = lists.counts(lists.splits(lists.Lists(**{**vars(found), "sbd_val": found.sbd_val[1:]})))
  assert differences(counts, VOC.split_sizes) == ["train_aug 10581 instead of 10582"]


def test_all_faults_of_the_lists_are_reported_together():
  with pytest.raises(ValueError) as error:
    lists.splits(lists.Lists(["a", "b", "b"], ["b", "c"], ["a", "c"], ["d", "d"], []))
  assert str(error.value).splitlines() == [
    "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt lists b more than once.",
    "benchmark_RELEASE/dataset/train.txt lists d more than once.",
    "b is in both train and val of VOC.",
    "a is in both test and trainval of VOC.",
    "c is in both test and trainval of VOC.",
  ]
  with pytest.raises(ValueError, match="Segmentation/val.txt is empty.\n.*Segmentation/test.txt is empty."):
    lists.splits(lists.Lists(["a"], [], [], [], []))


def with_change(archive, name, change):
  """Returns the archives with one file changed, or removed if `change` is None."""
  files = archives.voc()
  if change is None:
    del files[archive][name]
  else:
    files[archive][name] = change(files[archive][name])
  return files


@pytest.mark.parametrize(
  "archive, name, change, message",
  [
    (TRAINVAL, f"{VOC_ROOT}/ImageSets/Segmentation/train.txt", lambda data: b"\n", "train.txt is empty."),
    (
      TRAINVAL,
      f"{VOC_ROOT}/ImageSets/Segmentation/train.txt",
      lambda data: data + data[:12],
      f"train.txt lists {VOC_TRAIN[0]} more than once.",
    ),
    (SBD, f"{SBD_ROOT}/val.txt", None, f"{SBD_ROOT}/val.txt is not in "),
    (TRAINVAL, f"{VOC_ROOT}/JPEGImages/{VOC_VAL[0]}.jpg", None, f"{VOC_VAL[0]}.jpg is not in "),
    (TRAINVAL, f"{VOC_ROOT}/SegmentationClass/{VOC_VAL[0]}.png", None, f"{VOC_VAL[0]}.png is not in "),
    (
      TRAINVAL,
      f"{VOC_ROOT}/JPEGImages/{VOC_VAL[1]}.jpg",
      lambda data: data[: len(data) // 2],
      f"{VOC_VAL[1]}.jpg is damaged or truncated",
    ),
    (
      TRAINVAL,
      f"{VOC_ROOT}/SegmentationClass/{VOC_TRAIN[1]}.png",
      lambda data: archives.png(np.full((3, 4), 7, np.uint8)),
      f"SegmentationClass/{VOC_TRAIN[1]}.png is 3 x 4, but its image {VOC_ROOT}/JPEGImages/{VOC_TRAIN[1]}.jpg is ",
    ),
    (SBD, f"{SBD_ROOT}/cls/{SBD_ONLY[0]}.mat", lambda data: data[:99], f"{SBD_ONLY[0]}.mat is not an SBD mask"),
    (
      SBD,
      f"{SBD_ROOT}/cls/{SBD_ONLY[2]}.mat",
      lambda data: archives.mat(np.zeros((50, 50), np.uint16)),
      f"{SBD_ONLY[2]}.mat contains uint16 (50, 50), not uint8",
    ),
  ],
  ids=[
    "empty list", "id twice", "no list", "no image", "no mask", "truncated image", "smaller mask", "truncated mask",
    "mask of 16 bits",
  ],
)  # fmt: skip
def test_a_fault_in_an_archive_is_reported_with_the_file(tmp_path, capfd, archive, name, change, message):
  archives.write(tmp_path, with_change(archive, name, change))
  (line,) = faults(capfd, "voc_segmentation", tmp_path, tmp_path / "data", "--partial")
  assert message in line


def test_a_value_that_is_no_class_is_reported_with_the_allowed_ones(tmp_path, capfd):
  name = f"{VOC_ROOT}/SegmentationClass/{VOC_TRAIN[0]}.png"
  shape = voc_mask(archives.voc(), VOC_TRAIN[0]).shape
  archives.write(tmp_path, with_change(TRAINVAL, name, lambda _: archives.png(np.full(shape, 21, np.uint8))))
  assert faults(capfd, "voc_segmentation", tmp_path, tmp_path / "data", "--partial") == [
    f"{name} contains the values 21. Allowed are 0 to 20 and 255."
  ]


def test_a_leading_dot_in_the_names_of_an_archive_is_ignored(tmp_path):
  """`tar cf ... .` makes such archives."""
  files = archives.voc()
  files[TRAINVAL] = {f"./{name}": data for name, data in files[TRAINVAL].items()}
  archives.write(tmp_path, files)
  prepare("voc_segmentation", str(tmp_path), str(tmp_path / "data"), partial=True)
  assert Dataset("voc_segmentation", str(tmp_path / "data")).splits["train_aug"] == 7
