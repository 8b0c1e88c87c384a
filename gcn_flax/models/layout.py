"""Layouts of feature maps in memory: space-to-depth and channel padding. `ops.py` chooses them for each platform.

A map of few channels leaves most of a vector unit idle: 19 class scores fill 19 of a TPU's 128 lanes. Space-to-depth
makes one pixel of `rows * columns` times as many channels out of each block of pixels, ordered (row in the block,
column in the block, channel). Convolutions of such maps need the re-indexed kernels of `kernels.py`. All of it is
exact, and the parameters keep the shapes of the plain network.
"""

import dataclasses
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

Block = tuple[int, int]  # (rows, columns).


@dataclasses.dataclass(frozen=True)
class Layout:
  """Layout of a map `[B, H, W, channels]` as an array `[B, H / rows, W / columns, width]`.

  Attributes:
    channels: channels of the map.
    block: (rows, columns) of the map that make one pixel of the array.
    width: channels of the array; those beyond `rows * columns * channels` are zeros. 0 for no such padding.
  """

  channels: int
  block: Block = (1, 1)
  width: int = 0

  def __post_init__(self):
    object.__setattr__(self, "width", self.width or self.used)

  @property
  def used(self) -> int:
    """Channels of the array that are not padding."""
    return self.block[0] * self.block[1] * self.channels

  @property
  def in_blocks(self) -> bool:
    """Returns True unless a pixel of the array is one pixel of the map."""
    return self.block != (1, 1)

  def without_padding(self) -> "Layout":
    """Returns the layout of the same block without channel padding."""
    return Layout(self.channels, self.block)

  def tile(self, vector: jax.Array) -> jax.Array:
    """Returns one value per channel, `[channels]`, for arrays in this layout, `[width]`."""
    return pad_channels(jnp.tile(vector, self.block[0] * self.block[1]), self.width)


@flax.struct.dataclass
class FeatureMap:
  """A map together with its layout.

  Attributes:
    array: `[B, H / rows, W / columns, width]`.
    layout: layout of the array.
  """

  array: jax.Array
  layout: Layout = flax.struct.field(pytree_node=False)

  @classmethod
  def of(cls, x: "FeatureMap | jax.Array") -> "FeatureMap":
    """Returns an array `[B, H, W, C]` as a map in the plain layout, and a map unchanged."""
    return x if isinstance(x, FeatureMap) else cls(x, Layout(x.shape[-1]))

  def plain(self) -> jax.Array:
    """Returns the map as an array `[B, H, W, channels]`."""
    return depth_to_space(self.array[..., : self.layout.used], self.layout.block)

  def to(self, layout: Layout) -> "FeatureMap":
    """Returns the map in another layout of as many channels."""
    if layout == self.layout:
      return self
    if layout.block == self.layout.block:
      array = self.array[..., : layout.used]
    else:
      array = self.plain()
      array = space_to_depth(array, layout.block) if layout.in_blocks else array
    return FeatureMap(pad_channels(array, layout.width), layout)

  def map(self, function: Callable[[jax.Array], jax.Array]) -> "FeatureMap":
    """Applies an elementwise function that keeps zero, as the padding must stay zero."""
    return FeatureMap(function(self.array), self.layout)

  def __add__(self, other: "FeatureMap") -> "FeatureMap":
    if other.layout != self.layout:
      raise ValueError(f"maps of different layouts cannot be added: {self.layout}, {other.layout}. Use `to`.")
    return FeatureMap(self.array + other.array, self.layout)

  def planes(self) -> jax.Array:
    """Returns one plane per class and position in a block, `[B, rows, columns, channels, H / rows, W / columns]`."""
    batch, height, width, _ = self.array.shape
    planes = self.array[..., : self.layout.used].transpose(0, 3, 1, 2)
    # The barrier makes XLA transpose the map in its own dtype, not after it became float32.
    planes = jax.lax.optimization_barrier(planes)
    return planes.reshape(batch, *self.layout.block, self.layout.channels, height, width)

  def argmax(self) -> jax.Array:
    """Returns the channel of the largest value, uint8 `[B, H, W]`; the first of equal ones."""
    if not self.layout.in_blocks:
      return jnp.argmax(self.array[..., : self.layout.channels], -1).astype(jnp.uint8)
    found = jnp.argmax(self.planes(), 3).astype(jnp.uint8)
    batch, rows, columns, height, width = found.shape
    return found.transpose(0, 3, 1, 4, 2).reshape(batch, height * rows, width * columns)


def space_to_depth(x: jax.Array, block: Block) -> jax.Array:
  """Moves blocks of pixels into channels: `[B, H, W, C]` -> `[B, H / rows, W / columns, rows * columns * C]`."""
  (batch, height, width, channels), (rows, columns) = x.shape, block
  x = x.reshape(batch, height // rows, rows, width // columns, columns, channels).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(batch, height // rows, width // columns, -1)


def depth_to_space(x: jax.Array, block: Block) -> jax.Array:
  """Inverts `space_to_depth`: `[B, H, W, rows * columns * C]` -> `[B, rows * H, columns * W, C]`."""
  (batch, height, width, _), (rows, columns) = x.shape, block
  x = x.reshape(batch, height, width, rows, columns, -1).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(batch, height * rows, width * columns, -1)


def space_to_depth_planes(x: jax.Array, block: Block) -> jax.Array:
  """Splits planes by position in a block: `[..., H, W]` -> `[..., rows, columns, H / rows, W / columns]`.

  Columns are sorted by a product with a permutation matrix, which is exact: strided copies within a row take a TPU
  many times as long.
  """
  (*_, height, width), (rows, columns) = x.shape, block
  order = jnp.arange(width).reshape(-1, columns).T.reshape(-1)
  permutation = (jnp.arange(width)[:, None] == order).astype(x.dtype)
  x = jnp.matmul(x, permutation, precision=jax.lax.Precision.HIGHEST)
  x = x.reshape(*x.shape[:-2], height // rows, rows, columns, width // columns)
  return jnp.moveaxis(x, -4, -2)


def label_planes(labels: jax.Array, block: Block) -> jax.Array:
  """Returns labels `[B, H, W]` in the order of `FeatureMap.planes`, `[B, rows, columns, H / rows, W / columns]`.

  The result is bfloat16, which holds whole numbers up to 256 exactly.
  """
  return space_to_depth_planes(labels.astype(jnp.bfloat16), block)


def pad_channels(x: jax.Array, width: int) -> jax.Array:
  """Appends channels of zeros, up to `width` channels."""
  return x if x.shape[-1] == width else jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])])
