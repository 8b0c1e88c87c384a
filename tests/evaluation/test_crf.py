"""CRF post-processing moves boundaries to where colours change, and nowhere else."""

import dataclasses

import numpy as np
import pytest

from gcn_flax.evaluation import crf

PARAMETERS = crf.Parameters(
  iterations=10, smooth_weight=3.0, smooth_xy=3.0, color_weight=10.0, color_xy=40.0, color_rgb=4.0
)


@pytest.fixture
def scene():
  """Returns an image of two colours, its labels, and noisy probabilities that are shifted by 6 pixels."""
  rng = np.random.default_rng(0)
  truth = np.zeros((64, 80), np.uint8)
  truth[20:50, 25:60] = 1
  image = np.where(truth[..., None] == 1, (200, 60, 40), (40, 80, 190)) + rng.normal(0, 2, (64, 80, 3))
  seen = np.roll(truth, 6, 1)
  seen = np.where(rng.random(truth.shape) < 0.05, 1 - seen, seen)
  probabilities = np.stack([np.where(seen == index, 0.7, 0.15) for index in range(3)], -1)
  return image.clip(0, 255).astype(np.uint8), truth, probabilities.astype(np.float32)


def test_boundaries_move_to_where_colours_change(scene):
  image, truth, probabilities = scene
  before = (np.argmax(probabilities, -1) == truth).mean()
  refined = crf.postprocess(image, probabilities, PARAMETERS)
  assert refined.dtype == np.uint8 and refined.shape == truth.shape
  assert before < 0.9 and (refined == truth).mean() > 0.99


def test_channels_and_axes_are_in_the_right_order(scene):
  image, truth, probabilities = scene
  turned = crf.postprocess(image.swapaxes(0, 1), probabilities.swapaxes(0, 1), PARAMETERS)
  assert np.mean(turned == truth.T) > 0.99


def test_kernels_of_weight_zero_change_nothing(scene):
  image, _, probabilities = scene
  idle = dataclasses.replace(PARAMETERS, smooth_weight=0.0, color_weight=0.0)
  np.testing.assert_array_equal(crf.postprocess(image, probabilities, idle), np.argmax(probabilities, -1))


def test_candidates_are_counted_after_the_network_alone(scene):
  image, truth, probabilities = scene
  truth[:5] = 255
  counts = crf.count_each(image, truth, probabilities, [PARAMETERS])
  assert counts.shape == (2, 3, 3) and (counts.sum((1, 2)) == (truth != 255).sum()).all()
  assert np.trace(counts[1]) > np.trace(counts[0])
