"""Top-1 and top-5 accuracy of image classification, from counts over a whole data set."""

import jax
import jax.numpy as jnp
import numpy as np


def best_classes(logits: jax.Array) -> jax.Array:
  """Returns the five classes with the highest logits, best first, int32 `[B, min(C, 5)]`.

  Ties go to the lower class number, as with `argmax`, so a network with constant logits scores at chance level. An
  image with a logit that is not finite gets -1, no class, in all places.

  Args:
    logits: `[B, C]`.
  """
  _, best = jax.lax.top_k(logits, min(5, logits.shape[-1]))
  return jnp.where(jnp.all(jnp.isfinite(logits), -1, keepdims=True), best, -1).astype(jnp.int32)


def count_hits(label: int, best: np.ndarray, num_classes: int) -> np.ndarray:
  """Counts the top-1 and top-5 hit of one image.

  Args:
    label: true class; anything outside 0 to `num_classes - 1`, such as `labels.NO_CLASS`, is not counted.
    best: `[K]`, the image's row of `best_classes`.
    num_classes: number of classes.

  Returns:
    int64 `[num_classes, 3]`: (images, top-1 hits, top-5 hits) by true class.
  """
  counts = np.zeros((num_classes, 3), np.int64)
  if 0 <= label < num_classes:
    counts[label] = 1, best[0] == label, label in best
  return counts


def accuracy(counts: np.ndarray) -> tuple[float, float]:
  """Returns (top-1, top-5) accuracy over all images; NaN without images.

  Args:
    counts: sum of `count_hits` over the data set.
  """
  images, top1, top5 = np.asarray(counts, np.int64).sum(0)
  return (float(top1 / images), float(top5 / images)) if images else (float("nan"), float("nan"))


def accuracy_per_class(counts: np.ndarray) -> np.ndarray:
  """Returns the top-1 accuracy of each class, float64 `[C]`; NaN for a class without images."""
  counts = np.asarray(counts, np.int64)
  return np.where(counts[:, 0] > 0, counts[:, 1] / np.maximum(counts[:, 0], 1), np.nan)
