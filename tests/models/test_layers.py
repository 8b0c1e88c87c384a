import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gcn_flax.models.heads import BoundaryRefine
from gcn_flax.models.layers import Conv, Deconv
from gcn_flax.models.layout import FeatureMap, Layout
from tests.models.comparison import TOLERANCE, assert_close, random_array, random_variables
from tests.torch_reference import load_flax, to_numpy, to_torch


@pytest.mark.parametrize("kernel_size", [(7, 7), (3, 3), (1, 1), (5, 1), (1, 7)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(12, 18), (13, 9)])
def test_conv_pads_as_torch_does(kernel_size, stride, size):
  x = random_array(2, *size, 3)
  module = Conv(4, kernel_size, stride)
  variables = random_variables(module, x)
  padding = tuple(side // 2 for side in kernel_size)
  reference = load_flax(torch.nn.Conv2d(3, 4, kernel_size, stride, padding), variables)
  assert_close(module.apply(variables, x), to_numpy(reference(to_torch(x))), TOLERANCE)


@pytest.mark.parametrize(
  "stride, before, after",
  [
    pytest.param(2, Layout(3), Layout(4, (2, 2)), id="stride to blocks"),
    pytest.param(2, Layout(3, (2, 2)), None, id="stride in blocks"),
    pytest.param(1, Layout(3, (2, 2)), Layout(4, (2, 1)), id="other blocks"),
    pytest.param(1, Layout(3, (2, 2)), Layout(4), id="out of blocks"),
  ],
)
def test_layouts_that_no_kernel_connects_are_refused(stride, before, after):
  x = FeatureMap.of(random_array(1, 8, 8, 3)).to(before)
  with pytest.raises(ValueError, match=f"stride {stride} cannot go from Layout"):
    Conv(4, (3, 3), stride).init(jax.random.key(0), x, after)


def test_a_map_gives_a_map_and_an_array_an_array():
  x = random_array(1, 8, 8, 3)
  for module in (Conv(4, (3, 3)), Deconv(), BoundaryRefine()):
    variables = random_variables(module, x)
    y, expected = module.apply(variables, FeatureMap.of(x)), module.apply(variables, x)
    np.testing.assert_array_equal(y.plain(), expected)
    assert y.layout == Layout(expected.shape[-1]) and not isinstance(expected, FeatureMap)


@pytest.fixture(scope="module")
def deconv():
  """Returns input, variables and output of a `Deconv` with a random kernel, dense in channels."""
  x = random_array(2, 5, 8, 3)
  variables = random_variables(Deconv(), x)
  return x, variables, np.asarray(Deconv().apply(variables, x))


def test_deconv_equals_flax_conv_transpose(deconv):
  x, variables, y = deconv
  reference = nn.ConvTranspose(3, (4, 4), strides=(2, 2), padding="SAME", use_bias=False)
  assert y.shape == (2, 10, 16, 3)
  assert_close(y, reference.apply(variables, x), TOLERANCE)


def test_deconv_equals_torch_with_the_kernel_flipped(deconv):
  x, variables, y = deconv
  kernel = variables["params"]["kernel"]
  flipped = torch.from_numpy(kernel[::-1, ::-1].transpose(2, 3, 0, 1).copy())
  assert_close(y, to_numpy(F.conv_transpose2d(to_torch(x), flipped, stride=2, padding=1)), TOLERANCE)


def test_deconv_gradients_equal_flax_conv_transpose(deconv):
  x, variables, y = deconv
  reference = nn.ConvTranspose(3, (4, 4), strides=(2, 2), padding="SAME", use_bias=False)
  weights = random_array(*y.shape, seed=1)

  def gradients(module):
    return jax.grad(lambda variables, x: jnp.sum(weights * module.apply(variables, x)), (0, 1))(variables, x)

  jax.tree.map(lambda ours, theirs: assert_close(ours, theirs, TOLERANCE), gradients(Deconv()), gradients(reference))


def upsample_at_initialisation(x: np.ndarray) -> np.ndarray:
  module = Deconv()
  return np.asarray(module.apply(module.init(jax.random.key(0), x), x))


def test_deconv_is_initialised_as_bilinear_interpolation():
  """Half-pixel centres; the border of one pixel, which sees the zeros outside, is left out."""
  x = random_array(2, 6, 9, 4)
  expected = F.interpolate(to_torch(x), scale_factor=2, mode="bilinear", align_corners=False)
  assert_close(upsample_at_initialisation(x)[:, 1:-1, 1:-1], to_numpy(expected)[:, 1:-1, 1:-1], 1e-6)


def test_deconv_at_initialisation_keeps_a_constant_map():
  constants = np.array([1.0, -2.0, 3.5], np.float32)
  y = upsample_at_initialisation(np.broadcast_to(constants, (1, 5, 7, 3)))
  np.testing.assert_allclose(y[:, 1:-1, 1:-1], np.broadcast_to(constants, (1, 8, 12, 3)), rtol=1e-6)
