"""Base class of the TFDS builders: plans the splits, checks every example, writes the records.

To add a data set, derive a `Builder` in `data/NAME/NAME_dataset_builder.py`, and add its label set to `LABELS` in
gcn_flax/labels.py, or only its name to `DATASETS` there if its classes are read from the prepared data.
"""

import abc
import contextlib
import dataclasses
import io
import os
import pathlib
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from data import pictures
from data.class_counts import ClassCounts, pixels_by_class
from data.faults import raise_all, size, wrong_values
from gcn_flax.input_pipeline.pictures import MAX_JPEG_SIDE, check_image_id
from gcn_flax.labels import LabelSet
from gcn_flax.parallel import parallel_map

# Magic numbers of the formats that are stored byte for byte: JPEG and PNG.
_STORED_AS_IS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")

_MAX_WARNINGS = 20


@dataclasses.dataclass(frozen=True)
class Plan:
  """The examples to prepare, found without reading any image.

  Attributes:
    splits: split -> items, each an argument of `Builder.load`.
    counts: name -> number of examples found.
    published: the official numbers, for some or all of `counts`.
    label_set: classes of the stored labels.
    unlabelled: splits without true labels.
    notes: remarks to print for the user.
  """

  splits: Mapping[str, Sequence[Any]]
  counts: dict[str, int]
  published: dict[str, int]
  label_set: LabelSet
  unlabelled: tuple[str, ...] = ()
  notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Example:
  """One example as it is stored in the archives.

  Attributes:
    image_id: unique name within the data set.
    image: the encoded image file.
    label: stored values, uint8 `[H, W]`; a class number if there is one class per image; None without labels.
    instances: PNG of uint16 instance ids; None if the data set has none.
    image_name, label_name: file names for error messages.
  """

  image_id: str
  image: bytes
  label: np.ndarray | int | None
  instances: bytes | None = None
  image_name: str = ""
  label_name: str = ""


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A TFDS builder that checks all its input before it writes anything.

  Subclasses implement `plan` and `load`; this class checks, re-encodes and stores.

  Attributes:
    published_pictures: if True, the images are the official ones, whose labels fit the pixels as stored: grey images
      and EXIF orientations are accepted.
    has_instances: if True, records contain instance ids.
    void_cure: what to do about a split whose masks are void.
    takes_val_fraction: if True, `val_fraction` can be set.
    val_fraction: share of the images of train to keep for validation; None if the user's files have that split.
  """

  published_pictures = False
  has_instances = False
  takes_val_fraction = False
  val_fraction: float | None = None
  void_cure = "Replace the masks"
  _plan: Plan | None = None

  @abc.abstractmethod
  def plan(self, root: pathlib.Path) -> Plan:
    """Finds the examples of every split in `root`. Raises ValueError listing every fault."""

  @abc.abstractmethod
  def load(self, item: Any) -> Example:
    """Reads one item of the plan. Raises ValueError with the file's name if it is missing or damaged."""

  def check(self, plan: Plan) -> dict[str, Any]:
    """Reads and checks every example.

    Returns:
      What the metadata of the data set tells of its examples: `largest`, split -> [max height, max width] of its
      images in pixels; `class_counts`, the pixels and images by class; `warnings`, to print for the user.

    Raises:
      ValueError: listing every fault with the file's name, or the splits without a labelled pixel.
    """

    def check_item(entry):
      split, item = entry
      try:
        example = self.load(item)
        image = self.check_example(example, plan.label_set)
        self._check_stored(example, image)
        pixels = None if split in plan.unlabelled else pixels_by_class(example.label, plan.label_set)
        return split, image.shape[:2], pixels, None
      except (ValueError, OSError) as error:
        return split, (0, 0), None, str(error)

    entries = [(split, item) for split, items in plan.splits.items() for item in items]
    largest, faults = {split: [0, 0] for split in plan.splits}, []
    counts = ClassCounts.zeros(plan.label_set.classes, [split for split in plan.splits if split not in plan.unlabelled])
    results = parallel_map(check_item, entries, _num_threads())
    for split, shape, pixels, fault in tqdm(results, desc=f"checking {self.name}", total=len(entries), mininterval=1):
      largest[split] = list(map(max, largest[split], shape))
      if pixels is not None:
        counts.add(split, pixels)
      faults += [fault] if fault else []
    raise_all(faults)
    raise_all(
      [
        f"{split}: all pixels of its {len(plan.splits[split])} masks are void. {self.void_cure}."
        for split, pixels in counts.pixels.items()
        if not pixels[:-1].any()
      ]
    )
    return {"largest": largest, "class_counts": counts.metadata(), "warnings": self._warnings(counts)}

  def _warnings(self, counts: ClassCounts) -> list[str]:
    missing = counts.missing("train")
    warnings = [
      f"WARNING: class {counts.classes[index]!r} never occurs in train\n  {self.missing_cause(index, counts)}"
      for index in missing[:_MAX_WARNINGS]
    ]
    rest = len(missing) - len(warnings)
    return warnings + ([f"WARNING: {rest} more classes never occur in train"] if rest else [])

  def missing_cause(self, train_id: int, counts: ClassCounts) -> str:
    """Returns the likely cause, and the cure, of a class that never occurs in train."""
    del train_id, counts
    return (
      "It cannot be learned from train. If the archives are incomplete, complete them and prepare the data set again."
    )

  def _check_stored(self, example: Example, image: np.ndarray) -> None:
    """Raises ValueError if an example has an id that is no path, or is too long for the format it is stored in."""
    check_image_id(example.image_id)
    if self.info.metadata.get("image_format") == "jpeg" and max(image.shape) > MAX_JPEG_SIDE:
      raise ValueError(
        f"{example.image_name} is {size(image)}, but a JPEG holds up to {MAX_JPEG_SIDE:,} pixels per side. Leave out "
        "--image_format=jpeg."
      )

  def digest(self, root: pathlib.Path) -> str:
    """Returns a digest of the user's own files, to notice when they change; '' for official archives."""
    return ""

  def check_example(self, example: Example, label_set: LabelSet) -> np.ndarray:
    """Returns the decoded image, RGB uint8 `[H, W, 3]`. Raises ValueError if the example is unusable."""
    image = pictures.decode_rgb(example.image, example.image_name, self.published_pictures)
    if example.label is None:
      return image
    if example.label.shape != image.shape[:2]:
      raise ValueError(
        f"{example.label_name} is {size(example.label)}, but its image {example.image_name} is {size(image)}. "
        "They must have the same size."
      )
    values = np.flatnonzero(np.bincount(example.label.ravel(), minlength=256)).tolist()
    wrong = [value for value in values if value not in label_set.raw_values]
    if wrong:
      raise ValueError(wrong_values(example.label_name, wrong, label_set.raw_values))
    return image

  def write(self, plan: Plan, metadata: Mapping[str, Any]) -> None:
    """Writes the records of a checked plan, with images in `metadata["image_format"]`; TFDS renames the folder last."""
    self._plan = plan
    self.info.metadata.update(metadata)
    tfds.disable_progress_bar()  # `_generate_examples` shows a more useful one.
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
    """Returns the feature that stores a label."""
    return tfds.features.Image(shape=(None, None, 1), encoding_format="png")

  def encode_label(self, label: Any) -> Any:
    """Encodes a label for `label_feature`."""
    # Splits without labels store a single void pixel, which is never read.
    return io.BytesIO(pictures.encode_mask(np.full((1, 1), 255, np.uint8) if label is None else label))

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(split, items) for split, items in self._plan.splits.items()}

  def _generate_examples(self, split, items):
    records = parallel_map(self._record, items, _num_threads())
    yield from tqdm(records, desc=f"writing {split}", total=len(items), mininterval=1)
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


def _num_threads() -> int:
  return os.cpu_count() or 1
