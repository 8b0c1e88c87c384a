"""Prepared data sets: each opened once, with its splits, classes and sizes."""

import json
import logging
import os
import pathlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from gcn_flax import files, json_files, labels
from gcn_flax.input_pipeline import class_balance
from gcn_flax.input_pipeline.examples import JoinedRecords, Source
from gcn_flax.messages import flag, in_clone, run_in_clone, use_one_of
from gcn_flax.printable import one_line

_log = logging.getLogger(__name__)
# Folders below `data_dir` whose name differs from their data set's.
_FOLDERS = {"cityscapes": "cityscapes/fine", "cityscapes_coarse": "cityscapes/coarse"}
_SIZES = "sizes.json"  # Stored split -> [height, width] of each image, in the order of the records.
# metadata.json, as far as it is read.
_METADATA = {
  "classes": [str],
  "palette?": [(range(256),) * 3],
  "unlabelled": [str],
  "digest": str,
  "largest": {str: (int, int)},
  "image_format": str,
  "partial": [str],
}
# Splits that are joined from stored ones when they are read.
_JOINED_SPLITS = {
  ("voc_segmentation", "trainval"): ("train", "validation"),
  ("voc_segmentation", "train_aug"): ("train", "sbd"),
}


class Dataset:
  """A prepared data set; opening it reads its description once, and its records only as they are asked for.

  Args:
    name: one of `gcn_flax.labels.DATASETS`.
    data_dir: the directory that was given to `data.prepare`.

  Attributes:
    name: name of the data set, as given.
    label_set: its classes; those of a user's folder and of ImageNet are read from the prepared data set.
    splits: number of examples of each split that can be opened.
    partial: counts that differ from the published ones, each as "train 8 instead of 2975"; empty for a complete data
      set.

  Raises ValueError for an unknown data set, and for one that is not prepared.
  """

  def __init__(self, name: str, data_dir: str):
    self.name = name
    self._prepare = _prepare_command(name, data_dir)
    folder = _find(name, data_dir)
    self._fix = f"Remove {folder} and {self._prepare}."
    self._builder = _open_builder(folder, self._fix)
    self._sources: dict[str, Source] = {}
    self._metadata = _read_metadata(self._builder, folder, self._fix)
    palette = tuple(map(tuple, self._metadata.get("palette", ())))
    self.label_set = labels.label_set_of(name, tuple(self._metadata.get("classes", ())), palette)
    self.splits = self._count_examples()
    self.partial: list[str] = self._metadata["partial"]
    counts = ", ".join(f"{split} {size:,}" for split, size in self.splits.items())
    _log.info("opened %s: %s", name, counts)

  def _count_examples(self) -> dict[str, int]:
    stored = {split: info.num_examples for split, info in self._builder.info.splits.items()}
    joined = {
      split: sum(stored.get(part, 0) for part in parts)
      for (name, split), parts in _JOINED_SPLITS.items()
      if name == self.name
    }
    return stored | joined

  def source(self, split: str) -> Source:
    """Returns the examples of a split. Raises ValueError for an unknown one, and if a file of records is missing."""
    self._check_split(split)
    if split not in self._sources:
      self._sources[split] = self._open_source(split)
    return self._sources[split]

  def _open_source(self, split: str) -> Source:
    for path in (path for name in self._stored_here(split) for path in self._builder.info.splits[name].filepaths):
      if not os.path.isfile(path):
        raise ValueError(f"{path}: missing. {self._fix}")
    features = self._builder.info.features.items()
    skip = {name: tfds.decode.SkipDecoding() for name, feature in features if isinstance(feature, tfds.features.Image)}
    parts = [self._builder.as_data_source(name, decoders=skip) for name in self._stored_here(split)]
    has_labels = split not in self._metadata["unlabelled"]
    records = parts[0] if len(parts) == 1 else JoinedRecords(parts)
    return Source(self.name, split, records, self.label_set, has_labels, self._stored_sizes(split))

  def _stored_sizes(self, split: str) -> np.ndarray | None:
    """Returns the sizes that `store_sizes` wrote; None if there are none, or not as many as examples."""
    path = self._folder / _SIZES
    fix = f"Remove it and {self._prepare}."
    try:
      stored = json_files.read(path, {name: [(range(1, 2**31),) * 2] for name in self._stored_here(split)}, fix)
      sizes = np.array([size for part in self._stored_here(split) for size in stored[part]], np.int32)
      if len(sizes) != self.splits[split]:
        raise ValueError(f"{path}: damaged ({len(sizes)} sizes of {self.splits[split]} images). {fix}")
      return sizes.reshape(-1, 2)
    except FileNotFoundError:  # A data set of an older version.
      return None
    except (ValueError, OSError) as error:  # The headers of the images tell the same.
      _log.warning("WARNING: %s It is ignored.", error)
      return None

  def store_sizes(self) -> None:
    """Stores the size of each image beside the records, if that has not been done, for `Source.sizes`."""
    if self.name in labels.CLASSIFICATION or (self._folder / _SIZES).exists():
      return
    sizes = {split: self.source(split).sizes.tolist() for split in self._builder.info.splits}
    files.write(self._folder / _SIZES, json.dumps(sizes))

  def class_presence(self, split: str) -> np.ndarray:
    """Returns which classes each image of a split contains, bool `[N, C]`. Raises ValueError as `source`."""
    return class_balance.class_presence(self.source(split), self._folder)

  @property
  def _folder(self) -> pathlib.Path:
    return pathlib.Path(self._builder.data_path)

  def largest_image(self, split: str) -> tuple[int, int]:
    """Returns (largest height, largest width) of a split's images in pixels. Raises ValueError for an unknown split."""
    self._check_split(split)
    largest = self._metadata["largest"]
    sides = [largest[name] for name in stored_splits(self.name, split) if name in largest]
    return tuple(map(max, zip(*sides, strict=True)))

  def fingerprint(self, split: str) -> dict[str, Any]:
    """Returns values that change when a split is prepared from other files or in another format."""
    self._check_split(split)
    stored = [self._builder.info.splits[name] for name in self._stored_here(split)]
    return {
      "examples": sum(info.num_examples for info in stored),
      "bytes": sum(info.num_bytes for info in stored),
      **{name: self._metadata[name] for name in ("image_format", "classes", "digest")},
    }

  def _stored_here(self, split: str) -> list[str]:
    return [name for name in stored_splits(self.name, split) if name in self._builder.info.splits]

  def _check_split(self, split: str) -> None:
    if split not in self.splits:
      raise ValueError(f"{self.name} has no split {split!r}. {use_one_of(split, sorted(self.splits))}.")


def open_source(dataset: str, split: str, data_dir: str) -> Source:
  """Opens one split of a prepared data set.

  Args:
    dataset: one of `gcn_flax.labels.DATASETS`.
    split: `train` or `validation`; also `trainval`, `train_aug` and `test` of VOC, `test` of Cityscapes, and
      `train_extra`, the only split of `cityscapes_coarse`.
    data_dir: the directory that was given to `data.prepare`.

  Raises ValueError for an unknown data set or split, and for a data set that is not prepared.
  """
  return Dataset(dataset, data_dir).source(split)


def open_label_set(dataset: str, data_dir: str) -> labels.LabelSet:
  """Returns the classes of a data set, which need not be prepared if its classes are fixed.

  Raises ValueError as `Dataset`.
  """
  labels.check_dataset(dataset)
  return labels.LABELS.get(dataset) or Dataset(dataset, data_dir).label_set


def stored_splits(dataset: str, split: str) -> tuple[str, ...]:
  """Returns the stored splits that a split is joined from; for most the split itself."""
  return _JOINED_SPLITS.get((dataset, split), (split,))


def dataset_folder(dataset: str, data_dir: str) -> pathlib.Path:
  """Returns the directory of a data set's versions.

  Raises ValueError for an unknown data set, a bucket, and a path that is not UTF-8.
  """
  labels.check_dataset(dataset)
  if "://" in data_dir:
    raise ValueError(
      f"data_dir={data_dir!r}: records are read from local paths only; "
      f"{run_in_clone(f'launch/data.sh mount {data_dir} DIR')}."
    )
  try:
    data_dir.encode()
  except UnicodeEncodeError as error:
    raise ValueError(f"data_dir={data_dir!r}: records are read from UTF-8 paths only. Rename the folder.") from error
  return pathlib.Path(os.path.expanduser(data_dir)) / _FOLDERS.get(dataset, dataset)


def is_prepared(dataset: str, data_dir: str) -> bool:
  """Returns True if a data set can be opened. Raises ValueError for an unknown one."""
  return bool(_versions(dataset, data_dir))


def _versions(dataset: str, data_dir: str) -> list[pathlib.Path]:
  # TFDS writes into a folder of another name and renames it at the end.
  files = dataset_folder(dataset, data_dir).glob("[0-9]*.[0-9]*.[0-9]*/dataset_info.json")
  return sorted(path.parent for path in files)


def _find(dataset: str, data_dir: str) -> pathlib.Path:
  """Returns the folder of a data set's newest version. Raises ValueError if there is none."""
  versions = _versions(dataset, data_dir)
  if not versions:
    command = _prepare_command(dataset, data_dir)
    raise ValueError(
      f"data set {dataset!r} is not prepared in {data_dir!r}. Set data_dir to the folder that holds it, or {command} "
      "(see data/README.md)."
    )
  return versions[-1]


def _prepare_command(dataset: str, data_dir: str) -> str:
  """Returns how a data set is prepared, for error messages."""
  if not in_clone():  # The command is run in another folder than this one.
    data_dir = os.path.abspath(os.path.expanduser(data_dir))
  return run_in_clone(f"python -m data.prepare --dataset={dataset} {flag('data_dir', data_dir)} --manual_dir=DOWNLOADS")


def _open_builder(folder: pathlib.Path, fix: str) -> tfds.core.DatasetBuilder:
  """Opens a data set. Raises ValueError if its description is damaged, or its records have no random access."""
  for name in ("dataset_info.json", "features.json"):
    if (folder / name).exists():
      json_files.read(folder / name, {}, fix)
  try:
    builder = tfds.builder_from_directory(folder)
    file_format, _ = builder.info.file_format, builder.info.features
  except Exception as error:  # TFDS raises many kinds for descriptions that are incomplete.
    raise ValueError(f"{folder}: damaged ({one_line(error)[:200] or type(error).__name__}). {fix}") from error
  if file_format != tfds.core.FileFormat.ARRAY_RECORD:
    raise ValueError(
      f"{builder.data_path} holds {builder.info.file_format.value}, which has no random access. {fix} Or "
      "prepare it with TFDS and file_format='array_record'."
    )
  return builder


def _read_metadata(builder: tfds.core.DatasetBuilder, folder: pathlib.Path, fix: str) -> dict[str, Any]:
  path = folder / "metadata.json"
  if not path.exists():
    return _metadata_of_tfds(builder)
  metadata = json_files.read(path, _METADATA, fix)
  lacking = [split for split in builder.info.splits if split not in metadata["largest"]]
  if lacking:
    raise ValueError(f"{path}: damaged ('largest' has no {lacking[0]!r}). {fix}")
  return metadata


def _metadata_of_tfds(builder: tfds.core.DatasetBuilder) -> dict[str, Any]:
  """Returns the metadata of an ImageNet that TFDS prepared. Raises ValueError for any other data set."""
  if builder.name != "imagenet2012":
    raise ValueError(f"{builder.data_path} was not written by data.prepare. Remove it and prepare it again.")
  sizes = {name: info.num_examples for name, info in builder.info.splits.items()}
  return {
    "classes": builder.info.features["label"].names,
    "unlabelled": ["test"],
    "digest": "",
    "image_format": "original",
    "partial": labels.differences(sizes, labels.IMAGENET_SIZES),
  }
