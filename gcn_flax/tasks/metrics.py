"""Metrics of a split, as both tasks have them."""

import abc
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from gcn_flax.labels import LabelSet

Counts = Mapping[str, np.ndarray]  # By name, int64 or float64; those of several images are added up.


@dataclasses.dataclass(frozen=True)
class Row:
  """An example beside its prediction.

  Attributes:
    image: RGB uint8 `[H, W, 3]`.
    label, prediction: ground truth and prediction: a label map, or one class for a classifier.
    image_id: name of the image.
    metric: the main metric of this image alone.
  """

  image: np.ndarray
  label: np.ndarray
  prediction: np.ndarray
  image_id: str
  metric: float


@dataclasses.dataclass(frozen=True)
class Metrics(abc.ABC):
  """Metrics of a split, from counts that are summed over all of it.

  Attributes:
    counts: results of the task's `count`, and `loss`, (sum of the cross-entropy in nats, number of valid pixels or
      images), float64 `[2]`; summed over the split.
    image_metrics: the main metric of each image alone, in the order of the split; NaN for an image that is all void.
    label_set: the classes.
    sample, best, worst: examples spread evenly over the split, and those of highest and lowest metric.
    num_canvases: number of sizes that the images were padded to.
  """

  counts: Counts
  image_metrics: np.ndarray
  label_set: LabelSet
  sample: list[Row]
  best: list[Row]
  worst: list[Row]
  num_canvases: int = 1

  @property
  def num_images(self) -> int:
    """Number of evaluated images."""
    return len(self.image_metrics)

  @property
  @abc.abstractmethod
  def scalars(self) -> dict[str, float]:
    """Metrics of the whole split by name, the task's `BEST_METRIC` first."""

  @property
  def loss(self) -> float:
    """Mean cross-entropy of the valid pixels, or images, in nats; NaN if there is none."""
    total, weight = self.counts["loss"]
    return float(total / weight) if weight else float("nan")

  @property
  def logged(self) -> dict[str, float]:
    """Values for `metrics.jsonl` and TensorBoard by name: the scalars and the loss."""
    return {**self.scalars, "loss": self.loss}

  @abc.abstractmethod
  def table(self) -> str:
    """Returns the table to print."""

  @abc.abstractmethod
  def details(self) -> dict[str, Any]:
    """Returns the content of the JSON file beside the scalars."""

  @abc.abstractmethod
  def sheet(self, rows: Sequence[Row], over_image: bool = False) -> np.ndarray:
    """Draws the contact sheet of some rows, RGB uint8 `[H, W, 3]`; `over_image` blends label maps with their image."""

  def by_class(self, values: Iterable[float]) -> dict[str, float | None]:
    """Returns a value of each class by its name; None for NaN."""
    return named(self.label_set.classes, values)


def named(names: Iterable[str], values: Iterable[float]) -> dict[str, float | None]:
  """Returns values by name; None for NaN."""
  return {name: None if np.isnan(value) else float(value) for name, value in zip(names, values, strict=True)}
