"""Implementations of operations for TPUs, where moving numbers costs more than multiplying them."""

from collections.abc import Sequence

import jax

from gcn_flax.models import kernels, layout, reference_ops
from gcn_flax.models.kernels import Padding

_MAX_IMAGE_CHANNELS = 4


def conv(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Padding) -> jax.Array:
  """Returns the convolution of `[B, H, W, I]` with `[k, l, I, O]`.

  The encoder's first one, of stride 2, takes the image after space-to-depth: 3 channels fill few lanes.
  """
  _, height, width, channels = x.shape
  stem = channels <= _MAX_IMAGE_CHANNELS and tuple(strides) == (2, 2)
  if not stem or tuple(padding) != kernels.same_padding(kernel) or height % 2 or width % 2:
    return reference_ops.conv(x, kernel, strides, padding)
  kernel, padding = kernels.strided_to_space_to_depth(kernel, 2)
  planes = layout.space_to_depth_planes(x.transpose(0, 3, 1, 2), (2, 2))
  x = planes.transpose(0, 4, 5, 2, 3, 1).reshape(x.shape[0], height // 2, width // 2, -1)
  return reference_ops.conv(x, kernel, (1, 1), padding)
