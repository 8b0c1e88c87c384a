"""Boundary Refinement as one operation for GPUs, in Pallas with Triton; not yet compiled for or run on a GPU.

`x + conv2(relu(conv1(x) + b1)) + b2` with 3 x 3 convolutions of few channels is bound by memory: XLA writes the hidden
map and reads it back, in the backward pass several times. Here the hidden map exists only row by row in registers.

A program of `_refine_kernel` works on a strip of `_COLUMNS` hidden columns, which give two fewer columns of the result,
and walks down `_ROWS` rows of it. For each hidden row it computes nine products `[columns, C] x [C, C]`, one per tap,
and adds the row's share to the three rows of the result that see it. Triton cannot move the rows of a matrix
within registers, so the neighbours to the left and right come from a product with a matrix of zeros and ones, exactly.

The gradient with respect to x has the same form: with the output's gradient g and kernels turned by 180 degrees and
transposed, it is `g + conv1'(mask * conv2'(g))`, where the mask tells where the hidden map, computed again, is
positive. Gradients with respect to the kernels are sums over all pixels of products of two columns. XLA would need the
hidden map and its gradient in memory for them, and is slow at kernel gradients of few channels, so a second kernel
computes both again: each program sums over its own pixels in float32, and XLA adds up what the programs found.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from gcn_flax.models import kernels, layout

_COLUMNS, _ROWS = 64, 32  # Pixels of a program. A row has the 64 rows of a matrix product that tensor cores work on.
_MIN_CHANNELS = 16  # Of a product in Triton, where all sizes are powers of two.
_TAPS = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1)]


def boundary_refine(
  x: jax.Array, kernel1: jax.Array, bias1: jax.Array, kernel2: jax.Array, bias2: jax.Array,
  *, interpret: bool | None = None,
) -> jax.Array:  # fmt: skip
  """Returns `x + conv2(relu(conv1(x) + bias1)) + bias2`, the BR of Figure 2 C, with zero padding of both convolutions.

  Products are computed in the dtype of `x` and summed in float32; gradients of kernels and biases are float32.
  Channels are padded to a power of two, at least 16. Under `jit` the arrays must not be sharded: XLA cannot split it.

  Args:
    x: `[B, H, W, C]`, bfloat16 or float32.
    kernel1: `[3, 3, C, C]`, float32, as `bias1` `[C]`, `kernel2` and `bias2`.
    bias1: bias of the first convolution.
    kernel2: kernel of the second convolution.
    bias2: bias of the second convolution.
    interpret: uses Pallas' interpreter, which runs on every platform, slowly; None for wherever JAX has no GPU.
  """
  channels = x.shape[-1]
  width = max(_MIN_CHANNELS, 1 << (channels - 1).bit_length())
  interpret = jax.default_backend() != "gpu" if interpret is None else interpret
  kernel1, kernel2 = (kernels.pad_channels(kernel, width, width) for kernel in (kernel1, kernel2))
  x, bias1, bias2 = (layout.pad_channels(array, width) for array in (x, bias1, bias2))
  return _refine(x, kernel1, bias1, kernel2, bias2, interpret)[..., :channels]


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _refine(x, kernel1, bias1, kernel2, bias2, interpret):
  first, second = kernel1.astype(x.dtype), kernel2.astype(x.dtype)
  return _call_refine(x, first, bias1, second, bias2, gate=None, interpret=interpret)


def _refine_forward(x, kernel1, bias1, kernel2, bias2, interpret):
  return _refine(x, kernel1, bias1, kernel2, bias2, interpret), (x, kernel1, bias1, kernel2)


def _refine_backward(interpret, residuals, gradient):
  x, kernel1, bias1, kernel2 = residuals
  first, second = kernel1.astype(x.dtype), kernel2.astype(x.dtype)
  zeros = jnp.zeros_like(bias1)
  into_x = _call_refine(
    gradient, _turned(second), zeros, _turned(first), zeros, gate=(x, first, bias1), interpret=interpret
  )
  into_kernels, into_bias1 = _call_kernel_gradients(x, gradient, first, bias1, _turned(second), interpret)
  into_bias2 = jnp.sum(gradient, (0, 1, 2), jnp.float32)
  return into_x, into_kernels[0], into_bias1, into_kernels[1], into_bias2


_refine.defvjp(_refine_forward, _refine_backward)


def _turned(kernel: jax.Array) -> jax.Array:
  """Returns the kernel of the convolution that maps a gradient of the output to one of the input."""
  return kernel[::-1, ::-1].swapaxes(2, 3)


def _call_refine(x, kernel1, bias1, kernel2, bias2, gate, interpret):
  """Returns `x + conv2(activation(conv1(x) + bias1)) + bias2`.

  Without `gate` the activation is ReLU; with `gate = (y, kernel, bias)` it keeps what lies where
  `conv(y) + bias` is positive.
  """
  batch, height, width, _ = x.shape
  return pl.pallas_call(
    _refine_kernel,
    out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
    grid=(batch, pl.cdiv(height, _ROWS), pl.cdiv(width, _COLUMNS - 2)),
    **_options(interpret),
  )(x, kernel1, bias1, kernel2, bias2, *(gate or ()))


def _refine_kernel(x, kernel1, bias1, kernel2, bias2, *gate_and_out):
  *gate, out = gate_and_out
  _, height, width, channels = x.shape
  image, first_row, first_column = pl.program_id(0), pl.program_id(1) * _ROWS, pl.program_id(2) * (_COLUMNS - 2)
  columns = first_column - 1 + jnp.arange(_COLUMNS)
  inner = (columns >= first_column) & (columns < jnp.minimum(first_column + _COLUMNS - 2, width))

  def walk(step, sums):
    """Adds hidden row `row` to the rows of the result, of which `row - 1` is then complete."""
    above, here = sums
    row = first_row - 1 + step
    hidden = _conv_row(x, image, row, columns, kernel1) + bias1[...]
    if gate:
      y, kernel, bias = gate
      hidden = jnp.where(_conv_row(y, image, row, columns, kernel) + bias[...] > 0, hidden, 0)
    else:
      hidden = jnp.maximum(hidden, 0)
    # Outside of the image the second convolution sees zeros, not what the bias would make of them.
    hidden = jnp.where(_inside(row, columns, height, width, channels), hidden, 0).astype(x.dtype)
    shifted = [hidden if shift == 0 else _dot(_shift(shift, x.dtype), hidden).astype(x.dtype) for shift in (-1, 0, 1)]
    shares = [sum(_dot(values, kernel2[tap, i]) for i, values in enumerate(shifted)) for tap in range(3)]
    result = above + shares[2] + _load(x, image, row - 1, columns) + bias2[...]
    done = inner & (row - 1 >= first_row) & (row - 1 < height)
    triton.store(_pixels(out, image, row - 1, columns), result.astype(out.dtype), mask=_each(done, channels))
    return here + shares[1], shares[0]

  zeros = jnp.zeros((_COLUMNS, channels), jnp.float32)
  jax.lax.fori_loop(0, _ROWS + 2, walk, (zeros, zeros))


def _call_kernel_gradients(x, gradient, kernel1, bias1, turned2, interpret):
  """Returns the gradients of both kernels, float32 `[2, 3, 3, C, C]`, and of the first bias, float32 `[C]`."""
  batch, height, width, channels = x.shape
  grid = (batch, pl.cdiv(height, _ROWS), pl.cdiv(width, _COLUMNS))
  shapes = [(*grid, 2, len(_TAPS), channels, channels), (*grid, channels)]
  into_kernels, into_bias = pl.pallas_call(
    _kernel_gradients_kernel,
    out_shape=[jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes],
    grid=grid,
    **_options(interpret, num_warps=8),  # 18 sums of [C, C] stay in registers.
  )(x, gradient, kernel1, bias1, turned2)
  into_kernels = into_kernels.sum((0, 1, 2)).reshape(2, 3, 3, channels, channels)
  return into_kernels, into_bias.sum((0, 1, 2))


def _kernel_gradients_kernel(x, gradient, kernel1, bias1, turned2, into_kernels, into_bias):
  _, height, width, channels = x.shape
  image, first_row, first_column = pl.program_id(0), pl.program_id(1) * _ROWS, pl.program_id(2) * _COLUMNS
  columns = first_column + jnp.arange(_COLUMNS)

  def walk(step, sums):
    into1, into2, into_bias1 = sums
    row = first_row + step
    inside = _inside(row, columns, height, width, channels)
    hidden = _conv_row(x, image, row, columns, kernel1) + bias1[...]
    hidden = jnp.where(inside, jnp.maximum(hidden, 0), 0)
    into_hidden = jnp.where(hidden > 0, _conv_row(gradient, image, row, columns, turned2), 0)
    into_bias1 = into_bias1 + jnp.sum(into_hidden, 0)
    hidden, into_hidden = hidden.astype(x.dtype), into_hidden.astype(x.dtype)
    into1, into2 = list(into1), list(into2)
    for tap, (down, right) in enumerate(_TAPS):
      seen = _load(x, image, row + down, columns + right)
      into1[tap] += _dot(seen, into_hidden, transposed=True)
      result = _load(gradient, image, row - down, columns - right)
      into2[tap] += _dot(hidden, result, transposed=True)
    return tuple(into1), tuple(into2), into_bias1

  zeros = jnp.zeros((channels, channels), jnp.float32)
  start = ((zeros,) * len(_TAPS), (zeros,) * len(_TAPS), jnp.zeros(channels, jnp.float32))
  *sums, bias_sum = jax.lax.fori_loop(0, _ROWS, walk, start)
  program = tuple(pl.program_id(axis) for axis in range(3))
  for number, taps in enumerate(sums):
    for tap, value in enumerate(taps):
      into_kernels[(*program, number, tap)] = value
  into_bias[program] = bias_sum


def _options(interpret: bool, num_warps: int = 4) -> dict:
  return dict(interpret=interpret, compiler_params=triton.CompilerParams(num_warps=num_warps, num_stages=2))


def _conv_row(x, image, row, columns, kernel):
  """Returns one row of a 3 x 3 convolution at the given columns, float32 `[columns, C]`."""
  taps = (_dot(_load(x, image, row + down, columns + right), kernel[down + 1, right + 1]) for down, right in _TAPS)
  return sum(taps)


def _load(x, image, row, columns):
  """Returns pixels `[columns, C]` of a row, zeros outside of the image."""
  _, height, width, channels = x.shape
  mask = _inside(row, columns, height, width, channels)
  return triton.load(_pixels(x, image, row, columns), mask=mask, other=0)


def _pixels(x, image, row, columns):
  channels = x.shape[-1]
  return x.at[image, row, _each(columns, channels), jnp.broadcast_to(jnp.arange(channels), (_COLUMNS, channels))]


def _inside(row, columns, height: int, width: int, channels: int):
  return _each((row >= 0) & (row < height) & (columns >= 0) & (columns < width), channels)


def _each(columns, channels: int):
  """Repeats what holds for columns for every channel."""
  return jnp.broadcast_to(columns[:, None], (_COLUMNS, channels))


def _shift(shift: int, dtype):
  """Returns the matrix that takes pixel `j + shift` to `j`; the ends get zeros, and are not used."""
  j = jnp.arange(_COLUMNS)
  return (j[None] == j[:, None] + shift).astype(dtype)


def _dot(a, b, transposed: bool = False):
  """Returns `a @ b`, or `a.T @ b`, in float32; float32 inputs are not rounded."""
  precision = jax.lax.Precision.HIGHEST if a.dtype == np.float32 else None
  contracted = ((0,) if transposed else (1,), (0,))
  return jax.lax.dot_general(a, b, (contracted, ((), ())), precision, preferred_element_type=jnp.float32)
