"""Pixels and images of each class in each split, their table, and the classes that never occur."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from gcn_flax.labels import IGNORE, LabelSet
from gcn_flax.printable import printable


def pixels_by_class(label: np.ndarray | int, label_set: LabelSet) -> np.ndarray:
  """Counts the pixels of each class in a stored label, and of void last, int64 `[C + 1]`; an image's class counts 1."""
  if np.ndim(label) == 0:
    return np.bincount([label], minlength=label_set.num_classes + 1)
  stored = np.bincount(label.ravel(), minlength=256)
  return by_class(np.bincount(label_set.raw_to_train, stored, minlength=256).astype(np.int64), label_set.num_classes)


def by_class(counts: np.ndarray, num_classes: int) -> np.ndarray:
  """Reduces counts of the train ids 0 to 255, `[256]`, to those of the classes and, last, of void, `[C + 1]`."""
  return counts[[*range(num_classes), IGNORE]]


@dataclasses.dataclass(frozen=True)
class ClassCounts:
  """Counts by class.

  Attributes:
    classes: names, in the order of the train ids.
    pixels: split -> pixels of each class, and of void last, int64 `[C + 1]`; with one class per image, its images.
    images: split -> images that contain the class, and void, int64 `[C + 1]`.
  """

  classes: tuple[str, ...]
  pixels: dict[str, np.ndarray]
  images: dict[str, np.ndarray]

  @classmethod
  def zeros(cls, classes: Sequence[str], splits: Iterable[str]) -> "ClassCounts":
    """Returns counts that are all 0."""
    pixels, images = ({split: np.zeros(len(classes) + 1, np.int64) for split in splits} for _ in range(2))
    return cls(tuple(classes), pixels, images)

  @classmethod
  def from_metadata(cls, metadata: Mapping[str, Any]) -> "ClassCounts":
    """Returns the counts in the metadata of a prepared data set; without splits if it is of an older version."""
    stored = metadata.get("class_counts", {"pixels": {}, "images": {}})
    arrays = ({split: np.array(counts, np.int64) for split, counts in kind.items()} for kind in stored.values())
    return cls(tuple(metadata["classes"]), *arrays)

  def metadata(self) -> dict[str, dict[str, list[int]]]:
    """Returns the counts as they are stored in the metadata of a data set."""
    return {
      kind: {split: counts.tolist() for split, counts in getattr(self, kind).items()} for kind in ("pixels", "images")
    }

  def add(self, split: str, pixels: np.ndarray) -> None:
    """Adds one image of a split with the given pixels by class, `[C + 1]`."""
    self.pixels[split] += pixels
    self.images[split] += pixels > 0

  def missing(self, split: str) -> list[int]:
    """Returns the train ids of the classes that never occur in a split; none for a split that is not counted."""
    return np.flatnonzero(self.images[split][:-1] == 0).tolist() if split in self.images else []

  def table(self) -> str:
    """Formats pixels in percent and images by class and split, void last; marks classes that never occur."""
    names = [printable(name) for name in self.classes]
    width = max(map(len, [*names, "class"]))
    lines = [f"  {'class':<{width}}" + f" {'pixels %':>9} {'images':>8}" * len(self.pixels)]
    if len(self.pixels) > 1:
      lines.insert(0, "  " + " " * width + "".join(f" {split:>18}" for split in self.pixels))
    for index, name in enumerate([*names, "void"]):
      cells = (
        f" {100 * pixels[index] / max(1, pixels.sum()):>9.3f} {images[index]:>8,}"
        for pixels, images in zip(self.pixels.values(), self.images.values(), strict=True)
      )
      lines.append(f"  {name:<{width}}{''.join(cells)}{self._note(index)}")
    return "\n".join(lines)

  def _note(self, index: int) -> str:
    absent = [split for split, images in self.images.items() if not images[index]]
    if not absent or index == len(self.classes):
      return ""
    return "   NEVER OCCURS" + (f" in {', '.join(absent)}" if len(self.images) > 1 else "")


def class_table(classes: Sequence[str], images: np.ndarray, max_classes: int = 40) -> str:
  """Formats the number of images of each class, rarest first, at most `max_classes` of them."""
  classes = [printable(name) for name in classes]
  width = max(map(len, [*classes, "class"]))
  order = np.argsort(images, kind="stable")
  lines = [
    f"  {classes[index]:<{width}} {images[index]:>8,}{'' if images[index] else '   NEVER OCCURS'}" for index in order
  ]
  rest = [f"  ... and {len(lines) - max_classes} classes with up to {images.max():,} images"]
  rest = rest if len(lines) > max_classes else []
  return "\n".join([f"  {'class':<{width}} {'images':>8}", *lines[:max_classes], *rest])
