"""TFDS builder of ImageNet (ILSVRC 2012), from the two original archives."""

import contextlib
import os
import pathlib
import re
import tarfile
from collections.abc import Iterator

import tensorflow_datasets as tfds

from data.archives import added_by_mac
from data.builder import Example, Plan
from data.class_builder import ClassBuilder
from data.faults import raise_all
from gcn_flax.labels import IMAGENET_SIZES, image_labels
from gcn_flax.printable import one_line

_ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "validation": "ILSVRC2012_img_val.tar"}
_ORIGIN = "https://image-net.org/download-images, with an account"
_VALIDATION = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")


class Builder(ClassBuilder):
  """ImageNet (Russakovsky et al., IJCV 2015): 1,000 classes, in the order of their WordNet ids."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First version."}

  def plan(self, root: pathlib.Path) -> Plan:
    archives = {split: root / name for split, name in _ARCHIVES.items()}
    missing = [f"{path.name} (from {_ORIGIN})" for path in archives.values() if not path.is_file()]
    if missing:
      raise ValueError(
        f"not found in {root}: {', '.join(missing)}. Download them to this folder and do not unpack them."
      )
    classes = _list("labels.txt")
    splits = {
      "train": list(_train_items(archives["train"], classes)),
      "validation": list(_validation_items(archives["validation"], classes)),
    }
    counts = {split: len(items) for split, items in splits.items()}
    return Plan(splits, counts, dict(IMAGENET_SIZES), image_labels(tuple(classes), dict(IMAGENET_SIZES)))

  def load(self, item: tuple[pathlib.Path, str, int, int, int]) -> Example:
    archive, name, label, offset, size = item
    descriptor = os.open(archive, os.O_RDONLY)
    try:
      data = os.pread(descriptor, size, offset)
    finally:
      os.close(descriptor)
    return Example(name, data, label, image_name=f"{name} in {archive}")


def _train_items(archive: pathlib.Path, classes: list[str]) -> Iterator[tuple[pathlib.Path, str, int, int, int]]:
  """Finds the offsets of all images in an archive that contains one archive per class, without unpacking any."""
  numbers = {name: number for number, name in enumerate(classes)}
  faults = []
  with _opened(archive) as outer:
    for member in outer:
      if added_by_mac(member.name):
        continue
      synset = pathlib.PurePath(member.name).stem
      if synset not in numbers or not member.isfile():
        faults.append(f"{member.name} in {archive} is not an ImageNet class.")
        continue
      with tarfile.open(fileobj=outer.extractfile(member)) as inner:
        for info in inner:
          yield archive, info.name, numbers[synset], member.offset_data + info.offset_data, info.size
  raise_all(faults)


def _validation_items(archive: pathlib.Path, classes: list[str]) -> Iterator[tuple[pathlib.Path, str, int, int, int]]:
  truth, faults = _list("validation_labels.txt"), []
  with _opened(archive) as tar:
    for info in tar:
      if added_by_mac(info.name):
        continue
      match = _VALIDATION.fullmatch(pathlib.PurePath(info.name).name)
      if not match or not 1 <= int(match.group(1)) <= len(truth):
        faults.append(f"{info.name} in {archive} is not an ImageNet validation image.")
        continue
      yield archive, info.name, classes.index(truth[int(match.group(1)) - 1]), info.offset_data, info.size
  raise_all(faults)


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[tarfile.TarFile]:
  """Opens a tar archive. Raises ValueError with its path for damage found while it is open."""
  try:
    with tarfile.open(path) as tar:
      yield tar
  except (tarfile.TarError, EOFError) as error:
    raise ValueError(f"{path} is damaged ({one_line(error)}). Download it again.") from error


def _list(name: str) -> list[str]:
  """Reads a list that TFDS ships: the WordNet ids of the classes, or of the validation images, in order."""
  return tfds.core.tfds_path(f"datasets/imagenet2012/{name}").read_text().split()
