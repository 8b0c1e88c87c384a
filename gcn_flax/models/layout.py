"""Space folded into channels: the same sums on maps of fewer, wider pixels.

A map of few channels leaves most of a vector unit idle: 19 class scores fill 19 of a TPU's 128 lanes. Folded by
`f`, blocks of `f x f` pixels become one pixel of `f * f` times as many channels, ordered (row in the block, column in
the block, channel). Convolutions then need re-indexed kernels, which hold the same weights again and again and zeros
between them; all of it is exact, and what is learned keeps the shapes of the plain network.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Layout:
  """How a map `[B, H, W, channels]` lies in an array `[B, H / rows, W / columns, width]`.

  Attributes:
    channels: of the plain map.
    block: (rows, columns) of it that are one pixel of the array.
    width: channels of the array, of which those beyond `rows * columns * channels` are zeros; 0 for no such filling.
  """

  channels: int
  block: tuple[int, int] = (1, 1)
  width: int = 0

  def __post_init__(self):
    object.__setattr__(self, "width", self.width or self.used)

  @property
  def used(self) -> int:
    """Channels of the array that are not filling."""
    return self.block[0] * self.block[1] * self.channels


@flax.struct.dataclass
class ScoreMap:
  """What a network says of each pixel, as it came out of its last convolution.

  Attributes:
    array: in the layout, of the type that the network computes in.
    layout: of the array.
  """

  array: jax.Array
  layout: Layout = flax.struct.field(pytree_node=False)

  @property
  def folded(self) -> bool:
    """Whether it is not the plain map."""
    return self.layout.block != (1, 1)

  def logits(self) -> jax.Array:
    """The plain view: float32 `[B, H, W, channels]`."""
    return to_plain(self.array, self.layout).astype(jnp.float32)

  def planes(self) -> jax.Array:
    """`[B, rows, columns, channels, H / rows, W / columns]`: one map for each class and place in a block."""
    batch, height, width, _ = self.array.shape
    planes = self.array[..., : self.layout.used].transpose(0, 3, 1, 2)
    # The barrier has XLA turn the map round in the type it has, not after it was made float32.
    planes = jax.lax.optimization_barrier(planes)
    return planes.reshape(batch, *self.layout.block, self.layout.channels, height, width)

  def classes(self) -> jax.Array:
    """The highest scores' classes, uint8 `[B, H, W]`; of equal ones the first."""
    if not self.folded:
      return jnp.argmax(self.array[..., : self.layout.channels], -1).astype(jnp.uint8)
    found = jnp.argmax(self.planes(), 3).astype(jnp.uint8)
    batch, rows, columns, height, width = found.shape
    return found.transpose(0, 3, 1, 4, 2).reshape(batch, height * rows, width * columns)


def fold(x: jax.Array, rows: int, columns: int) -> jax.Array:
  """`[B, H, W, C]` -> `[B, H / rows, W / columns, rows * columns * C]`."""
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height // rows, rows, width // columns, columns, channels).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(batch, height // rows, width // columns, -1)


def unfold(x: jax.Array, rows: int, columns: int) -> jax.Array:
  """`[B, H, W, rows * columns * C]` -> `[B, rows * H, columns * W, C]`: turns `fold` round."""
  batch, height, width, _ = x.shape
  x = x.reshape(batch, height, width, rows, columns, -1).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(batch, height * rows, width * columns, -1)


def to_plain(x: jax.Array, layout: Layout) -> jax.Array:
  """A map in a layout as `[B, H, W, channels]`."""
  return unfold(x[..., : layout.used], *layout.block)


def widen(x: jax.Array, width: int) -> jax.Array:
  """Adds channels of zeros up to `width`."""
  return x if x.shape[-1] == width else jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])])


def fold_planes(x: jax.Array, rows: int, columns: int) -> jax.Array:
  """Planes `[..., H, W]` with the places in their blocks apart, `[..., rows, columns, H / rows, W / columns]`.

  Columns are sorted by a product with a matrix of zeros and ones, which is exact: moving every other number of a row
  takes a TPU many times as long.
  """
  *_, height, width = x.shape
  order = jnp.arange(width).reshape(-1, columns).T.reshape(-1)
  permutation = (jnp.arange(width)[:, None] == order).astype(x.dtype)
  x = jnp.matmul(x, permutation, precision=jax.lax.Precision.HIGHEST)
  x = x.reshape(*x.shape[:-2], height // rows, rows, columns, width // columns)
  return jnp.moveaxis(x, -4, -2)


def fold_labels(labels: jax.Array, rows: int, columns: int) -> jax.Array:
  """Labels `[B, H, W]` as the planes of `ScoreMap` stand, `[B, rows, columns, H / rows, W / columns]`, bfloat16.

  bfloat16 holds whole numbers up to 256 exactly.
  """
  return fold_planes(labels.astype(jnp.bfloat16), rows, columns)


def fold_kernel(kernel: jax.Array, rows: int, columns: int) -> jax.Array:
  """The kernel of a stride-1 convolution for maps folded by `rows` and `columns`.

  Args:
    kernel: `[k, l, I, O]`, k and l odd, padded by `k // 2` and `l // 2`.
    rows: of a block.
    columns: of a block.

  Returns:
    `[k', l', rows * columns * I, rows * columns * O]`, odd, padded in the same way.
  """
  height, width, inputs, outputs = kernel.shape
  reach = [-(-(length // 2) // factor) for length, factor in ((height, rows), (width, columns))]
  sides = [2 * most + 1 for most in reach]

  def taps(phase_row, phase_column):  # Of one pixel of a block, in pixels of the plain map.
    padding = []
    for length, factor, most, phase in zip(
      (height, width), (rows, columns), reach, (phase_row, phase_column), strict=True
    ):
      before = most * factor + phase - length // 2
      padding.append((before, (2 * most + 1) * factor - before - length))
    return jnp.pad(kernel, (*padding, (0, 0), (0, 0)))

  stacked = jnp.stack([taps(row, column) for row in range(rows) for column in range(columns)], 3)
  stacked = stacked.reshape(sides[0], rows, sides[1], columns, inputs, rows * columns * outputs)
  return stacked.transpose(0, 2, 1, 3, 4, 5).reshape(*sides, rows * columns * inputs, rows * columns * outputs)


def fold_outputs(kernel: jax.Array, rows: int, columns: int) -> jax.Array:
  """The kernel that takes a plain map to the folded outputs of a stride-1 convolution.

  Args:
    kernel: `[k, l, I, O]`, k and l odd.
    rows: of a block of outputs.
    columns: of a block of outputs.

  Returns:
    `[k + rows - 1, l + columns - 1, I, rows * columns * O]`, for strides of `(rows, columns)`; padded by `k // 2`
    and `l // 2` as `kernel`.
  """
  height, width, inputs, _ = kernel.shape
  shifted = [
    jnp.pad(kernel, ((row, rows - 1 - row), (column, columns - 1 - column), (0, 0), (0, 0)))
    for row in range(rows)
    for column in range(columns)
  ]
  return jnp.stack(shifted, 3).reshape(height + rows - 1, width + columns - 1, inputs, -1)


def unstride(kernel: jax.Array, stride: int) -> tuple[jax.Array, tuple[tuple[int, int], ...]]:
  """A convolution with a stride as one without on a folded map.

  Args:
    kernel: `[k, l, I, O]`, odd, padded by `k // 2` and `l // 2`.
    stride: in both directions; it divides the map's sides.

  Returns:
    The kernel `[k', l', stride * stride * I, O]` for maps folded by `stride`, and its padding.
  """
  widening, padding = [], []
  for length in kernel.shape[:2]:
    before = -(length // 2) % stride  # Taps of zero, up to the beginning of a block.
    blocks = -(-(length + before) // stride)
    widening.append((before, blocks * stride - before - length))
    reach = (length // 2 + before) // stride
    padding.append((reach, blocks - 1 - reach))
  kernel = jnp.pad(kernel, (*widening, (0, 0), (0, 0)))
  height, width, inputs, outputs = kernel.shape
  kernel = kernel.reshape(height // stride, stride, width // stride, stride, inputs, outputs)
  kernel = kernel.transpose(0, 2, 1, 3, 4, 5).reshape(height // stride, width // stride, -1, outputs)
  return kernel, tuple(padding)


def by_parity(kernel: jax.Array) -> jax.Array:
  """A 4 x 4 stride-2 deconvolution `[4, 4, I, O]` as a 3 x 3 convolution with folded outputs, `[3, 3, I, 4 O]`.

  Output row `2 i + p` reads the input rows `i - 1 + p` and `i + p` through the taps
  `p` and `p + 2`: tap `t` of parity `p` stands at row `(t + p) // 2` of the 3 x 3 kernel.
  """
  inputs = kernel.shape[2]
  phases = [
    jnp.pad(kernel[row::2, column::2], ((row, 1 - row), (column, 1 - column), (0, 0), (0, 0)))
    for row in (0, 1)
    for column in (0, 1)
  ]
  return jnp.stack(phases, 3).reshape(3, 3, inputs, -1)


def widen_kernel(kernel: jax.Array, inputs: int, outputs: int) -> jax.Array:
  """Adds zeros to `[k, l, I, O]` up to `[k, l, inputs, outputs]`."""
  return jnp.pad(kernel, ((0, 0), (0, 0), (0, inputs - kernel.shape[2]), (0, outputs - kernel.shape[3])))


def repeat(bias: jax.Array, layout: Layout) -> jax.Array:
  """A bias `[channels]` for an array in a layout, `[width]`."""
  return widen(jnp.tile(bias, layout.block[0] * layout.block[1]), layout.width)
