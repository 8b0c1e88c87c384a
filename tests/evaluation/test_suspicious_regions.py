"""Suspicious regions of masks: which pixels count, how much, and in which order."""

import numpy as np
import pytest

from gcn_flax.evaluation.suspicious_regions import find_regions


def certain(prediction, confidence=0.98, num_classes=3):
  """Probabilities of a network that gives one class `confidence`, and the others the same share of the rest."""
  one_hot = np.eye(num_classes, dtype=np.float32)[prediction]
  return one_hot * confidence + (1 - one_hot) * np.float32((1 - confidence) / (num_classes - 1))


@pytest.fixture
def label():
  return np.zeros((40, 60), np.uint8)


def test_a_mask_that_the_network_agrees_with_has_no_region(label):
  label[5:20, 5:20] = 2
  assert find_regions(label, certain(label)) == []


def test_a_removed_object_is_one_region(label):
  truth = label.copy()
  truth[10:20, 30:50] = 1
  (region,) = find_regions(label, certain(truth))
  assert (region.labelled, region.predicted, region.num_pixels) == (0, 1, 200)
  assert region.box == (slice(10, 20), slice(30, 50)) and region.mask.all()
  assert region.labelled_probability == pytest.approx(0.01) and region.predicted_probability == pytest.approx(0.98)
  # Rings of the rectangle count 0, 1/3, 2/3, and what is left of it, 4 x 14 pixels, counts 1.
  weight = (18 * 8 - 16 * 6) / 3 + (16 * 6 - 14 * 4) * 2 / 3 + 14 * 4
  assert region.score == pytest.approx(weight * 0.98 * np.log(98), rel=1e-5)


def test_void_never_counts(label):
  truth = label.copy()
  truth[10:20, 30:50] = 1
  label[10:20, 30:40] = 255
  (region,) = find_regions(label, certain(truth))
  assert region.box == (slice(10, 20), slice(40, 50))
  label[:] = 255
  assert find_regions(label, certain(truth)) == []


def test_bands_along_boundaries_do_not_count(label):
  truth = label.copy()
  truth[10:30, 10:40], label[10:30, 12:42] = 1, 1  # Two pixels beside each other, on either side.
  assert find_regions(label, certain(truth)) == []
  label[:] = np.roll(label, 8, 1)
  left, right = sorted(find_regions(label, certain(truth)), key=lambda region: region.left)
  assert (left.labelled, left.predicted, right.labelled, right.predicted) == (0, 1, 1, 0)


def test_the_edge_of_the_image_is_no_boundary(label):
  inside, beside = label.copy(), label.copy()
  inside[15:25, 20:30], beside[15:25, :10] = 1, 1
  (first,), (second,) = find_regions(label, certain(inside)), find_regions(label, certain(beside))
  assert second.score > first.score
  (whole,) = find_regions(label, certain(np.ones_like(label)))
  assert whole.score == pytest.approx(label.size * 0.98 * np.log(98), rel=1e-5)


@pytest.mark.parametrize("confidence, count", [(0.7, 0), (0.79, 0), (0.81, 1)])
def test_the_labelled_class_must_be_improbable(label, confidence, count):
  truth = label.copy()
  truth[10:20, 30:50] = 1
  assert len(find_regions(label, certain(truth, confidence))) == count


def test_regions_of_other_classes_are_apart_and_the_most_suspicious_is_first(label):
  truth = label.copy()
  truth[10:20, 10:20], truth[10:20, 20:50] = 1, 2
  label[30:38, 5:25] = 1
  regions = find_regions(label, certain(truth))
  assert [(region.labelled, region.predicted) for region in regions] == [(0, 2), (1, 0), (0, 1)]
  assert [region.score for region in regions] == sorted((region.score for region in regions), reverse=True)


def test_no_pixel_decides_alone(label):
  probabilities = certain(np.ones_like(label), 1.0)
  (region,) = find_regions(label, probabilities)
  assert region.score == pytest.approx(label.size * np.log(1e4), rel=1e-5)


def test_many_classes_keep_their_numbers():
  truth, label = np.full((20, 20), 254), np.full((20, 20), 253, np.uint8)
  (region,) = find_regions(label, certain(truth, num_classes=255))
  assert (region.labelled, region.predicted) == (253, 254)
