"""What all builders share: a plan made of names alone, a check of every example, and the records' form."""

import abc
import concurrent.futures
import contextlib
import dataclasses
import io
import os
import pathlib
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from data import pictures
from data.faults import raise_all, size, wrong_values
from gcn_flax.labels import LabelSet

# What a data set can store without loss as it came.
_STORED_AS_IS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


@dataclasses.dataclass(frozen=True)
class Plan:
  """What will be prepared, found without reading a picture.

  Attributes:
    splits: split -> items, each one argument of `Builder.load`.
    counts: what was counted, by name; `published` says what it should be.
    published: the sizes that the owners of the data state, for some or all of `counts`.
    label_set: of the stored labels.
    unlabelled: splits that have no true labels.
    notes: lines worth telling.
  """

  splits: Mapping[str, Sequence[Any]]
  counts: dict[str, int]
  published: dict[str, int]
  label_set: LabelSet
  unlabelled: tuple[str, ...] = ()
  notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Example:
  """One example as it lies in the archives.

  Attributes:
    image_id: unique within the data set.
    image: the picture, encoded.
    label: stored values uint8 `[H, W]`; None in a split without labels; a number where the image has one class.
    instances: PNG of uint16 instance ids; None where the data set has none.
    image_name, label_name: the files, for errors.
  """

  image_id: str
  image: bytes
  label: np.ndarray | int | None
  instances: bytes | None = None
  image_name: str = ""
  label_name: str = ""


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A TFDS builder that checks all it was given before it writes.

  A subclass plans and loads; this class checks, re-encodes and stores.

  Attributes:
    published_pictures: whether the pictures are known to be their owners', so that grey ones and those
      that ask by EXIF to be turned are right as they are.
    has_instances: whether records carry instance ids.
  """

  published_pictures = False
  has_instances = False
  _plan: Plan | None = None

  @abc.abstractmethod
  def plan(self, root: pathlib.Path) -> Plan:
    """Finds the examples of every split in `root`. Raises ValueError listing all that is wrong."""

  @abc.abstractmethod
  def load(self, item: Any) -> Example:
    """Reads one item of the plan. Raises ValueError naming the file."""

  def check(self, plan: Plan) -> dict[str, list[int]]:
    """Reads every example once; raises ValueError listing every fault, by file.

    Returns:
      [largest height, largest width] of the images of each split, pixels.
    """

    def look(entry):
      split, item = entry
      try:
        return split, self.check_example(self.load(item), plan.label_set).shape[:2], None
      except (ValueError, OSError) as error:
        return split, (0, 0), str(error)

    entries = [(split, item) for split, items in plan.splits.items() for item in items]
    largest, faults = {split: [0, 0] for split in plan.splits}, []
    looks = in_threads(look, entries)
    for split, shape, fault in tqdm(looks, desc=f"checking {self.name}", total=len(entries), mininterval=1):
      largest[split] = list(map(max, largest[split], shape))
      faults += [fault] if fault else []
    raise_all(faults)
    return largest

  def digest(self, root: pathlib.Path) -> str:
    """Of what was given, where users change it: a prepared data set is not taken for another; '' where they do not."""
    return ""

  def check_example(self, example: Example, label_set: LabelSet) -> np.ndarray:
    """The image, RGB uint8 `[H, W, 3]`. Raises ValueError where the example cannot be trained on as it is."""
    image = pictures.decode_rgb(example.image, example.image_name, self.published_pictures)
    if example.label is None:
      return image
    if example.label.shape != image.shape[:2]:
      raise ValueError(
        f"{example.label_name} is {size(example.label)}, its image {example.image_name} is {size(image)}."
      )
    values = np.flatnonzero(np.bincount(example.label.ravel(), minlength=256)).tolist()
    wrong = [value for value in values if value not in label_set.raw_values]
    if wrong:
      raise ValueError(wrong_values(example.label_name, wrong, label_set.raw_values))
    return image

  def write(self, plan: Plan, metadata: Mapping[str, Any]) -> None:
    """Writes the records of a checked plan in `metadata["image_format"]`; TFDS renames the folder at the end."""
    self._plan = plan
    self.info.metadata.update(metadata)
    tfds.disable_progress_bar()  # It shows nothing of use; ours is in `_generate_examples`.
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    with tempfile.TemporaryDirectory() as downloads, contextlib.redirect_stdout(io.StringIO()):
      self.download_and_prepare(download_dir=downloads, download_config=config)

  def _info(self) -> tfds.core.DatasetInfo:
    features = {
      "image_id": tfds.features.Text(),
      "image": tfds.features.Image(shape=(None, None, 3)),
      "label": self.label_feature(),
    }
    if self.has_instances:
      features["instances"] = tfds.features.Image(shape=(None, None, 1), dtype=np.uint16, encoding_format="png")
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(features),
      description=type(self).__doc__,
      metadata=tfds.core.MetadataDict(),
    )

  def label_feature(self) -> tfds.features.FeatureConnector:
    """How a label is stored."""
    return tfds.features.Image(shape=(None, None, 1), encoding_format="png")

  def encode_label(self, label: Any) -> Any:
    """A label as `label_feature` takes it."""
    # A split without labels stores one void pixel, which no reader looks at.
    return io.BytesIO(pictures.encode_mask(np.full((1, 1), 255, np.uint8) if label is None else label))

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(split, items) for split, items in self._plan.splits.items()}

  def _generate_examples(self, split, items):
    yield from tqdm(in_threads(self._record, items), desc=f"writing {split}", total=len(items), mininterval=1)
    print(f"sorting the records of {split} ...", file=sys.stderr, flush=True)

  def _record(self, item: Any) -> tuple[str, dict[str, Any]]:
    example = self.load(item)
    record = {
      "image_id": example.image_id,
      "image": io.BytesIO(self._encoded(example)),
      "label": self.encode_label(example.label),
    }
    if self.has_instances:
      record["instances"] = io.BytesIO(example.instances)
    return example.image_id, record

  def _encoded(self, example: Example) -> bytes:
    as_jpeg = self.info.metadata["image_format"] == "jpeg"
    stored_as_is = example.image.startswith(_STORED_AS_IS[:1] if as_jpeg else _STORED_AS_IS)
    if stored_as_is and (not self.published_pictures or pictures.is_rgb(example.image)):
      return example.image
    image = pictures.decode_rgb(example.image, example.image_name, self.published_pictures)
    return pictures.encode_jpeg(image) if as_jpeg else pictures.encode_png(image)


def in_threads(function: Callable, items: Iterable) -> Iterator:
  """Yields `function(item)` in order, worked out by one thread for each core, only a few items ahead."""
  num_threads = os.cpu_count() or 1
  waiting = deque()
  with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
    for item in items:
      waiting.append(pool.submit(function, item))
      if len(waiting) > 2 * num_threads:
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()
