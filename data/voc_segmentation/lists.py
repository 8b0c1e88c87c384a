"""Splits of VOC and SBD, from their list files."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

from data.faults import raise_all


@dataclasses.dataclass(frozen=True)
class Lists:
  """Image ids in the list files of VOC 2012 (`ImageSets/Segmentation`) and SBD."""

  voc_train: Sequence[str]
  voc_val: Sequence[str]
  voc_test: Sequence[str]
  sbd_train: Sequence[str]
  sbd_val: Sequence[str]


def splits(lists: Lists) -> dict[str, list[str]]:
  """Returns the image ids of the stored splits `train`, `validation`, `test` and `sbd`, each id once.

  `sbd` contains the images that SBD adds to VOC's training set: SBD's train and val, without VOC's train, whose own
  masks are used, and without VOC's val, hundreds of which are in SBD's lists and would leak. `train_aug` is `train`
  plus `sbd`, `trainval` is `train` plus `validation`.

  Raises:
    ValueError: listing ids that occur twice in a list or in two lists of VOC, and empty lists of VOC.
  """
  faults = []
  for name, ids in vars(lists).items():
    twice = sorted(image_id for image_id, count in Counter(ids).items() if count > 1)
    faults += [f"{_FILES[name]} lists {image_id} more than once." for image_id in twice]
    if not ids and name.startswith("voc"):
      faults.append(f"{_FILES[name]} is empty.")
  train, validation, test = set(lists.voc_train), set(lists.voc_val), set(lists.voc_test)
  faults += [f"{image_id} is in both train and val of VOC." for image_id in sorted(train & validation)]
  faults += [f"{image_id} is in both test and trainval of VOC." for image_id in sorted(test & (train | validation))]
  raise_all(faults)
  sbd = set(lists.sbd_train) | set(lists.sbd_val)
  return {
    "train": sorted(train),
    "validation": sorted(validation),
    "sbd": sorted(sbd - train - validation),
    "test": sorted(test),
  }


def counts(stored: dict[str, list[str]]) -> dict[str, int]:
  """Returns the number of images of each split, including the ones composed of stored splits."""
  sizes = {split: len(ids) for split, ids in stored.items()}
  return {
    "train": sizes["train"],
    "validation": sizes["validation"],
    "trainval": sizes["train"] + sizes["validation"],
    "train_aug": sizes["train"] + sizes["sbd"],
    "test": sizes["test"],
  }


VOC_ROOT = "VOCdevkit/VOC2012"
SBD_ROOT = "benchmark_RELEASE/dataset"
_FILES = {
  "voc_train": f"{VOC_ROOT}/ImageSets/Segmentation/train.txt",
  "voc_val": f"{VOC_ROOT}/ImageSets/Segmentation/val.txt",
  "voc_test": f"{VOC_ROOT}/ImageSets/Segmentation/test.txt",
  "sbd_train": f"{SBD_ROOT}/train.txt",
  "sbd_val": f"{SBD_ROOT}/val.txt",
}


def read(trainval, test, sbd) -> Lists:
  """Reads the lists from the three archives, each a `data.archives.Archive`. Raises ValueError if one is missing."""
  holders = {"voc_train": trainval, "voc_val": trainval, "voc_test": test, "sbd_train": sbd, "sbd_val": sbd}
  return Lists(**{name: holders[name].read_lines(file) for name, file in _FILES.items()})
