"""Re-indexed kernels give the same convolution and the same gradients in other layouts."""

import numpy as np
import pytest

from gcn_flax.models import kernels
from gcn_flax.models.layout import FeatureMap, Layout, depth_to_space, space_to_depth
from gcn_flax.models.ops import REFERENCE
from tests.models.comparison import assert_close, assert_same_function, random_array

BLOCKS = [(2, 2), (1, 4), (3, 1), (2, 3)]


def conv(x, kernel, strides=(1, 1), padding=None):
  return REFERENCE.conv(x, kernel, strides, padding or kernels.same_padding(kernel))


def inputs(size):
  return random_array(2, 12, 12, 3), random_array(*size, 3, 4, seed=1)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("size", [(3, 3), (1, 7), (5, 1), (1, 1)])
def test_convolution_of_a_space_to_depth_map(block, size):
  def in_blocks(x, kernel):
    return depth_to_space(conv(space_to_depth(x, block), kernels.space_to_depth(kernel, block)), block)

  assert_same_function(in_blocks, conv, *inputs(size))


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("size", [(3, 3), (1, 7), (5, 1)])
def test_convolution_from_a_plain_map_to_a_space_to_depth_map(block, size):
  def to_blocks(x, kernel):
    padding = kernels.same_padding(kernel)
    return depth_to_space(conv(x, kernels.to_space_to_depth(kernel, block), block, padding), block)

  assert_same_function(to_blocks, conv, *inputs(size))


@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("size", [(3, 3), (7, 5), (1, 1)])
def test_strided_convolution_as_one_of_a_space_to_depth_map(stride, size):
  def in_blocks(x, kernel):
    kernel, padding = kernels.strided_to_space_to_depth(kernel, stride)
    return conv(space_to_depth(x, (stride, stride)), kernel, padding=padding)

  def strided(x, kernel):
    return conv(x, kernel, (stride, stride))

  assert_same_function(in_blocks, strided, *inputs(size))


def test_padded_channels_change_nothing_and_stay_zero():
  layout = Layout(3, (2, 2), 16)
  x, kernel = random_array(2, 8, 8, 3), random_array(3, 3, 3, 3, seed=1)
  padded_kernel = kernels.pad_channels(kernels.space_to_depth(kernel, layout.block), layout.width, layout.width)
  y = FeatureMap(conv(FeatureMap.of(x).to(layout).array, padded_kernel), layout)
  assert y.array.shape[-1] == 16 and not np.asarray(y.array[..., layout.used :]).any()
  assert_close(y.plain(), conv(x, kernel))
