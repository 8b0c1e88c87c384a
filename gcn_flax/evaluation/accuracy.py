"""Top-1 and top-5 accuracy from counts over a whole set of images that have one class each."""

import jax
import jax.numpy as jnp
import numpy as np


def count_hits(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Counts images, top-1 and top-5 hits by true class.

  A hit of top-k has fewer than k classes above it. Of equal scores the lower class number is
  above, as `argmax` takes it, so that a network whose scores are all equal gets what
  chance gives it, not everything. Scores that are not finite are no hit.

  Args:
    logits: `[B, C]`.
    labels: integers `[B]`, 0 to C - 1; images of any other label, as `labels.NO_CLASS`, are not counted.

  Returns:
    int32 `[C, 3]`: of each class its images, top-1 hits and top-5 hits.
  """
  num_classes = logits.shape[-1]
  classes = jnp.arange(num_classes)
  is_true = classes == labels[:, None]
  true = jnp.sum(jnp.where(is_true, logits, 0.0), -1, keepdims=True)
  above = (logits > true) | ((logits == true) & (classes < labels[:, None]))
  rank = jnp.where(jnp.all(jnp.isfinite(logits), -1), jnp.sum(above, -1), max(num_classes, 5))
  hits = jnp.stack([jnp.ones_like(rank), rank < 1, rank < 5], -1).astype(jnp.int32)
  return jnp.einsum("bc,bh->ch", is_true.astype(jnp.int32), hits)


def accuracy(counts: np.ndarray) -> tuple[float, float]:
  """(top-1, top-5) share of hits over all images; NaN where there is none."""
  images, top1, top5 = np.asarray(counts, np.int64).sum(0)
  return (float(top1 / images), float(top5 / images)) if images else (float("nan"), float("nan"))


def accuracy_per_class(counts: np.ndarray) -> np.ndarray:
  """Top-1 accuracy of the images of each class, float64 `[C]`; NaN where a class has none."""
  counts = np.asarray(counts, np.int64)
  return np.where(counts[:, 0] > 0, counts[:, 1] / np.maximum(counts[:, 0], 1), np.nan)
