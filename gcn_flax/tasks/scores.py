"""What the scores of both tasks hold; what they mean is each task's own."""

import abc
import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from gcn_flax.labels import LabelSet


@dataclasses.dataclass(frozen=True)
class Scores(abc.ABC):
  """The scores of a split.

  Attributes:
    counts: int64, as the task's `count` gives them, over the whole split.
    num_images: that were scored.
    label_set: the classes.
    sheet: contact sheet, RGB uint8 `[H, W, 3]`; None where no picture was asked for.
  """

  counts: np.ndarray
  num_images: int
  label_set: LabelSet
  sheet: np.ndarray | None

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

  def by_class(self, values: Iterable[float]) -> dict[str, float | None]:
    """A figure of each class by its name, null where it is NaN."""
    pairs = zip(self.label_set.classes, values, strict=True)
    return {name: None if np.isnan(value) else float(value) for name, value in pairs}
