"""In which form each kind of chip computes an operation best: the only place that knows.

All forms give the same results but for rounding. Which is the fastest was measured (CPU), or estimated by the
compiler (TPU: nothing was run on one), see docs/PERFORMANCE.md; on GPUs, where nothing was measured, they are plain.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from gcn_flax.models import layout
from gcn_flax.models.layout import Layout

Padding = Sequence[tuple[int, int]]
_NHWC = ("NHWC", "HWIO", "NHWC")


def half(kernel: jax.Array) -> Padding:
  """The padding that keeps a map's size: half of the kernel `[k, l, I, O]` on each side."""
  return tuple((side // 2,) * 2 for side in kernel.shape[:2])


def _xla_conv(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Padding) -> jax.Array:
  return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=_NHWC)


def _xla_max_pool(x: jax.Array) -> jax.Array:
  window, strides = (1, 3, 3, 1), (1, 2, 2, 1)
  return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, ((0, 0), (1, 1), (1, 1), (0, 0)))


@dataclasses.dataclass(frozen=True)
class Forms:
  """The forms of one kind of chip.

  Attributes:
    conv: `(x, kernel, strides, padding)` -> a convolution of `[B, H, W, I]` with `[k, l, I, O]`.
    max_pool: 3 x 3 with stride 2, padded by 1, `[B, H, W, C]` -> `[B, ceil(H / 2), ceil(W / 2), C]`.
    lanes: channels that a vector unit works on at once. Scores are folded where maps are large, and the outputs of a
      head's first convolutions, as far as their channels still fit into it; 0 to fold nothing.
    widths: (least, step): scores of at least so many channels are filled with zeros up to a multiple of `step`.
  """

  conv: Callable[..., jax.Array] = _xla_conv
  max_pool: Callable[[jax.Array], jax.Array] = _xla_max_pool
  lanes: int = 0
  widths: tuple[int, int] = (1, 1)

  def plain(self, channels: int) -> Layout:
    """The layout of scores where maps are small."""
    return Layout(channels, width=self._width(channels))

  def fine(self, channels: int) -> Layout:
    """The layout of scores at half of the input's resolution and at all of it."""
    if 4 * channels > self.lanes:
      return self.plain(channels)
    return Layout(channels, (2, 2), self._width(4 * channels))

  def _width(self, channels: int) -> int:
    least, step = self.widths
    return -(-channels // step) * step if channels >= least else channels

  def head_fold(self, channels: int, side: int) -> int:
    """By how much the outputs of a head's first convolution are folded along its kernel's side."""
    if side < _SMALL_MAP:
      return 1
    most = min(self.lanes // channels, _MOST_FOLDED)
    return max((fold for fold in range(1, most + 1) if side % fold == 0), default=1)


_SMALL_MAP = 50  # Pixels of a side below which folding a head's outputs costs more than it spares.
_MOST_FOLDED = 8  # Of a head's outputs; more were not looked at.


# CPU: XLA's convolutions leave half of the speed, matrix products do not.


def _cpu_conv(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Padding) -> jax.Array:
  height, width, inputs, _ = kernel.shape
  if height == width == 1:
    return _product(x[:, :: strides[0], :: strides[1]], kernel[0, 0])
  pixels = x.shape[0] * -(-x.shape[1] // strides[0]) * -(-x.shape[2] // strides[1])
  same = tuple(strides) == (1, 1) and tuple(padding) == half(kernel)
  if same and 1 in (height, width) and _pays_as_line(pixels, kernel.shape):
    return _line_conv(x, kernel, 1 if width == 1 else 2)
  if pixels <= _FEW_PIXELS and inputs >= _MANY_CHANNELS:
    return _by_patches(x, kernel, strides, padding)
  if same and x.size > 2 * _STRIP and inputs >= _VECTOR:
    return _conv_of_large_map(x, kernel)
  return _xla_conv(x, kernel, strides, padding)


# Sizes are those of the whole batch, whatever the devices: JAX knows no other while it traces.
_MUCH_WORK = 1 << 24  # Multiplications; below, what is spared does not pay for compiling it.
_MOST_TAPS = 1 << 26  # Numbers that stand beside each other before they are summed: 256 MB.
_FEW_PIXELS, _MANY_CHANNELS = 512, 256  # Patches are then small beside the kernel.
_VECTOR = 16  # Channels below which strips and filling gain nothing.
_STRIP, _MOST_STRIPS = 1 << 20, 16  # Numbers of a map whose convolution stays in the cache; each strip is compiled.


def _pays_as_line(pixels: int, shape: Sequence[int]) -> bool:
  height, width, inputs, outputs = shape
  taps = height * width * outputs
  return taps <= 5 * inputs and pixels * taps <= _MOST_TAPS and pixels * taps * inputs >= _MUCH_WORK


def _product(x: jax.Array, matrix: jax.Array, dtype: jnp.dtype | None = None) -> jax.Array:
  """`[..., I] @ [I, O]` of one long matrix."""
  product = jnp.matmul(x.reshape(-1, x.shape[-1]), matrix, preferred_element_type=dtype)
  return product.reshape(*x.shape[:-1], -1)


def _by_patches(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Padding) -> jax.Array:
  """The windows side by side, times the kernel as one matrix."""
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
  return _product(jnp.concatenate(taps, -1), kernel.reshape(height * width * inputs, outputs))


def _shifts(x: jax.Array, axis: int, count: int) -> list[jax.Array]:
  """`count` copies of a map, moved along an axis: in the `t`-th, place `p` has what is at `p + t - count // 2`."""
  padding = [(0, 0)] * x.ndim
  padding[axis] = (count // 2, count // 2)
  padded = jnp.pad(x, padding)
  return [jax.lax.slice_in_dim(padded, start, start + x.shape[axis], axis=axis) for start in range(count)]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _line_conv(x: jax.Array, kernel: jax.Array, axis: int) -> jax.Array:
  """k x 1 (axis 1) or 1 x k (axis 2): one product gives the share of each tap, moved sums of them the rest."""
  height, width, inputs, outputs = kernel.shape
  length = height * width
  kernel = kernel.reshape(length, inputs, outputs).transpose(1, 0, 2).reshape(inputs, -1)
  taps = _product(x, kernel, jnp.float32)  # Also of bfloat16, which is rounded once, when all are summed.
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
  # Beside each pixel, the gradients of all outputs that it went into, in the order of the taps.
  reached = jnp.concatenate(_shifts(gradient, axis, length)[::-1], -1)
  of_x = _product(reached, kernel.reshape(length, inputs, outputs).transpose(0, 2, 1).reshape(-1, inputs))
  of_kernel = x.reshape(-1, inputs).T @ reached.reshape(-1, length * outputs)
  return of_x, of_kernel.reshape(inputs, length, outputs).transpose(1, 0, 2).reshape(kernel.shape)


_line_conv.defvjp(_line_conv_forward, _line_conv_backward)


@jax.custom_vjp
def _conv_of_large_map(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Stride 1, padded by half of the kernel, whose gradient is summed over strips of rows."""
  return _xla_conv(x, kernel, (1, 1), half(kernel))


def _conv_of_large_map_forward(x, kernel):
  return _conv_of_large_map(x, kernel), (x, kernel)


def _conv_of_large_map_backward(saved, gradient):
  x, kernel = saved
  height, width = kernel.shape[:2]
  of_x = _xla_conv(gradient, kernel[::-1, ::-1].transpose(0, 1, 3, 2), (1, 1), half(kernel))
  padded = jnp.pad(x, ((0, 0), (height // 2,) * 2, (0, 0), (0, 0)))
  rows = max(-(-x.shape[1] // _MOST_STRIPS), x.shape[1] * _STRIP // x.size)
  of_kernel = jnp.float32(0)
  for start in range(0, x.shape[1], rows):
    end = min(start + rows, x.shape[1])
    strip = padded[:, start : end + height - 1]
    _, pull = jax.vjp(lambda kernel, strip=strip: _xla_conv(strip, kernel, (1, 1), ((0, 0), (width // 2,) * 2)), kernel)
    of_kernel += pull(gradient[:, start:end])[0].astype(jnp.float32)
  return of_x, of_kernel.astype(kernel.dtype)


_conv_of_large_map.defvjp(_conv_of_large_map_forward, _conv_of_large_map_backward)


def _pool_taps(x: jax.Array) -> list[jax.Array]:
  """What each of a window's nine places holds, in the window's order."""
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
  rows, columns = (2 * (-(-side // 2)) - 1 for side in x.shape[1:3])
  return [padded[:, i : i + rows : 2, j : j + columns : 2] for i, j in itertools.product(range(3), range(3))]


@jax.custom_vjp
def _slices_max_pool(x: jax.Array) -> jax.Array:
  """A maximum of nine strided slices; as XLA's and PyTorch's, the first of equal ones gets the gradient."""
  return functools.reduce(jnp.maximum, _pool_taps(x))


def _slices_max_pool_forward(x):
  pooled = _slices_max_pool(x)
  return pooled, (x, pooled)


def _slices_max_pool_backward(saved, gradient):
  x, pooled = saved
  sides = [x.shape[1] + 2, x.shape[2] + 2]
  taken, total = jnp.zeros(pooled.shape, bool), 0.0
  for place, tap in zip(itertools.product(range(3), range(3)), _pool_taps(x), strict=True):
    first = (tap == pooled) & ~taken
    taken |= first
    back = [
      (start, side - start - (2 * length - 1), 1)
      for start, side, length in zip(place, sides, pooled.shape[1:3], strict=True)
    ]
    share = jnp.where(first, gradient, 0)
    total += jax.lax.pad(share, jnp.zeros((), gradient.dtype), ((0, 0, 0), *back, (0, 0, 0)))
  return (total[:, 1:-1, 1:-1],)


_slices_max_pool.defvjp(_slices_max_pool_forward, _slices_max_pool_backward)


# TPU: what moves numbers costs more than what multiplies them.


def _tpu_conv(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Padding) -> jax.Array:
  """The first convolution of an encoder takes the image folded: 3 channels fill few lanes."""
  height, width, inputs, _ = kernel.shape
  same = tuple(padding) == half(kernel)
  even = not (x.shape[1] % 2 or x.shape[2] % 2)
  if inputs > _PICTURE_CHANNELS or tuple(strides) != (2, 2) or not (same and even):
    return _xla_conv(x, kernel, strides, padding)
  kernel, padding = layout.unstride(kernel, 2)
  planes = layout.fold_planes(x.transpose(0, 3, 1, 2), 2, 2)
  folded = planes.transpose(0, 4, 5, 2, 3, 1).reshape(x.shape[0], x.shape[1] // 2, x.shape[2] // 2, -1)
  return _xla_conv(folded, kernel, (1, 1), padding)


_PICTURE_CHANNELS = 4


PLAIN = Forms()
# XLA's 3 x 3 convolutions of 24 channels take half the time of those of 21; 5 filled to 8, or 11 to 16, gain nothing.
CPU = Forms(conv=_cpu_conv, max_pool=_slices_max_pool, widths=(_VECTOR + 1, 8))
# libtpu takes five times as long for 65 to 94 channels as for 128, where a 3 x 3 convolution reads them.
TPU = Forms(conv=_tpu_conv, lanes=128, widths=(65, 128))
_BY_PLATFORM = {"cpu": CPU, "tpu": TPU}


def of_platform(platform: str = "") -> Forms:
  """The forms of a platform, as JAX names it; "" for the one that JAX computes on."""
  return _BY_PLATFORM.get(platform or jax.default_backend(), PLAIN)
