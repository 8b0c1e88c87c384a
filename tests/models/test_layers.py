import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gcn_flax.models.layers import Conv, Deconv, bilinear_kernel
from gcn_flax.models.layout import Layout
from tests.models.comparison import assert_close, random_array, random_variables
from tests.torch_reference import load_flax, to_numpy, to_torch

TOLERANCE = 1e-5


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


def test_a_strided_convolution_takes_no_layouts():
  with pytest.raises(ValueError, match="stride 2 takes no layouts"):
    Conv(4, (3, 3), 2).init(jax.random.key(0), random_array(1, 8, 8, 3), (Layout(3), Layout(4)))


@pytest.fixture(scope="module")
def deconv():
  """Input, variables and output of a `Deconv` with a random kernel, dense in channels."""
  x = random_array(2, 5, 8, 3)
  variables = random_variables(Deconv(), x)
  return x, variables, np.asarray(Deconv().apply(variables, x))


def test_deconv_equals_flax_conv_transpose(deconv):
  x, variables, y = deconv
  reference = nn.ConvTranspose(3, (4, 4), strides=(2, 2), padding="SAME", use_bias=False)
  assert y.shape == (2, 10, 16, 3)
  assert_close(y, reference.apply(variables, x), TOLERANCE)


def test_deconv_equals_torch_with_the_kernel_turned_round(deconv):
  x, variables, y = deconv
  kernel = variables["params"]["kernel"]
  turned = torch.from_numpy(kernel[::-1, ::-1].transpose(2, 3, 0, 1).copy())
  assert_close(y, to_numpy(F.conv_transpose2d(to_torch(x), turned, stride=2, padding=1)), TOLERANCE)


def test_deconv_gradients_equal_flax_conv_transpose(deconv):
  x, variables, y = deconv
  reference = nn.ConvTranspose(3, (4, 4), strides=(2, 2), padding="SAME", use_bias=False)
  weights = random_array(*y.shape, seed=1)

  def gradients(module):
    return jax.grad(lambda variables, x: jnp.sum(weights * module.apply(variables, x)), (0, 1))(variables, x)

  jax.tree.map(lambda ours, theirs: assert_close(ours, theirs, TOLERANCE), gradients(Deconv()), gradients(reference))


def _upsample_at_start(x: np.ndarray) -> np.ndarray:
  module = Deconv()
  return np.asarray(module.apply(module.init(jax.random.key(0), x), x))


def test_deconv_starts_as_bilinear_interpolation():
  """Half-pixel centres; at the border the zeros outside count, so the frame of one pixel is left out."""
  x = random_array(2, 6, 9, 4)
  expected = F.interpolate(to_torch(x), scale_factor=2, mode="bilinear", align_corners=False)
  assert_close(_upsample_at_start(x)[:, 1:-1, 1:-1], to_numpy(expected)[:, 1:-1, 1:-1], 1e-6)


def test_deconv_start_keeps_a_constant_map():
  constants = np.array([1.0, -2.0, 3.5], np.float32)
  y = _upsample_at_start(np.broadcast_to(constants, (1, 5, 7, 3)))
  np.testing.assert_allclose(y[:, 1:-1, 1:-1], np.broadcast_to(constants, (1, 8, 12, 3)), rtol=1e-6)


def test_bilinear_kernel_is_for_four_by_four_only():
  with pytest.raises(ValueError, match="not 3 x 5"):
    bilinear_kernel(jax.random.key(0), (3, 5, 2, 2))
