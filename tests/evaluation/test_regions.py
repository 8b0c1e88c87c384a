"""Boundary metrics against plain counting."""

import cv2
import numpy as np
import pytest

from gcn_flax.evaluation import regions


def blobs(seed, height=60, width=80, classes=4, void=True):
  """Returns smooth random regions, with some void."""
  noise = np.random.default_rng(seed).normal(size=(height, width, classes + void))
  labels = np.argmax(cv2.GaussianBlur(noise, (0, 0), 5), -1).astype(np.uint8)
  labels[labels == classes] = 255
  return labels


def slow_distance(labels):
  """Returns the distance of each pixel to the nearest one with another label, comparing all pairs."""
  rows, columns = np.indices(labels.shape)
  distances = np.zeros(labels.shape)
  for row, column in np.ndindex(labels.shape):
    other = labels != labels[row, column]
    squares = (rows[other] - row) ** 2 + (columns[other] - column) ** 2
    distances[row, column] = np.sqrt(squares.min()) if squares.size else np.inf
  distances[labels == 255] = 0
  return distances


@pytest.mark.parametrize("seed", range(3))
def test_distances_equal_a_comparison_of_all_pairs(seed):
  labels = blobs(seed, 31, 45)
  np.testing.assert_allclose(regions.distance_to_boundary(labels), slow_distance(labels), rtol=1e-5)


def test_a_straight_edge_has_seven_pixels_on_either_side():
  labels = np.zeros((40, 60), np.uint8)
  labels[:, 30:] = 1
  region = regions.boundary_region(labels)
  assert region.dtype == bool and region[:, 23:37].all() and not region[:, :23].any() and not region[:, 37:].any()
  assert regions.boundary_region(labels, distance=1).sum() == 2 * 40


def test_void_belongs_to_neither_region_and_its_border_is_a_boundary():
  labels = np.zeros((40, 60), np.uint8)
  labels[:, 30:40] = 255
  region = regions.boundary_region(labels, distance=3)
  assert region[:, 27:30].all() and region[:, 40:43].all() and region.sum() == 6 * 40
  other = np.where(labels == 255, np.uint8(9), labels)
  np.testing.assert_array_equal(regions.boundary_region(other, 3, ignore=9), region)


@pytest.mark.parametrize("value", [0, 3, 255])
def test_an_image_with_one_label_has_no_boundary(value):
  labels = np.full((20, 30), value, np.uint8)
  assert not regions.boundary_region(labels).any()
  counts = regions.count_by_distance(labels, np.zeros_like(labels))
  assert counts[:-1].sum() == 0 and counts[-1, 0] == (0 if value == 255 else 600)
  boundary, internal = regions.boundary_accuracy(counts)
  assert np.isnan(boundary) and (np.isnan(internal) if value == 255 else internal == (value == 0))


def test_accuracies_and_curve_equal_those_of_masks():
  labels, predictions = blobs(5, 120, 160), blobs(6, 120, 160, void=False)
  predictions[:, :100] = np.where(labels == 255, 0, labels)[:, :100]
  counts = regions.count_by_distance(labels, predictions)
  valid, hit, distance = labels != 255, labels == predictions, slow_distance(labels)
  assert counts.dtype == np.int64 and counts[:, 0].sum() == valid.sum() and counts[:, 1].sum() == (valid & hit).sum()
  near = valid & (distance <= 7)
  np.testing.assert_array_equal(regions.boundary_region(labels), near)
  expected = hit[near].mean(), hit[valid & ~near].mean()
  np.testing.assert_allclose(regions.boundary_accuracy(counts), expected)
  curve = [hit[valid & (distance <= limit)].mean() for limit in range(1, 41)]
  np.testing.assert_allclose(regions.accuracy_curve(counts), curve)


def eroded(mask, times):
  """Erodes like the reference implementation of Boundary IoU, which pads the mask with 0."""
  padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
  return cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=times)[1:-1, 1:-1].astype(bool)


@pytest.mark.parametrize("void", [False, True])
@pytest.mark.parametrize("size", [(60, 80), (201, 333), (3, 4)])
def test_boundary_iou_equals_erosion_of_each_class(size, void):
  labels, predictions = blobs(1, *size, void=void), blobs(2, *size, void=False)
  predictions[: size[0] // 2] = np.where(labels == 255, 1, labels)[: size[0] // 2]
  counts = regions.count_boundaries(labels, predictions, 5)
  times = max(1, round(0.02 * np.hypot(*size)))
  expected = np.full(5, np.nan)
  for index in range(5):
    truth, found = labels == index, (predictions == index) & (labels != 255)
    truth, found = truth & ~eroded(truth, times), found & ~eroded(found, times)
    if (truth | found).any():
      expected[index] = (truth & found).sum() / (truth | found).sum()
  assert counts.dtype == np.int64 and np.isnan(expected[4])
  np.testing.assert_allclose(regions.boundary_iou(counts), expected)


def test_perfect_predictions_have_a_boundary_iou_of_one():
  labels = blobs(3)
  counts = regions.count_boundaries(labels, np.where(labels == 255, 2, labels).astype(np.uint8), 4)
  np.testing.assert_array_equal(regions.boundary_iou(counts), np.ones(4))
