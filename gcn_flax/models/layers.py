"""The two layers that both the encoder and the decoder are made of: padded convolution and learned upsampling."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp


def conv(features: int, kernel_size: Sequence[int], stride: int = 1, **kwargs) -> nn.Conv:
  """A convolution padded as PyTorch pads: `k // 2` on both sides, whatever the stride.

  Flax's `SAME` pads strided convolutions unevenly, which moves every feature by a
  pixel against public ImageNet weights.
  """
  padding = [(size // 2, size // 2) for size in kernel_size]
  return nn.Conv(features, tuple(kernel_size), strides=stride, padding=padding, **kwargs)


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
  channels, one group of channels per parity, followed by interleaving, gives the
  same sums without a dilated input, several times faster on CPU.
  """

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    batch, height, width, channels = x.shape
    kernel = self.param("kernel", bilinear_kernel, (4, 4, channels, channels))
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    x = jax.lax.conv_general_dilated(x, by_parity(kernel), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    x = x.reshape(batch, height, width, 2, 2, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, channels)


def by_parity(kernel: jax.Array) -> jax.Array:
  """Re-indexes a 4 x 4 stride-2 kernel `[4, 4, I, O]` to a 3 x 3 stride-1 one `[3, 3, I, 4 O]`.

  Output row `2 i + p` reads the input rows `i - 1 + p` and `i + p` through the taps
  `p` and `p + 2`: tap `t` of parity `p` stands at row `(t + p) // 2` of the 3 x 3 kernel.
  """
  inputs, outputs = kernel.shape[2:]
  result = jnp.zeros((3, 3, inputs, 2, 2, outputs), kernel.dtype)
  for row in (0, 1):
    for column in (0, 1):
      taps = kernel[row::2, column::2]
      result = result.at[row : row + 2, column : column + 2, :, row, column].set(taps)
  return result.reshape(3, 3, inputs, 4 * outputs)
