"""Receptive fields against kernels that are known, and their measures against counting by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gcn_flax.evaluation.receptive_field import Field, cut_window, gradient_magnitude


def convolution(kernels):
  """A network of one convolution: `[k, k, 3, C]`."""
  numbers = ("NHWC", "HWIO", "NHWC")
  return lambda images: jax.lax.conv_general_dilated(images, kernels, (1, 1), "SAME", dimension_numbers=numbers)


def test_the_field_of_a_convolution_is_its_kernel():
  rng = np.random.default_rng(0)
  kernels = rng.normal(size=(5, 3, 3, 4)).astype(np.float32)
  image = rng.uniform(0, 255, (12, 16, 3)).astype(np.float32)
  network = convolution(kernels)
  for pixel in ((6, 9), (0, 0), (11, 15)):
    found = np.asarray(gradient_magnitude(network, jnp.asarray(image), jnp.array(pixel)))
    best = int(np.argmax(np.asarray(network(image[None]))[0][pixel]))
    expected = np.zeros((12 + 4, 16 + 2))
    expected[pixel[0] : pixel[0] + 5, pixel[1] : pixel[1] + 3] = np.linalg.norm(kernels[..., best], axis=2)
    np.testing.assert_allclose(found, expected[2:-2, 1:-1], rtol=1e-4, atol=1e-4)


def test_the_class_is_the_predicted_one():
  kernels = np.zeros((1, 3, 3, 2), np.float32)
  kernels[0, 0, 0, 0], kernels[0, 2, 0, 1] = 1, 1  # The first class looks to the left, the second to the right.
  image = np.zeros((1, 5, 3), np.float32)
  for column, bright in ((1, 3), (3, 1)):
    image[0, :, 0] = 0
    image[0, bright, 0] = 9
    found = np.asarray(gradient_magnitude(convolution(kernels), jnp.asarray(image), jnp.array((0, 2))))
    assert np.flatnonzero(found[0]).tolist() == [bright], column


def test_shares_and_radii_by_hand():
  magnitude = np.zeros((7, 9))
  magnitude[3, 4], magnitude[3, 7], magnitude[0, 0] = 6, 3, 1  # Distances 0, 3 and 5.
  field = Field.of(magnitude, (3, 4))
  assert [field.mass_outside(radius) for radius in (0, 2, 3, 4.9, 5)] == pytest.approx([0.4, 0.4, 0.1, 0.1, 0])
  np.testing.assert_allclose(field.mass_by_radius(), [0.6, 0.6, 0.6, 0.9, 0.9, 1])
  assert [field.radius_of(share) for share in (0.5, 0.6, 0.7, 0.9, 0.95, 1)] == [0, 0, 3, 3, 5, 5]
  magnitude[4, 5] = 10  # At a distance of 1.4.
  np.testing.assert_allclose(Field.of(magnitude, (3, 4)).mass_by_radius(), [0.3, 0.3, 0.8, 0.95, 0.95, 1])
  magnitude[4, 5] = 0
  measure = Field.of(np.pad(magnitude, 100), (103, 104)).measure()
  assert measure["radius_of_mass"] == {"0.5": 0, "0.9": 3}
  assert measure["mass_outside_radius"] == {"32": 0, "64": 0, "96": 0}


def test_each_image_counts_the_same_and_pixels_are_aligned():
  small, large = np.zeros((3, 3)), np.zeros((5, 8))
  small[1, 1], large[1, 6], large[4, 6] = 10, 1, 1
  mean = Field.mean([Field.of(small, (1, 1)), Field.of(large, (1, 6))])
  assert mean.mass.shape == (5, 8) and mean.pixel == (1, 6) and mean.mass.sum() == pytest.approx(1)
  assert mean.mass[1, 6] == pytest.approx(0.75) and mean.mass[4, 6] == pytest.approx(0.25)


@pytest.mark.parametrize("value", [0, np.nan, np.inf])
def test_a_gradient_without_a_field_is_an_error(value):
  with pytest.raises(ValueError, match="the gradient of the class score at pixel 1,2 has the sum"):
    Field.of(np.full((4, 4), value, np.float32), (1, 2))


@pytest.mark.parametrize("pixel", [(0, 0), (50, 60), (99, 149), (3, 140)])
def test_a_window_lies_within_the_image_and_holds_its_pixel(pixel):
  image = np.arange(100 * 150).reshape(100, 150)
  window, place = cut_window(image, pixel, (32, 64))
  assert window.shape == (32, 64) and window[place] == image[pixel]
  if pixel == (50, 60):
    assert place == (16, 32)
  whole, place = cut_window(image, pixel, (256, 256))
  assert whole.shape == image.shape and place == pixel
