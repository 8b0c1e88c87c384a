"""The two layers that both the encoder and the decoder are made of: padded convolution and learned upsampling."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from gcn_flax.models import layout
from gcn_flax.models.layout import Layout
from gcn_flax.models.ops import PLAIN, Forms, half


class Conv(nn.Module):
  """A convolution padded as PyTorch pads, `k // 2` on both sides, whatever the stride.

  Flax's `SAME` pads strided convolutions unevenly, which moves every feature by a
  pixel against public ImageNet weights. Weights and their draw are those of `nn.Conv`.

  Attributes:
    features: channels of the output.
    kernel_size: (rows, columns).
    stride: in both directions.
    use_bias: whether a bias is added.
    dtype: of the computation; weights are float32.
    forms: in which the platform computes.
  """

  features: int
  kernel_size: Sequence[int]
  stride: int = 1
  use_bias: bool = True
  dtype: jnp.dtype = jnp.float32
  forms: Forms = PLAIN

  @nn.compact
  def __call__(self, x: jax.Array, layouts: tuple[Layout, Layout] | None = None) -> jax.Array:
    """`[B, H, W, I]` -> `[B, ceil(H / stride), ceil(W / stride), features]`.

    Args:
      x: the map.
      layouts: in which the map lies in `x` and is to lie in the result, with stride 1; the blocks are the same, or
        the map is not folded. None for plain maps.

    Raises ValueError for layouts where there is a stride.
    """
    if layouts and self.stride != 1:
      raise ValueError(f"a convolution with stride {self.stride} takes no layouts.")
    before, after = layouts or (Layout(x.shape[-1]), Layout(self.features))
    kernel = self.param("kernel", nn.initializers.lecun_normal(), (*self.kernel_size, before.channels, self.features))
    bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    strides, padding = (self.stride,) * 2, half(kernel)
    if before.block != after.block:
      kernel, strides = layout.fold_outputs(kernel, *after.block), after.block
    elif before.block != (1, 1):
      kernel = layout.fold_kernel(kernel, *before.block)
      padding = half(kernel)
    kernel = layout.widen_kernel(kernel, before.width, after.width)
    y = self.forms.conv(x, kernel, strides, padding)
    return y if bias is None else y + layout.repeat(bias.astype(self.dtype), after)


def bilinear_kernel(key: jax.Array, shape: Sequence[int], dtype=jnp.float32) -> jax.Array:
  """Bilinear interpolation by two as the start of a 4 x 4 deconvolution, `[4, 4, C, C]`.

  Each class begins as the interpolation of itself alone. The paper does not give
  the start of its deconvolutions; this is FCN's (Long et al., CVPR 2015).
  """
  del key
  height, width, inputs, outputs = shape
  if (height, width) != (4, 4):
    raise ValueError(f"bilinear_kernel is for 4 x 4 kernels with stride 2, not {height} x {width}.")
  taps = jnp.array([0.25, 0.75, 0.75, 0.25], dtype)
  return jnp.einsum("i,j,ab->ijab", taps, taps, jnp.eye(inputs, outputs, dtype=dtype))


class Deconv(nn.Module):
  """Learned upsampling by two: 4 x 4 deconvolution, stride 2, no bias, `[B, H, W, C]` -> `[B, 2H, 2W, C]`.

  Arithmetic and kernel layout `[4, 4, C, C]` are those of `nn.ConvTranspose` with
  `SAME` padding. An output pixel sees only 2 x 2 of the 4 x 4 taps, and which ones
  depends on the parity of its row and column; so one 3 x 3 convolution to `4 C`
  channels, one group of channels per parity, gives the same sums without a dilated
  input. What it gives is the output folded by 2, which is unfolded unless it is wanted so.

  Attributes:
    dtype: of the computation; the kernel is float32.
    forms: in which the platform computes.
    layouts: in which the map lies, not folded, and in which the result is to lie; None for plain maps.
  """

  dtype: jnp.dtype = jnp.float32
  forms: Forms = PLAIN
  layouts: tuple[Layout, Layout] | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    before, after = self.layouts or (Layout(x.shape[-1]),) * 2
    kernel = self.param("kernel", bilinear_kernel, (4, 4, before.channels, after.channels))
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    if after.block == (2, 2):
      kernel = layout.widen_kernel(layout.by_parity(kernel), before.width, after.width)
    else:  # Each pixel of a block has its own filling, which unfolding leaves in place.
      kernel = layout.by_parity(layout.widen_kernel(kernel, before.width, after.width))
    x = self.forms.conv(x, kernel, (1, 1), ((1, 1), (1, 1)))
    return x if after.block == (2, 2) else layout.unfold(x, 2, 2)
