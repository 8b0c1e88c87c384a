"""Opens prepared data sets as random-access sequences of images and train-id labels."""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from gcn_flax.labels import label_set

# Where `data.prepare` leaves a data set below `data_dir`: "<builder>[/<config>]".
_FOLDERS = {"shapes": "shapes", "camvid": "camvid", "cityscapes": "cityscapes/semantic_segmentation"}
# The names TFDS's own builders give to what ours call image and label.
_FEATURES = {"cityscapes": ("image_left", "segmentation_label")}
# Splits whose stored labels are dummies.
_UNLABELLED = {("cityscapes", "test")}


class Source(Sequence):
  """One split of a data set: `len` and `[i]`, nothing augmented or resized.

  An example is `{'image': uint8 [H, W, 3] RGB, 'label': uint8 [H, W], 'image_id': str}`;
  labels are train ids, 255 = ignore. `label` is absent where the split has none.
  """

  def __init__(self, dataset: str, split: str, records: Sequence[Any]):
    self.dataset, self.split = dataset, split
    self.label_set = label_set(dataset)
    self.has_labels = (dataset, split) not in _UNLABELLED
    self._records = records
    self._image_key, self._label_key = _FEATURES.get(dataset, ("image", "label"))

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    record = self._records[range(len(self))[index]]  # IndexError past the end, as of any sequence.
    image_id = record["image_id"]
    image_id = image_id.decode() if isinstance(image_id, bytes) else str(image_id)
    example = {"image": decode_image(record[self._image_key], image_id), "image_id": image_id}
    if self.has_labels:
      label = self.label_set.raw_to_train[decode_label(record[self._label_key], image_id)]
      if label.shape != example["image"].shape[:2]:
        raise ValueError(f"{image_id}: the label is {label.shape}, the image {example['image'].shape[:2]}.")
      example["label"] = label
    return example


def open_source(dataset: str, split: str, data_dir: str) -> Source:
  """Opens one split of a prepared data set.

  Args:
    dataset: a key of `gcn_flax.labels.LABELS`.
    split: `train` or `validation`, `test` where the data set has it.
    data_dir: the directory that was given to `data.prepare`.

  Raises:
    ValueError: for an unknown data set or split, or one that is not prepared yet.
  """
  builder = _builder(dataset, data_dir)
  if split not in builder.info.splits:
    raise ValueError(f"{dataset} has no split {split!r}; choose one of {', '.join(sorted(builder.info.splits))}.")
  image_key, label_key = _FEATURES.get(dataset, ("image", "label"))
  skip = {image_key: tfds.decode.SkipDecoding(), label_key: tfds.decode.SkipDecoding()}
  return Source(dataset, split, builder.as_data_source(split, decoders=skip))


def split_sizes(dataset: str, data_dir: str) -> dict[str, int]:
  """Number of examples of each prepared split. Raises ValueError as `open_source`."""
  return {name: info.num_examples for name, info in _builder(dataset, data_dir).info.splits.items()}


def dataset_folder(dataset: str, data_dir: str) -> pathlib.Path:
  """The directory of a data set's versions. Raises ValueError for an unknown data set or a bucket."""
  label_set(dataset)
  if "://" in data_dir:
    raise ValueError(f"data_dir={data_dir!r}: records are read from local paths only; mount the bucket or copy it.")
  return pathlib.Path(os.path.expanduser(data_dir)) / _FOLDERS[dataset]


def _builder(dataset: str, data_dir: str) -> tfds.core.DatasetBuilder:
  folder = dataset_folder(dataset, data_dir)
  # TFDS writes into a folder of another name and renames it at the end.
  versions = sorted(path.parent for path in folder.glob("[0-9]*.[0-9]*.[0-9]*/dataset_info.json"))
  if not versions:
    raise ValueError(
      f"data set {dataset!r} is not prepared in {data_dir!r}; run: "
      f"python -m data.prepare --dataset={dataset} --data_dir={data_dir} --manual_dir=DOWNLOADS (see data/README.md)."
    )
  info = json.loads((versions[-1] / "dataset_info.json").read_text())
  if info.get("fileFormat") != "array_record":
    raise ValueError(
      f"{versions[-1]} holds {info.get('fileFormat', 'tfrecord')} files; only array_record can be read at random. "
      f"Move it away and run: python -m data.prepare --dataset={dataset} --data_dir={data_dir}"
    )
  return tfds.builder_from_directory(versions[-1])


def decode_image(data: bytes, image_id: str) -> np.ndarray:
  """Decodes an encoded picture to RGB uint8 `[H, W, 3]`. Raises ValueError where it is broken."""
  flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
  image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
  if image is None:
    raise ValueError(f"{image_id}: the image cannot be decoded ({len(data)} bytes).")
  return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def decode_label(data: bytes, image_id: str) -> np.ndarray:
  """Decodes a single-channel PNG to its stored values, uint8 `[H, W]`. Raises ValueError where it is broken."""
  label = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
  if label is None or label.ndim != 2 or label.dtype != np.uint8:
    found = "nothing" if label is None else f"{label.dtype} {label.shape}"
    raise ValueError(f"{image_id}: the label must decode to uint8 [H, W], not to {found}.")
  return label
