"""Top-1 and top-5 accuracy from counts."""

import jax
import numpy as np
import torch

from gcn_flax.evaluation.accuracy import accuracy, accuracy_per_class, best_classes, count_hits


def example(images=64, classes=20):
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(images, classes)).astype(np.float32)
  labels = rng.integers(-1, classes, images).astype(np.int32)
  logits[np.arange(images), labels] += 1.0
  return logits, labels


def count(logits, labels):
  best = np.asarray(jax.jit(best_classes)(logits))
  return sum(count_hits(int(label), row, logits.shape[-1]) for label, row in zip(labels, best, strict=True))


def test_counts_equal_topk_of_pytorch():
  logits, labels = example()
  counts = count(logits, labels)
  best = torch.from_numpy(logits).topk(5).indices.numpy()
  expected = np.zeros((20, 3), np.int64)
  for label, found in zip(labels, best, strict=True):
    if label >= 0:
      expected[label] += (1, found[0] == label, label in found)
  np.testing.assert_array_equal(counts, expected)
  assert counts.dtype == np.int64 and counts.sum(0)[0] == (labels >= 0).sum() < len(labels)
  np.testing.assert_allclose(accuracy(counts), expected.sum(0)[1:] / expected.sum(0)[0])


def test_constant_logits_score_at_chance_level():
  """A network that has collapsed predicts constant logits, or NaN."""
  labels = np.arange(20, dtype=np.int32)
  assert accuracy(count(np.zeros((20, 20), np.float32), labels)) == (1 / 20, 5 / 20)
  assert accuracy(count(np.full((20, 20), np.nan, np.float32), labels)) == (0, 0)
  assert accuracy(count(np.full((3, 3), np.nan, np.float32), labels[:3])) == (0, 0)


def test_top5_of_fewer_than_five_classes_is_one():
  counts = count(np.eye(3, dtype=np.float32), np.array([0, 2, 1], np.int32))
  assert accuracy(counts) == (1 / 3, 1)


def test_absent_classes_and_empty_sets_are_nan():
  counts = np.array([[4, 3, 4], [0, 0, 0]])
  np.testing.assert_array_equal(accuracy_per_class(counts), [0.75, np.nan])
  assert all(np.isnan(accuracy(np.zeros((2, 3), int))))
