"""What the scores of both tasks hold; what they mean is each task's own."""

import abc
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from gcn_flax.labels import LabelSet

Counts = Mapping[str, np.ndarray]  # By name, int64 or float64: those of several images are added up.


@dataclasses.dataclass(frozen=True)
class Row:
  """An example beside what was predicted: image uint8 `[H, W, 3]`, label and prediction as the task has them."""

  image: np.ndarray
  label: np.ndarray
  prediction: np.ndarray
  image_id: str
  score: float


@dataclasses.dataclass(frozen=True)
class Scores(abc.ABC):
  """The scores of a split.

  Attributes:
    counts: as the task's `count` gives them, over the whole split.
    image_scores: the score of each image by itself, in the order of the split; NaN where it has nothing to score.
    label_set: the classes.
    sample, best, worst: some examples, spread evenly, and those of the highest and lowest scores.
  """

  counts: Counts
  image_scores: np.ndarray
  label_set: LabelSet
  sample: list[Row]
  best: list[Row]
  worst: list[Row]

  @property
  def num_images(self) -> int:
    return len(self.image_scores)

  @property
  @abc.abstractmethod
  def scalars(self) -> dict[str, float]:
    """The figures of the whole split, the task's `SCORE` first."""

  @abc.abstractmethod
  def table(self) -> str:
    """What is printed."""

  @abc.abstractmethod
  def details(self) -> dict[str, Any]:
    """What the file holds beside the scalars."""

  @abc.abstractmethod
  def sheet(self, rows: Sequence[Row], over_image: bool = False) -> np.ndarray:
    """The contact sheet of rows, RGB uint8 `[H, W, 3]`; label maps stand over their image, if asked for."""

  def by_class(self, values: Iterable[float]) -> dict[str, float | None]:
    """A figure of each class by its name, null where it is NaN."""
    return named(self.label_set.classes, values)


def named(names: Iterable[str], values: Iterable[float]) -> dict[str, float | None]:
  """Figures by name, null where they are NaN."""
  return {name: None if np.isnan(value) else float(value) for name, value in zip(names, values, strict=True)}
