"""Opens prepared data sets as random-access sequences of images and their labels."""

import bisect
import itertools
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from gcn_flax import labels

cv2.setNumThreads(0)  # The loader's own threads fill the cores; OpenCV's would only get in their way.

# Where `data.prepare` leaves a data set below `data_dir`, where that is not its name.
_FOLDERS = {"cityscapes": "cityscapes/fine", "cityscapes_coarse": "cityscapes/coarse"}
# Splits that are put together of stored ones.
_TOGETHER = {
  ("voc_segmentation", "trainval"): ("train", "validation"),
  ("voc_segmentation", "train_aug"): ("train", "sbd"),
}


class CorruptExample(ValueError):
  """An example that cannot be read; its text names it."""


class Source(Sequence):
  """One split of a data set: `len` and `[i]`, nothing augmented or resized.

  An example is `{'image': uint8 [H, W, 3] RGB, 'label': uint8 [H, W], 'image_id': str}`;
  labels are train ids, 255 = ignore. In the data sets of `labels.CLASSIFICATION` the label is one
  int32, the image's class. `label` is absent where the split has none.

  Attributes:
    dataset, split: as opened.
    label_set: the classes.
    has_labels: whether the split has true labels.
  """

  def __init__(self, dataset: str, split: str, records: Sequence[Any], metadata: dict[str, Any]):
    self.dataset, self.split = dataset, split
    self.label_set = _label_set(dataset, metadata)
    self.has_labels = split not in metadata["unlabelled"]
    self._records = records

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Raises IndexError past the end, and CorruptExample where what is stored is damaged."""
    try:
      try:
        record = self._record(index)
      except RuntimeError:  # Of array_record, whose records have digests. Of a network, too: so once more.
        record = self._record(index)
      return self._example(record)
    except (RuntimeError, ValueError) as error:
      raise CorruptExample(
        f"{self.dataset} {self.split!r}, example {index}, is damaged: {error}; prepare the data set again"
      ) from error

  def _example(self, record: dict[str, Any]) -> dict[str, Any]:
    image_id = _image_id(record)
    example = {"image": decode_image(record["image"], image_id), "image_id": image_id}
    if self.has_labels:
      label = self._label(record)
      if label.ndim and label.shape != example["image"].shape[:2]:
        raise ValueError(f"{image_id}: the label is {label.shape}, the image {example['image'].shape[:2]}.")
      example["label"] = label
    return example

  def image_id(self, index: int) -> str:
    """The name of example `index`."""
    return _image_id(self._record(index))

  def label(self, index: int) -> np.ndarray:
    """The label of example `index` without its image. Raises ValueError where there is none."""
    if not self.has_labels:
      raise ValueError(f"{self.dataset} {self.split!r} has no true labels.")
    return self._label(self._record(index))

  def instances(self, index: int) -> np.ndarray:
    """The instance ids uint16 `[H, W]` of example `index`, as Cityscapes stores them.

    A pixel of an instance holds raw label id * 1000 + number, any other its raw label id.
    Raises ValueError for a data set without instance ids.
    """
    record = self._record(index)
    if "instances" not in record:
      raise ValueError(f"{self.dataset} has no instance ids; cityscapes and cityscapes_coarse have.")
    return _decode(record["instances"], cv2.IMREAD_UNCHANGED).astype(np.uint16)

  def _label(self, record: dict[str, Any]) -> np.ndarray:
    if self.dataset in labels.CLASSIFICATION:
      return np.int32(record["label"])
    return cv2.LUT(decode_label(record["label"], _image_id(record)), self.label_set.raw_to_train)

  def _record(self, index: int) -> dict[str, Any]:
    return self._records[range(len(self))[index]]  # IndexError past the end, as of any sequence.


def _image_id(record: dict[str, Any]) -> str:
  image_id = record["image_id"] if "image_id" in record else record["file_name"]  # TFDS's own ImageNet has the latter.
  return image_id.decode() if isinstance(image_id, bytes) else str(image_id)


class _Joined(Sequence):
  """The records of several splits, one after the other."""

  def __init__(self, parts: Sequence[Sequence[Any]]):
    self.parts = tuple(parts)
    self._ends = list(itertools.accumulate(map(len, self.parts)))

  def __len__(self) -> int:
    return self._ends[-1]

  def __getitem__(self, index: int) -> dict[str, Any]:
    index = range(len(self))[index]
    part = bisect.bisect_right(self._ends, index)
    return self.parts[part][index - (self._ends[part - 1] if part else 0)]


def open_source(dataset: str, split: str, data_dir: str) -> Source:
  """Opens one split of a prepared data set.

  Args:
    dataset: one of `gcn_flax.labels.DATASETS`.
    split: `train` or `validation`; also VOC's `trainval`, `train_aug` and `test`, Cityscapes' `test`, and
      `train_extra`, the only one of `cityscapes_coarse`.
    data_dir: the directory that was given to `data.prepare`.

  Raises:
    ValueError: for an unknown data set or split, or one that is not prepared yet.
  """
  builder = _builder(dataset, data_dir)
  if split not in split_sizes(dataset, data_dir):
    raise ValueError(
      f"{dataset} has no split {split!r}; choose one of {', '.join(sorted(split_sizes(dataset, data_dir)))}."
    )
  pictures = (name for name, feature in builder.info.features.items() if isinstance(feature, tfds.features.Image))
  skip = {name: tfds.decode.SkipDecoding() for name in pictures}
  parts = [
    builder.as_data_source(name, decoders=skip) for name in stored_splits(dataset, split) if name in builder.info.splits
  ]
  return Source(dataset, split, parts[0] if len(parts) == 1 else _Joined(parts), _metadata(builder))


def open_label_set(dataset: str, data_dir: str) -> labels.LabelSet:
  """The classes of a data set; those of a user's folder and of ImageNet are read from what was prepared.

  Raises ValueError as `open_source`.
  """
  labels.check_dataset(dataset)
  if dataset in labels.LABELS:
    return labels.LABELS[dataset]
  return _label_set(dataset, _metadata(_builder(dataset, data_dir)))


def split_sizes(dataset: str, data_dir: str) -> dict[str, int]:
  """Number of examples of each split that can be opened. Raises ValueError as `open_source`."""
  stored = {name: info.num_examples for name, info in _builder(dataset, data_dir).info.splits.items()}
  together = {
    split: sum(stored.get(name, 0) for name in names) for (name, split), names in _TOGETHER.items() if name == dataset
  }
  return stored | together


def stored_splits(dataset: str, split: str) -> tuple[str, ...]:
  """The stored splits that a split is put together of; itself, for most."""
  return _TOGETHER.get((dataset, split), (split,))


def largest_image(dataset: str, split: str, data_dir: str) -> tuple[int, int]:
  """(largest height, largest width) of a split's images, pixels. Raises ValueError as `open_source`."""
  largest = _metadata(_builder(dataset, data_dir))["largest"]
  sides = [largest[name] for name in stored_splits(dataset, split) if name in largest]
  return tuple(map(max, zip(*sides, strict=True)))


def fingerprint(dataset: str, split: str, data_dir: str) -> dict[str, Any]:
  """What changes where a split is prepared from other files or in another form. Raises ValueError as `open_source`."""
  builder = _builder(dataset, data_dir)
  metadata = _metadata(builder)
  stored = [builder.info.splits[name] for name in stored_splits(dataset, split) if name in builder.info.splits]
  return {
    "examples": sum(info.num_examples for info in stored),
    "bytes": sum(info.num_bytes for info in stored),
    "image_format": metadata["image_format"],
    "classes": metadata["classes"],
    "digest": metadata["digest"],
  }


def lacks(dataset: str, data_dir: str) -> list[str]:
  """Which counts differ from the published ones: "train 8 instead of 2975". Raises ValueError as `open_source`."""
  return _metadata(_builder(dataset, data_dir))["partial"]


def dataset_folder(dataset: str, data_dir: str) -> pathlib.Path:
  """The directory of a data set's versions. Raises ValueError for an unknown data set or a bucket."""
  labels.check_dataset(dataset)
  if "://" in data_dir:
    raise ValueError(
      f"data_dir={data_dir!r}: records are read from local paths only: run launch/data.sh mount {data_dir} DIR."
    )
  return pathlib.Path(os.path.expanduser(data_dir)) / _FOLDERS.get(dataset, dataset)


def is_prepared(dataset: str, data_dir: str) -> bool:
  """Whether a data set can be opened. Raises ValueError for an unknown one."""
  return bool(_versions(dataset, data_dir))


def _versions(dataset: str, data_dir: str) -> list[pathlib.Path]:
  # TFDS writes into a folder of another name and renames it at the end.
  files = dataset_folder(dataset, data_dir).glob("[0-9]*.[0-9]*.[0-9]*/dataset_info.json")
  return sorted(path.parent for path in files)


def _builder(dataset: str, data_dir: str) -> tfds.core.DatasetBuilder:
  versions = _versions(dataset, data_dir)
  if not versions:
    raise ValueError(
      f"data set {dataset!r} is not prepared in {data_dir!r}; run: "
      f"python -m data.prepare --dataset={dataset} --data_dir={data_dir} --manual_dir=DOWNLOADS (see data/README.md)."
    )
  builder = tfds.builder_from_directory(versions[-1])
  if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
    raise ValueError(
      f"{builder.data_path} holds {builder.info.file_format.value}, which cannot be read at random: prepare the data "
      "set by data.prepare, or by TFDS with file_format='array_record'."
    )
  return builder


def _metadata(builder: tfds.core.DatasetBuilder) -> dict[str, Any]:
  path = pathlib.Path(builder.data_path) / "metadata.json"
  return json.loads(path.read_text()) if path.exists() else _metadata_of_tfds(builder)


def _metadata_of_tfds(builder: tfds.core.DatasetBuilder) -> dict[str, Any]:
  """What `data.prepare` would have noted of an ImageNet that TFDS prepared. Raises ValueError for anything else."""
  if builder.name != "imagenet2012":
    raise ValueError(f"{builder.data_path} was not written by data.prepare: remove it and prepare it again.")
  sizes = {name: info.num_examples for name, info in builder.info.splits.items()}
  return {
    "classes": builder.info.features["label"].names,
    "unlabelled": ["test"],
    "digest": "",
    "image_format": "original",
    "partial": labels.differences(sizes, labels.IMAGENET_SIZES),
  }


def _label_set(dataset: str, metadata: dict[str, Any]) -> labels.LabelSet:
  if dataset in labels.LABELS:
    return labels.LABELS[dataset]
  if dataset in labels.CLASSIFICATION:
    return labels.image_labels(tuple(metadata["classes"]), {})
  palette = tuple(tuple(colour) for colour in metadata["palette"])
  return labels.plain_labels(tuple(metadata["classes"]), palette, {})


def decode_image(data: bytes, image_id: str) -> np.ndarray:
  """Decodes an encoded picture to RGB uint8 `[H, W, 3]`. Raises ValueError where it is broken."""
  image = _decode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
  if image is None:
    raise ValueError(f"{image_id}: the image cannot be decoded ({len(data)} bytes).")
  return image


def decode_label(data: bytes, image_id: str) -> np.ndarray:
  """Decodes a single-channel PNG to its stored values, uint8 `[H, W]`. Raises ValueError where it is broken."""
  label = _decode(data, cv2.IMREAD_UNCHANGED)
  if label is None or label.ndim != 2 or label.dtype != np.uint8:
    found = "nothing" if label is None else f"{label.dtype} {label.shape}"
    raise ValueError(f"{image_id}: the label must decode to uint8 [H, W], not to {found}.")
  return label


def _decode(data: bytes, flags: int) -> np.ndarray | None:
  return cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None  # OpenCV takes no empty array.
