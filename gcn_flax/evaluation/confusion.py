"""Mean IoU (mIoU), accuracy and related metrics from one confusion matrix over a whole data set."""

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
    ignore: label of pixels to leave out.

  Returns:
    `[num_classes, num_classes]`, rows = ground truth. int64 for NumPy input; int32 for JAX input, enough for one
    batch: sum batches in int64.

  Raises:
    ValueError: if shapes differ or values are out of range. Values are not checked under `jit`.
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
  # Void pixels are counted in one extra cell after the matrix.
  cell = xp.where(valid, labels * num_classes + predictions, num_classes**2)
  options = {"minlength": num_classes**2 + 1} if xp is np else {"length": num_classes**2 + 1}
  counts = xp.bincount(cell, **options)[: num_classes**2]
  return counts.reshape(num_classes, num_classes).astype(integer)


def _check_range(name: str, values, num_classes: int) -> None:
  if values.size and (values.min() < 0 or values.max() >= num_classes):
    raise ValueError(
      f"{name} values from {int(values.min())} to {int(values.max())}: must be from 0 to {num_classes - 1}, there are "
      f"{num_classes} classes. Map raw ids to train ids first."
    )


def iou_per_class(matrix) -> np.ndarray:
  """Returns TP / (TP + FP + FN) of each class, float64 `[C]`; NaN if it neither occurs nor is predicted."""
  matrix = np.asarray(matrix, np.int64)
  hits = np.diag(matrix)
  union = matrix.sum(0) + matrix.sum(1) - hits
  return np.where(union > 0, hits / np.maximum(union, 1), np.nan)


def mean_iou(matrix) -> float:
  """Returns the mean IoU (mIoU) over the classes that occur or are predicted; NaN if there is none."""
  return mean_of_present(iou_per_class(matrix))


def pixel_accuracy(matrix) -> float:
  """Returns the share of valid pixels predicted correctly; NaN without valid pixels."""
  matrix = np.asarray(matrix, np.int64)
  total = matrix.sum()
  return float(np.trace(matrix) / total) if total else float("nan")


def class_accuracy(matrix) -> np.ndarray:
  """Returns the share of each class's pixels predicted correctly, float64 `[C]`; NaN if it does not occur."""
  matrix = np.asarray(matrix, np.int64)
  pixels = matrix.sum(1)
  return np.where(pixels > 0, np.diag(matrix) / np.maximum(pixels, 1), np.nan)


def mean_accuracy(matrix) -> float:
  """Returns the mean of `class_accuracy` over the classes that occur; NaN if there is none."""
  return mean_of_present(class_accuracy(matrix))


def frequency_weighted_iou(matrix) -> float:
  """Returns the IoU weighted by each class's share of the valid pixels (Long et al., CVPR 2015); NaN without pixels."""
  pixels = np.asarray(matrix, np.int64).sum(1)
  occurs = pixels > 0
  return float(pixels[occurs] @ iou_per_class(matrix)[occurs] / pixels.sum()) if occurs.any() else float("nan")


def merge(matrix, groups: Sequence[str]) -> tuple[list[str], np.ndarray]:
  """Merges classes into groups, such as Cityscapes' categories.

  Args:
    matrix: confusion matrix `[C, C]`.
    groups: name of each class's group.

  Returns:
    (names of the G groups in the order of their first class, their confusion matrix int64 `[G, G]`).
  """
  names = list(dict.fromkeys(groups))
  member = np.array([[group == name for group in groups] for name in names], np.int64)
  return names, member @ np.asarray(matrix, np.int64) @ member.T


def mean_of_present(values) -> float:
  """Returns the mean of the values that are not NaN; NaN if there is none."""
  present = np.asarray(values)[~np.isnan(values)]
  return float(present.mean()) if present.size else float("nan")
