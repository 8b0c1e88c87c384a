"""Data sets with one class per image: from one folder per class, and from ImageNet's archives."""

import io
import json
import pathlib
import tarfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from data.prepare import prepare
from gcn_flax.input_pipeline.datasets import Dataset, open_label_set, open_source
from tests.data_sets.checks import faults

CLASSES = ("ant", "bee", "cat")


def picture(seed, size=(40, 30), kind="PNG", mode="RGB"):
  pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
  file = io.BytesIO()
  Image.fromarray(pixels).convert(mode).save(file, kind)
  return file.getvalue()


@pytest.fixture
def root(tmp_path):
  """A class folder with two training images and one validation image of each class."""
  for number, name in enumerate(CLASSES):
    for split, count in (("train", 2), ("val", 1)):
      (tmp_path / "pictures" / split / name).mkdir(parents=True)
      for index in range(count):
        seed = 10 * number + index + 5 * (split == "val")
        (tmp_path / "pictures" / split / name / f"{index}.png").write_bytes(picture(seed))
  return tmp_path / "pictures"


def test_classes_are_the_folders_of_train(root, tmp_path):
  (root / "train" / "bee" / "grey.JPEG").write_bytes(picture(77, kind="JPEG", mode="L"))
  (root / "train" / "bee" / "inks.jpg").write_bytes(picture(78, kind="JPEG", mode="CMYK"))
  prepare("class_folder", str(root), str(tmp_path / "data"))
  assert open_label_set("class_folder", str(tmp_path / "data")).classes == CLASSES
  assert Dataset("class_folder", str(tmp_path / "data")).splits == {"train": 8, "validation": 3}
  for split, folder in (("train", "train"), ("validation", "val")):
    source = open_source("class_folder", split, str(tmp_path / "data"))
    seen = set()
    for example in source:
      path = root / folder / example["image_id"]
      assert CLASSES[int(example["label"])] == path.parent.name and example["label"].dtype == np.int32
      seen.add(path)
      if path.suffix == ".png":
        np.testing.assert_array_equal(example["image"], np.asarray(Image.open(path)))
      else:
        difference = example["image"].astype(int) - np.asarray(Image.open(path).convert("RGB"))
        assert np.abs(difference).mean() < 2
    assert seen == set((root / folder).glob("*/*"))
  assert int(source.label(1)) == int(source[1]["label"])


def test_an_image_in_two_splits_is_reported_but_accepted(root, tmp_path, capsys):
  (root / "val" / "cat" / "copy.png").write_bytes((root / "train" / "cat" / "1.png").read_bytes())
  prepare("class_folder", str(root), str(tmp_path / "data"))
  told = capsys.readouterr().out
  assert "note: 1 images occur in two folders" in told and "train/cat/1.png" in told and "val/cat/copy.png" in told


def test_changed_images_are_rejected(root, tmp_path):
  prepare("class_folder", str(root), str(tmp_path / "data"))
  prepare("class_folder", str(root), str(tmp_path / "data"))
  (root / "train" / "cat" / "9.png").write_bytes(picture(99))
  with pytest.raises(ValueError, match="prepared from other files"):
    prepare("class_folder", str(root), str(tmp_path / "data"))


def rename_classes(root, *names):
  for name in names:
    (root / "train" / name).rename(root / f".{name}")


def truncate(path):
  path.write_bytes(path.read_bytes()[:200])


FAULTS = {  # Name -> (change of the folder, message).
  "no val": (lambda root: (root / "val").rename(root / ".val"), "has no folder val. It must contain one folder per"),
  "two names of a split": (
    lambda root: (root / "validation" / "ant").mkdir(parents=True),
    "has both val and validation, which are the same split",
  ),
  "one class": (
    lambda root: rename_classes(root, "ant", "bee"),
    "train has 1 folders. It must contain one per class, at least 2",
  ),
  "unknown class": (lambda root: (root / "val" / "dog").mkdir(), "val/dog is not a class"),
  "empty class": (lambda root: (root / "train" / "dog").mkdir(), "train/dog contains no image"),
  "no image": (lambda root: (root / "train" / "ant" / "notes.txt").touch(), "train/ant/notes.txt is not one of .jpg"),
  "truncated": (lambda root: truncate(root / "train" / "ant" / "1.png"), "train/ant/1.png is damaged or truncated"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_class_folder_is_reported_and_nothing_is_written(fault, root, tmp_path, capfd):
  change, message = FAULTS[fault]
  change(root)
  (line,) = faults(capfd, "class_folder", root, tmp_path / "data")
  assert message in line


# ImageNet.


def tar(files):
  target = io.BytesIO()
  with tarfile.open(fileobj=target, mode="w") as archive:
    for name, data in files.items():
      info = tarfile.TarInfo(name)
      info.size = len(data)
      archive.addfile(info, io.BytesIO(data))
  return target.getvalue()


SYNSETS = ("n01440764", "n01443537", "n15075141")  # Numbers 0, 1 and 999.


@pytest.fixture
def archives(tmp_path):
  folder = tmp_path / "imagenet"
  folder.mkdir()
  classes = {
    f"{synset}.tar": tar({f"{synset}_{index}.JPEG": picture(index + 10 * n, kind="JPEG") for index in (1, 2)})
    for n, synset in enumerate(SYNSETS)
  }
  (folder / "ILSVRC2012_img_train.tar").write_bytes(tar(classes))
  validation = {f"ILSVRC2012_val_{index:08d}.JPEG": picture(50 + index, kind="JPEG") for index in (1, 2, 50_000)}
  (folder / "ILSVRC2012_img_val.tar").write_bytes(tar(validation))
  return folder


def test_imagenet_is_read_from_its_archives(archives, tmp_path):
  with pytest.raises(ValueError, match="train 6 instead of 1281167, validation 3 instead of 50000"):
    prepare("imagenet2012", str(archives), str(tmp_path / "data"))
  prepare("imagenet2012", str(archives), str(tmp_path / "data"), partial=True)
  label_set = open_label_set("imagenet2012", str(tmp_path / "data"))
  assert label_set.num_classes == 1000 and label_set.classes[999] == "n15075141"
  assert list(label_set.classes) == sorted(label_set.classes)
  train = {example["image_id"]: example for example in open_source("imagenet2012", "train", str(tmp_path / "data"))}
  assert {name: int(example["label"]) for name, example in train.items()} == {
    f"{synset}_{index}.JPEG": {"n01440764": 0, "n01443537": 1, "n15075141": 999}[synset]
    for synset in SYNSETS
    for index in (1, 2)
  }
  for n, synset in enumerate(SYNSETS):
    expected = np.asarray(Image.open(io.BytesIO(picture(2 + 10 * n, kind="JPEG"))))
    assert np.abs(train[f"{synset}_2.JPEG"]["image"].astype(int) - expected).max() <= 3
  # The first, second and last of the published validation labels, as TFDS ships them.
  truth = tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt").read_text().split()
  found = {
    example["image_id"]: label_set.classes[int(example["label"])]
    for example in open_source("imagenet2012", "validation", str(tmp_path / "data"))
  }
  assert found == {f"ILSVRC2012_val_{index:08d}.JPEG": truth[index - 1] for index in (1, 2, 50_000)}
  assert Dataset("imagenet2012", str(tmp_path / "data")).partial[0] == "train 6 instead of 1281167"


@pytest.mark.parametrize(
  "name, data, message",
  [
    ("ILSVRC2012_img_val.tar", None, "not found in .*: ILSVRC2012_img_val.tar .from https://image-net.org"),
    ("ILSVRC2012_img_train.tar", b"", "ILSVRC2012_img_train.tar is damaged"),
    ("ILSVRC2012_img_train.tar", tar({"dogs.tar": tar({})}), "dogs.tar in .* is not an ImageNet class"),
    ("ILSVRC2012_img_train.tar", tar({"n01440764.tar": b"x" * 600}), "ILSVRC2012_img_train.tar is damaged"),
    ("ILSVRC2012_img_val.tar", tar({"ILSVRC2012_val_00050001.JPEG": b""}), "is not an ImageNet validation image"),
    (
      "ILSVRC2012_img_val.tar",
      tar({"ILSVRC2012_val_00000001.JPEG": b"x"}),
      "val_00000001.JPEG in .* is damaged or truncated",
    ),
  ],
)
def test_damaged_archives_are_reported(name, data, message, archives, tmp_path):
  if data is None:
    (archives / name).unlink()
  else:
    (archives / name).write_bytes(data)
  with pytest.raises(ValueError, match=message):
    prepare("imagenet2012", str(archives), str(tmp_path / "data"), partial=True)


class Imagenet2012(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A stand-in for TFDS's own builder: without our metadata, `file_name` instead of `image_id`."""

  name = "imagenet2012"
  VERSION = tfds.core.Version("5.1.0")

  def _info(self):
    names = tfds.core.tfds_path("datasets/imagenet2012/labels.txt").read_text().split()
    features = {
      "image": tfds.features.Image(encoding_format="jpeg"),
      "label": tfds.features.ClassLabel(names=names),
      "file_name": tfds.features.Text(),
    }
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(split) for split in ("train", "validation")}

  def _generate_examples(self, split):
    name = f"n15075141_{split}.JPEG"
    yield name, {"image": io.BytesIO(picture(3, kind="JPEG")), "label": "n15075141", "file_name": name}


def test_imagenet_prepared_by_tfds_is_read_from_array_record_only(tmp_path):
  builder = Imagenet2012(data_dir=str(tmp_path), file_format="array_record")
  builder.download_and_prepare(download_dir=str(tmp_path / "downloads"))
  example = open_source("imagenet2012", "train", str(tmp_path))[0]
  assert example["image_id"] == "n15075141_train.JPEG" and example["label"] == 999
  assert example["image"].shape == (40, 30, 3)
  assert open_label_set("imagenet2012", str(tmp_path)).num_classes == 1000
  assert Dataset("imagenet2012", str(tmp_path)).partial[0] == "train 1 instead of 1281167"
  info = pathlib.Path(builder.data_path) / "dataset_info.json"
  content = json.loads(info.read_text())
  assert content["fileFormat"] == "array_record"
  info.write_text(json.dumps({**content, "fileFormat": "tfrecord"}))
  with pytest.raises(ValueError, match="tfrecord.*array_record"):
    open_source("imagenet2012", "train", str(tmp_path))


def test_pictures_of_16_bits_are_rejected(root, tmp_path, capfd):
  """Read as 8 bits they would be white."""
  for index, name in enumerate(CLASSES):
    grey = np.full((30, 40), 1000 * (index + 1), np.uint16)
    Image.fromarray(grey).save(root / "train" / name / "0.png")
  found = faults(capfd, "class_folder", root, tmp_path / "data")
  assert [line.partition(" Convert")[0] for line in found] == [
    f"{root}/train/{name}/0.png has 16 bits per channel. Its values reach {1000 * (index + 1)}."
    for index, name in enumerate(CLASSES)
  ]
