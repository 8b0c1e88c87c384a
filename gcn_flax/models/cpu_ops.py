"""Implementations of operations for CPUs, where XLA's convolutions run at half the FLOP/s of its matrix products.

The choice depends on the array sizes that JAX traces: those of the whole batch under `jit`, whatever the number of
devices, and those of one device's share under `shard_map`, as in evaluation.
"""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gcn_flax.models import reference_ops
from gcn_flax.models.kernels import Padding, same_padding
from gcn_flax.rounding import ceil_div, round_up

_MIN_LINE_WORK = 1 << 24  # Multiplications; below this, `_line_conv` does not repay the time to compile it.
_MAX_LINE_TAPS = 1 << 26  # Array elements (float32, 256 MB) that `_line_conv` holds before it sums them.
_IM2COL_MAX_PIXELS, _IM2COL_MIN_CHANNELS = 512, 256  # im2col's matrix is then small compared with the kernel.
_STRIPS_MIN_CHANNELS = 16
_STRIP_SIZE = 1 << 20  # Array elements of a strip; the convolution of one stays in the cache.
_MAX_STRIPS = 16  # Each strip is compiled separately.


def conv(
  x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Padding, strip_size: int = _STRIP_SIZE
) -> jax.Array:
  """Returns the convolution of `[B, H, W, I]` with `[k, l, I, O]`; `strip_size`: see `_conv_of_large_map`."""
  height, width, inputs, _ = kernel.shape
  if height == width == 1:
    return _matmul(x[:, :: strides[0], :: strides[1]], kernel[0, 0])
  pixels = x.shape[0] * ceil_div(x.shape[1], strides[0]) * ceil_div(x.shape[2], strides[1])
  same = tuple(strides) == (1, 1) and tuple(padding) == same_padding(kernel)
  if same and 1 in (height, width) and _pays_as_line(pixels, kernel.shape):
    return _line_conv(x, kernel, 1 if width == 1 else 2)
  if pixels <= _IM2COL_MAX_PIXELS and inputs >= _IM2COL_MIN_CHANNELS:
    return _im2col_conv(x, kernel, strides, padding)
  if same and x.size > 2 * strip_size and inputs >= _STRIPS_MIN_CHANNELS:
    return _conv_of_large_map(x, kernel, strip_size)
  return reference_ops.conv(x, kernel, strides, padding)


def _pays_as_line(pixels: int, shape: Sequence[int]) -> bool:
  height, width, inputs, outputs = shape
  taps = height * width * outputs
  return taps <= 5 * inputs and pixels * taps <= _MAX_LINE_TAPS and pixels * taps * inputs >= _MIN_LINE_WORK


def _matmul(x: jax.Array, matrix: jax.Array, dtype: jnp.dtype | None = None) -> jax.Array:
  """Returns `[..., I] @ [I, O]`, computed as one tall matrix."""
  product = jnp.matmul(x.reshape(-1, x.shape[-1]), matrix, preferred_element_type=dtype)
  return product.reshape(*x.shape[:-1], -1)


def _im2col_conv(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Padding) -> jax.Array:
  """Lays the windows side by side (im2col) and multiplies them by the kernel as one matrix."""
  height, width, inputs, outputs = kernel.shape
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  rows, columns = (
    (side - length) // stride + 1 for side, length, stride in zip(x.shape[1:3], kernel.shape[:2], strides, strict=True)
  )
  taps = [
    x[:, i : i + (rows - 1) * strides[0] + 1 : strides[0], j : j + (columns - 1) * strides[1] + 1 : strides[1]]
    for i in range(height)
    for j in range(width)
  ]
  return _matmul(jnp.concatenate(taps, -1), kernel.reshape(height * width * inputs, outputs))


def _shifts(x: jax.Array, axis: int, count: int) -> list[jax.Array]:
  """Returns `count` shifted copies of a map: position `p` of the `t`-th holds what is at `p + t - count // 2`."""
  padding = [(0, 0)] * x.ndim
  padding[axis] = (count // 2, count // 2)
  padded = jnp.pad(x, padding)
  return [jax.lax.slice_in_dim(padded, start, start + x.shape[axis], axis=axis) for start in range(count)]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _line_conv(x: jax.Array, kernel: jax.Array, axis: int) -> jax.Array:
  """Convolves with k x 1 (axis 1) or 1 x k (axis 2): one product gives every tap's share, shifted sums the result."""
  height, width, inputs, outputs = kernel.shape
  length = height * width
  kernel = kernel.reshape(length, inputs, outputs).transpose(1, 0, 2).reshape(inputs, -1)
  taps = _matmul(x, kernel, jnp.float32)  # Also for bfloat16, which is rounded once, after the sum.
  padding = [(0, 0)] * 4
  padding[axis] = (length // 2, length // 2)
  taps = jnp.pad(taps, padding)
  return sum(
    jax.lax.slice_in_dim(taps, tap, tap + x.shape[axis], axis=axis)[..., tap * outputs : (tap + 1) * outputs]
    for tap in range(length)
  ).astype(x.dtype)


def _line_conv_forward(x, kernel, axis):
  return _line_conv(x, kernel, axis), (x, kernel)


def _line_conv_backward(axis, saved, gradient):
  x, kernel = saved
  height, width, inputs, outputs = kernel.shape
  length = height * width
  # Beside each pixel, the gradients of all outputs that read it, in the order of the taps.
  gradients = jnp.concatenate(_shifts(gradient, axis, length)[::-1], -1)
  x_gradient = _matmul(gradients, kernel.reshape(length, inputs, outputs).transpose(0, 2, 1).reshape(-1, inputs))
  kernel_gradient = x.reshape(-1, inputs).T @ gradients.reshape(-1, length * outputs)
  return x_gradient, kernel_gradient.reshape(inputs, length, outputs).transpose(1, 0, 2).reshape(kernel.shape)


_line_conv.defvjp(_line_conv_forward, _line_conv_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv_of_large_map(x: jax.Array, kernel: jax.Array, strip_size: int) -> jax.Array:
  """Convolves at stride 1 with `same_padding`; the kernel's gradient is summed over strips of about `strip_size`."""
  del strip_size
  return reference_ops.conv(x, kernel, (1, 1), same_padding(kernel))


def _conv_of_large_map_forward(x, kernel, strip_size):
  return _conv_of_large_map(x, kernel, strip_size), (x, kernel)


def _conv_of_large_map_backward(strip_size, saved, gradient):
  x, kernel = saved
  height, width = kernel.shape[:2]
  x_gradient = reference_ops.conv(gradient, kernel[::-1, ::-1].transpose(0, 1, 3, 2), (1, 1), same_padding(kernel))
  padded = jnp.pad(x, ((0, 0), (height // 2,) * 2, (0, 0), (0, 0)))
  rows = max(ceil_div(x.shape[1], _MAX_STRIPS), x.shape[1] * strip_size // x.size)
  kernel_gradient = jnp.float32(0)
  for start in range(0, x.shape[1], rows):
    end = min(start + rows, x.shape[1])
    strip = padded[:, start : end + height - 1]
    _, pullback = jax.vjp(
      lambda kernel, strip=strip: reference_ops.conv(strip, kernel, (1, 1), ((0, 0), (width // 2,) * 2)), kernel
    )
    kernel_gradient += pullback(gradient[:, start:end])[0].astype(jnp.float32)
  return x_gradient, kernel_gradient.astype(kernel.dtype)


_conv_of_large_map.defvjp(_conv_of_large_map_forward, _conv_of_large_map_backward)


def _pool_taps(x: jax.Array) -> list[jax.Array]:
  """Returns the values at each of a window's nine positions, in the window's order."""
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
  rows, columns = (round_up(side, 2) - 1 for side in x.shape[1:3])
  return [padded[:, i : i + rows : 2, j : j + columns : 2] for i, j in itertools.product(range(3), range(3))]


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
  """Max-pools 3 x 3 with stride 2 and padding 1, as the maximum of nine strided slices.

  The first of equal values gets the gradient, as in XLA and PyTorch.
  """
  return functools.reduce(jnp.maximum, _pool_taps(x))


def _max_pool_forward(x):
  pooled = max_pool(x)
  return pooled, (x, pooled)


def _max_pool_backward(saved, gradient):
  x, pooled = saved
  sides = [x.shape[1] + 2, x.shape[2] + 2]
  taken, total = jnp.zeros(pooled.shape, bool), 0.0
  for position, tap in zip(itertools.product(range(3), range(3)), _pool_taps(x), strict=True):
    first = (tap == pooled) & ~taken
    taken |= first
    padding = [
      (start, side - start - (2 * length - 1), 1)
      for start, side, length in zip(position, sides, pooled.shape[1:3], strict=True)
    ]
    share = jnp.where(first, gradient, 0)
    total += jax.lax.pad(share, jnp.zeros((), gradient.dtype), ((0, 0, 0), *padding, (0, 0, 0)))
  return (total[:, 1:-1, 1:-1],)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)
