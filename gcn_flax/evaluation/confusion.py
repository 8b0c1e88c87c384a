"""Scores from one confusion matrix over a whole set."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gcn_flax.labels import IGNORE


def confusion_matrix(labels, predictions, num_classes: int, ignore: int = IGNORE):
  """Counts pixels by true and predicted class.

  Args:
    labels: integers of any shape, 0 to `num_classes - 1` or `ignore`.
    predictions: integers of the same shape, 0 to `num_classes - 1`.
    num_classes: number of classes.
    ignore: label of the pixels that are not counted.

  Returns:
    `[num_classes, num_classes]`, rows = ground truth. NumPy input gives exact int64
    counts; JAX input gives int32, enough for one batch: add batches up in int64.

  Raises:
    ValueError: for shapes that differ, and for values out of range. Under `jit` values
      are not at hand and must be in range already: `input_pipeline.sources` maps every
      label to a train id or to `ignore`.
  """
  if labels.shape != predictions.shape:
    raise ValueError(f"labels {labels.shape} and predictions {predictions.shape} must have the same shape.")
  traced = isinstance(labels, jax.core.Tracer) or isinstance(predictions, jax.core.Tracer)
  xp = np if isinstance(labels, np.ndarray) and isinstance(predictions, np.ndarray) else jnp
  integer = xp.int64 if xp is np else xp.int32
  labels, predictions = labels.reshape(-1).astype(integer), predictions.reshape(-1).astype(integer)
  valid = labels != ignore
  if not traced:
    _check_range("label", labels[valid], num_classes)
    _check_range("prediction", predictions[valid], num_classes)
  # Void pixels are counted in a cell of their own, behind the matrix.
  cell = xp.where(valid, labels * num_classes + predictions, num_classes**2)
  options = {"minlength": num_classes**2 + 1} if xp is np else {"length": num_classes**2 + 1}
  counts = xp.bincount(cell, **options)[: num_classes**2]
  return counts.reshape(num_classes, num_classes).astype(integer)


def _check_range(name: str, values, num_classes: int) -> None:
  if values.size and (values.min() < 0 or values.max() >= num_classes):
    raise ValueError(
      f"{name} values from {int(values.min())} to {int(values.max())} found, but there are {num_classes} classes: "
      f"0 to {num_classes - 1}. Map raw ids to train ids first."
    )


def iou_per_class(matrix) -> np.ndarray:
  """TP / (TP + FP + FN) of each class, float64 `[C]`; NaN where it neither occurs nor is predicted."""
  matrix = np.asarray(matrix, np.int64)
  hits = np.diag(matrix)
  union = matrix.sum(0) + matrix.sum(1) - hits
  return np.where(union > 0, hits / np.maximum(union, 1), np.nan)


def mean_iou(matrix) -> float:
  """Mean of `iou_per_class` over the classes that occur or are predicted; NaN where none does."""
  return mean_of_present(iou_per_class(matrix))


def pixel_accuracy(matrix) -> float:
  """Share of valid pixels that are right; NaN where there is none."""
  matrix = np.asarray(matrix, np.int64)
  total = matrix.sum()
  return float(np.trace(matrix) / total) if total else float("nan")


def class_accuracy(matrix) -> np.ndarray:
  """Share of each class's pixels that are right, float64 `[C]`; NaN where it does not occur."""
  matrix = np.asarray(matrix, np.int64)
  pixels = matrix.sum(1)
  return np.where(pixels > 0, np.diag(matrix) / np.maximum(pixels, 1), np.nan)


def mean_accuracy(matrix) -> float:
  """Mean of `class_accuracy` over the classes that occur; NaN where none does."""
  return mean_of_present(class_accuracy(matrix))


def frequency_weighted_iou(matrix) -> float:
  """IoU of the classes weighted by their share of the valid pixels (Long et al., CVPR 2015); NaN without pixels."""
  pixels = np.asarray(matrix, np.int64).sum(1)
  occurs = pixels > 0
  return float(pixels[occurs] @ iou_per_class(matrix)[occurs] / pixels.sum()) if occurs.any() else float("nan")


def merge(matrix, groups: Sequence[str]) -> tuple[list[str], np.ndarray]:
  """The matrix of groups of classes, as Cityscapes' categories.

  Args:
    matrix: `[C, C]`.
    groups: the name of each class's group.

  Returns:
    The names of the G groups in the order of their first class, and their matrix int64 `[G, G]`.
  """
  names = list(dict.fromkeys(groups))
  member = np.array([[group == name for group in groups] for name in names], np.int64)
  return names, member @ np.asarray(matrix, np.int64) @ member.T


def mean_of_present(values) -> float:
  """Mean of what is not NaN; NaN where nothing is left."""
  present = np.asarray(values)[~np.isnan(values)]
  return float(present.mean()) if present.size else float("nan")
