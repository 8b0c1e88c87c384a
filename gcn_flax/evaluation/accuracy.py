"""Top-1 and top-5 accuracy from counts over a whole set of images that have one class each."""

import jax
import jax.numpy as jnp
import numpy as np


def best_classes(logits: jax.Array) -> jax.Array:
  """Logits `[B, C]` -> the five best classes, int32 `[B, min(C, 5)]`, the best first.

  Of equal scores the lower class number is better, as `argmax` takes it, so that a network whose scores are all equal
  gets what chance gives it, not everything. Where a score is not finite all are -1: no class.
  """
  _, best = jax.lax.top_k(logits, min(5, logits.shape[-1]))
  return jnp.where(jnp.all(jnp.isfinite(logits), -1, keepdims=True), best, -1).astype(jnp.int32)


def count_hits(label: int, best: np.ndarray, num_classes: int) -> np.ndarray:
  """Counts one image.

  Args:
    label: its class; any but 0 to `num_classes - 1`, as `labels.NO_CLASS`, is not counted.
    best: `[K]` of `best_classes`.
    num_classes: number of classes.

  Returns:
    int64 `[num_classes, 3]`: of each class its images, top-1 hits and top-5 hits.
  """
  counts = np.zeros((num_classes, 3), np.int64)
  if 0 <= label < num_classes:
    counts[label] = 1, best[0] == label, label in best
  return counts


def accuracy(counts: np.ndarray) -> tuple[float, float]:
  """(top-1, top-5) share of hits over all images; NaN where there is none."""
  images, top1, top5 = np.asarray(counts, np.int64).sum(0)
  return (float(top1 / images), float(top5 / images)) if images else (float("nan"), float("nan"))


def accuracy_per_class(counts: np.ndarray) -> np.ndarray:
  """Top-1 accuracy of the images of each class, float64 `[C]`; NaN where a class has none."""
  counts = np.asarray(counts, np.int64)
  return np.where(counts[:, 0] > 0, counts[:, 1] / np.maximum(counts[:, 0], 1), np.nan)
