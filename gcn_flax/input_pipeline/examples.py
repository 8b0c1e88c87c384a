"""Examples of one split of a prepared data set: random access and decoding."""

import bisect
import functools
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from gcn_flax import labels
from gcn_flax.input_pipeline import pictures
from gcn_flax.parallel import parallel_map

_log = logging.getLogger(__name__)
_NUM_READERS = 8  # Threads that read sizes; they wait for the disk.

cv2.setNumThreads(0)  # The loader's own threads fill the cores; OpenCV's would only get in their way.


class CorruptExample(ValueError):
  """Signals an example that cannot be read; the message names it."""


class Source(Sequence):
  """One split of a data set, a random-access sequence of examples; nothing is augmented or resized.

  An example is `{'image': uint8 [H, W, 3] RGB, 'label': uint8 [H, W], 'image_id': str}`; labels are train ids,
  255 = ignore. In the data sets of `labels.CLASSIFICATION` the label is an int32 scalar, the class of the image. A
  split without ground truth has no `label`.

  Attributes:
    dataset, split: names, as opened.
    label_set: its classes.
    has_labels: True if the split has ground truth.
  """

  def __init__(
    self,
    dataset: str,
    split: str,
    records: Sequence[Any],
    label_set: labels.LabelSet,
    has_labels: bool,
    sizes: np.ndarray | None = None,
  ):
    self.dataset, self.split, self.label_set, self.has_labels = dataset, split, label_set, has_labels
    self._records, self._stored_sizes = records, sizes

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Returns an example. Raises IndexError past the end, and CorruptExample for a damaged record."""
    return self._read(index, self._example)

  def _read(self, index: int, decode: Callable[[dict[str, Any]], Any]) -> Any:
    """Decodes a record, or a part of it. Raises CorruptExample if it is damaged."""
    try:
      try:
        record = self._record(index)
      except RuntimeError:  # array_record's digests do not match; on a network disk a second read may succeed.
        record = self._record(index)
      if any(value is None for value in record.values()):  # As read from a file of records that was cut.
        raise ValueError("its record is incomplete")
      return decode(record)
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
    """Returns the name of example `index`."""
    return self._read(index, _image_id)

  @functools.cached_property
  def sizes(self) -> np.ndarray:
    """(Height, width) of each image in pixels, int32 `[N, 2]`.

    Read from the header of each record for data sets whose sizes are not stored. Raises CorruptExample as reading an
    example.
    """
    if self._stored_sizes is not None:
      return self._stored_sizes
    _log.info("reading the size of each image of %s %s", self.dataset, self.split)
    sizes = list(parallel_map(self._size, range(len(self)), _NUM_READERS))
    return np.array(sizes, np.int32).reshape(-1, 2)

  def _size(self, index: int) -> tuple[int, int]:
    return self._read(index, lambda record: pictures.encoded_size(record["image"]))

  def label(self, index: int) -> np.ndarray:
    """Returns the label of example `index` without decoding its image. Raises ValueError for a split without labels."""
    if not self.has_labels:
      raise ValueError(f"{self.dataset} {self.split!r} has no true labels.")
    return self._read(index, self._label)

  def instances(self, index: int) -> np.ndarray:
    """Returns the instance ids uint16 `[H, W]` of example `index`, as Cityscapes stores them.

    A pixel of an instance holds raw label id * 1000 + instance number, any other pixel its raw label id.
    Raises ValueError for a data set without instance ids.
    """
    if not self.label_set.instance_sizes:
      raise ValueError(f"{self.dataset} has no instance ids; cityscapes and cityscapes_coarse have.")
    return self._read(index, self._instances)

  def _instances(self, record: dict[str, Any]) -> np.ndarray:
    instances = _decode(record["instances"], cv2.IMREAD_UNCHANGED)
    if instances is None:
      raise ValueError(f"{_image_id(record)}: the instance ids cannot be decoded.")
    return instances.astype(np.uint16)

  def _label(self, record: dict[str, Any]) -> np.ndarray:
    if self.dataset in labels.CLASSIFICATION:
      return np.int32(record["label"])
    return cv2.LUT(decode_label(record["label"], _image_id(record)), self.label_set.raw_to_train)

  def _record(self, index: int) -> dict[str, Any]:
    return self._records[range(len(self))[index]]  # Negative indices count from the end.


def _image_id(record: dict[str, Any]) -> str:
  image_id = record["image_id"] if "image_id" in record else record["file_name"]  # TFDS's own ImageNet has `file_name`.
  return image_id.decode() if isinstance(image_id, bytes) else str(image_id)


class JoinedRecords(Sequence):
  """Records of several splits, one after the other."""

  def __init__(self, parts: Sequence[Sequence[Any]]):
    self.parts = tuple(parts)
    self._ends = list(itertools.accumulate(map(len, self.parts)))

  def __len__(self) -> int:
    return self._ends[-1]

  def __getitem__(self, index: int) -> dict[str, Any]:
    index = range(len(self))[index]
    part = bisect.bisect_right(self._ends, index)
    return self.parts[part][index - (self._ends[part - 1] if part else 0)]


def decode_image(data: bytes, image_id: str) -> np.ndarray:
  """Decodes a picture to RGB uint8 `[H, W, 3]`. Raises ValueError if it is damaged."""
  image = _decode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
  if image is None:
    raise ValueError(f"{image_id}: the image cannot be decoded ({len(data)} bytes).")
  return image


def decode_label(data: bytes, image_id: str) -> np.ndarray:
  """Decodes a single-channel PNG to its stored values, uint8 `[H, W]`. Raises ValueError if it is damaged."""
  label = _decode(data, cv2.IMREAD_UNCHANGED)
  if label is None or label.ndim != 2 or label.dtype != np.uint8:
    found = "nothing" if label is None else f"{label.dtype} {label.shape}"
    raise ValueError(f"{image_id}: the label must decode to uint8 [H, W], not to {found}.")
  return label


def _decode(data: bytes, flags: int) -> np.ndarray | None:
  try:
    return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
  except cv2.error:  # Raised for an empty file and for more than 2**30 pixels; damaged files give None.
    return None
