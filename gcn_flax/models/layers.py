"""The two layers of encoder and decoder: padded convolution and learned upsampling.

Both take an array `[B, H, W, C]` or a `FeatureMap` and return the same kind.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from gcn_flax.models import kernels
from gcn_flax.models.initializers import BILINEAR, LECUN_NORMAL
from gcn_flax.models.layout import FeatureMap, Layout, depth_to_space
from gcn_flax.models.ops import current_ops


class Conv(nn.Module):
  """Convolution padded as in PyTorch, by `k // 2` on both sides whatever the stride.

  Flax's `SAME` pads strided convolutions unevenly, which shifts every feature by a pixel against public ImageNet
  weights. Parameters and, by default, their initialisation are those of `nn.Conv`.

  Attributes:
    features: channels of the output.
    kernel_size: (rows, columns), odd.
    stride: stride in both directions.
    use_bias: adds a bias.
    dtype: dtype of the computation; parameters are float32.
    kernel_init: initialiser of the kernel.
  """

  features: int
  kernel_size: Sequence[int]
  stride: int = 1
  use_bias: bool = True
  dtype: jnp.dtype = jnp.float32
  kernel_init: Callable = LECUN_NORMAL

  @nn.compact
  def __call__(self, x: jax.Array | FeatureMap, layout: Layout | None = None) -> jax.Array | FeatureMap:
    """Convolves `[B, H, W, I]` to `[B, ceil(H / stride), ceil(W / stride), features]`.

    Args:
      x: the input; with a stride, in the plain layout.
      layout: layout of the result if `x` is a `FeatureMap`. It has the block of the input; an input that is not in
        blocks allows any block. None for the input's block without channel padding.

    Raises ValueError for a stride with blocks, and for two different blocks.
    """
    is_map, x = isinstance(x, FeatureMap), FeatureMap.of(x)
    before, after = x.layout, layout or Layout(self.features, x.layout.block)
    if (before.in_blocks and before.block != after.block) or (after.in_blocks and self.stride != 1):
      raise ValueError(f"a convolution with stride {self.stride} cannot go from {before} to {after}.")
    kernel = self.param("kernel", self.kernel_init, (*self.kernel_size, before.channels, self.features))
    bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
    array, kernel = x.array.astype(self.dtype), kernel.astype(self.dtype)
    strides, padding = (self.stride, self.stride), kernels.same_padding(kernel)
    if before.block != after.block:
      kernel, strides = kernels.to_space_to_depth(kernel, after.block), after.block
    elif before.in_blocks:
      kernel = kernels.space_to_depth(kernel, before.block)
      padding = kernels.same_padding(kernel)
    kernel = kernels.pad_channels(kernel, before.width, after.width)
    y = current_ops().conv(array, kernel, strides, padding)
    y = y if bias is None else y + after.tile(bias.astype(self.dtype))
    return FeatureMap(y, after) if is_map else y


class Deconv(nn.Module):
  """Learned upsampling by two: 4 x 4 transposed convolution (deconvolution), stride 2, no bias, C to C channels.

  Arithmetic and kernel layout `[4, 4, C, C]` are those of `nn.ConvTranspose` with `SAME` padding. It is computed as
  a sub-pixel convolution: an output pixel sees only 2 x 2 of the 4 x 4 taps, and which ones depends on the parity of
  its row and column, so one 3 x 3 convolution to `4 C` channels, one group of channels per parity, gives the same
  sums without a dilated input.

  Attributes:
    dtype: dtype of the computation; the kernel is float32.
  """

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array | FeatureMap, layout: Layout | None = None) -> jax.Array | FeatureMap:
    """Upsamples `[B, H, W, C]` to `[B, 2 H, 2 W, C]`.

    Args:
      x: the input.
      layout: layout of the result if `x` is a `FeatureMap`: not in blocks, or in blocks of 2 x 2. None for the plain
        layout.
    """
    is_map, x = isinstance(x, FeatureMap), FeatureMap.of(x)
    channels = x.layout.channels
    x = x.to(Layout(channels, width=current_ops().padded(channels)))
    before, after = x.layout, layout or Layout(channels)
    kernel = self.param("kernel", BILINEAR, (4, 4, channels, channels))
    array, kernel = x.array.astype(self.dtype), kernel.astype(self.dtype)
    if after.in_blocks:
      kernel = kernels.pad_channels(kernels.sub_pixel(kernel), before.width, after.width)
    else:  # Each of the four pixels gets its own channel padding, which depth-to-space leaves in place.
      kernel = kernels.sub_pixel(kernels.pad_channels(kernel, before.width, after.width))
    y = current_ops().conv(array, kernel, (1, 1), kernels.same_padding(kernel))
    y = y if after.in_blocks else depth_to_space(y, (2, 2))
    return FeatureMap(y, after) if is_map else y
