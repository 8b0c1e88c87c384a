"""Kernels of convolutions, re-indexed for maps in other layouts (see `layout.py`).

The new kernels repeat the same weights, with zeros between them, so results are those of the plain convolution.
"""

import jax
import jax.numpy as jnp

from gcn_flax.models.layout import Block
from gcn_flax.rounding import ceil_div

Padding = tuple[tuple[int, int], ...]  # (before, after) of rows and of columns.


def same_padding(kernel: jax.Array) -> Padding:
  """Returns the padding that keeps a map's size at stride 1: `k // 2` on each side, for a kernel `[k, l, I, O]`."""
  return tuple((side // 2,) * 2 for side in kernel.shape[:2])


def pad_channels(kernel: jax.Array, inputs: int, outputs: int) -> jax.Array:
  """Appends zeros for padded channels: `[k, l, I, O]` -> `[k, l, inputs, outputs]`."""
  return jnp.pad(kernel, ((0, 0), (0, 0), (0, inputs - kernel.shape[2]), (0, outputs - kernel.shape[3])))


def space_to_depth(kernel: jax.Array, block: Block) -> jax.Array:
  """Returns the kernel of a stride-1 convolution from and to space-to-depth maps.

  Args:
    kernel: `[k, l, I, O]`, k and l odd, for `same_padding`.
    block: (rows, columns) of both maps.

  Returns:
    `[k', l', rows * columns * I, rows * columns * O]`, k' and l' odd, for `same_padding` again.
  """
  (height, width, inputs, outputs), (rows, columns) = kernel.shape, block
  reach = [ceil_div(length // 2, factor) for length, factor in ((height, rows), (width, columns))]
  sides = [2 * blocks + 1 for blocks in reach]

  def taps(row, column):
    """The kernel of the outputs at one position in a block, over the pixels of all blocks that it reaches."""
    padding = []
    for length, factor, blocks, position in zip((height, width), block, reach, (row, column), strict=True):
      before = blocks * factor + position - length // 2
      padding.append((before, (2 * blocks + 1) * factor - before - length))
    return jnp.pad(kernel, (*padding, (0, 0), (0, 0)))

  stacked = jnp.stack([taps(row, column) for row in range(rows) for column in range(columns)], 3)
  stacked = stacked.reshape(sides[0], rows, sides[1], columns, inputs, rows * columns * outputs)
  return stacked.transpose(0, 2, 1, 3, 4, 5).reshape(*sides, rows * columns * inputs, rows * columns * outputs)


def to_space_to_depth(kernel: jax.Array, block: Block) -> jax.Array:
  """Returns the kernel of a stride-1 convolution from a plain map to a space-to-depth map.

  Args:
    kernel: `[k, l, I, O]`, k and l odd.
    block: (rows, columns) of the output.

  Returns:
    `[k + rows - 1, l + columns - 1, I, rows * columns * O]`, for strides of `(rows, columns)` and the `same_padding`
    of the original kernel.
  """
  (height, width, inputs, _), (rows, columns) = kernel.shape, block
  shifted = [
    jnp.pad(kernel, ((row, rows - 1 - row), (column, columns - 1 - column), (0, 0), (0, 0)))
    for row in range(rows)
    for column in range(columns)
  ]
  return jnp.stack(shifted, 3).reshape(height + rows - 1, width + columns - 1, inputs, -1)


def strided_to_space_to_depth(kernel: jax.Array, stride: int) -> tuple[jax.Array, Padding]:
  """Turns a strided convolution into one of stride 1 on a space-to-depth map.

  Args:
    kernel: `[k, l, I, O]`, odd, for `same_padding`.
    stride: stride in both directions; it divides the map's sides.

  Returns:
    The kernel `[k', l', stride * stride * I, O]` for blocks of `(stride, stride)`, and its padding.
  """
  block_padding, padding = [], []
  for length in kernel.shape[:2]:
    before = -(length // 2) % stride  # Zero taps back to the start of a block.
    blocks = ceil_div(length + before, stride)
    block_padding.append((before, blocks * stride - before - length))
    reach = (length // 2 + before) // stride
    padding.append((reach, blocks - 1 - reach))
  kernel = jnp.pad(kernel, (*block_padding, (0, 0), (0, 0)))
  height, width, inputs, outputs = kernel.shape
  kernel = kernel.reshape(height // stride, stride, width // stride, stride, inputs, outputs)
  kernel = kernel.transpose(0, 2, 1, 3, 4, 5).reshape(height // stride, width // stride, -1, outputs)
  return kernel, tuple(padding)


def sub_pixel(kernel: jax.Array) -> jax.Array:
  """Turns a 4 x 4 transposed convolution of stride 2 into a 3 x 3 sub-pixel convolution.

  `[4, 4, I, O]` -> `[3, 3, I, 4 O]`, whose output is the upsampled map in blocks of 2 x 2. Output row `2 i + p` reads
  the input rows `i - 1 + p` and `i + p` through the taps `p` and `p + 2`: tap `t` of parity `p` stands at row
  `(t + p) // 2` of the 3 x 3 kernel.
  """
  inputs = kernel.shape[2]
  phases = [
    jnp.pad(kernel[row::2, column::2], ((row, 1 - row), (column, 1 - column), (0, 0), (0, 0)))
    for row in (0, 1)
    for column in (0, 1)
  ]
  return jnp.stack(phases, 3).reshape(3, 3, inputs, -1)
