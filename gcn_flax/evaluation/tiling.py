"""Sliding-window inference and test-time augmentation (TTA) over scales and horizontal flips."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gcn_flax.rounding import ceil_div, round_up

_STRIDE = 32  # Sides of network inputs are multiples of this.
_STRIP = 64  # Rows of an image whose probabilities are accumulated at once.

Network = Callable[[jax.Array], jax.Array]


def tile_starts(side: int, tile: int, overlap: int) -> list[int]:
  """Returns the starts of the tiles along one side: as few as possible, evenly spaced, covering the whole side.

  A side of 2048, tiles of 1024 and an overlap of 682 give 0, 341, 683, 1024, the paper's four crops of a Cityscapes
  image.

  Args:
    side: length to cover, pixels.
    tile: length of a tile, pixels.
    overlap: min overlap of neighbouring tiles, pixels.
  """
  if tile >= side:
    return [0]
  gaps = math.ceil((side - tile) / (tile - overlap))
  return [round(index * (side - tile) / gaps) for index in range(gaps + 1)]


@dataclasses.dataclass(frozen=True)
class TTA:
  """Settings of test-time augmentation and of the sliding window.

  Attributes:
    scales: image scales to average over.
    flip: average over the horizontal flip, too.
    tile: (height, width) of the sliding window, multiples of 32; () for the whole image.
    overlap: min overlap of neighbouring tiles, pixels.
    pixel: padding colour, RGB, 0 to 255.
  """

  scales: tuple[float, ...] = (1.0,)
  flip: bool = False
  tile: tuple[int, ...] = ()
  overlap: int = 0
  pixel: tuple[float, ...] = (0.0, 0.0, 0.0)

  @property
  def is_identity(self) -> bool:
    """Returns True if the network sees each image exactly once, unscaled and whole."""
    return self.scales == (1.0,) and not self.flip and not self.tile


def mean_probabilities(network: Network, images: jax.Array, sizes: jax.Array, tta: TTA) -> jax.Array:
  """Returns class probabilities of each pixel, averaged over all tiles, scales and flips that contain it.

  Probabilities are averaged rather than logits, because logits are defined only up to a constant per pixel and grow
  with confidence: the most confident view would dominate their mean. Images at all scales are cut into tiles of the
  same size. The probabilities of each tile are resized to the image's own pixels and accumulated there, so memory
  holds one full-size map of all classes, whatever the number of views, and the output for one tile. In a flipped tile
  the image starts at the left as well, and padding stays on the right. Images and probabilities are resized
  bilinearly with half-pixel centres and without anti-aliasing, like OpenCV's INTER_LINEAR and PyTorch's
  `interpolate(align_corners=False)`.

  Args:
    network: maps RGB `[B, h, w, 3]`, 0 to 255, h and w multiples of 32, to logits `[B, h, w, C]`.
    images: uint8 `[B, H, W, 3]`, H and W multiples of 32, padded at the bottom and on the right.
    sizes: (height, width) of each image without padding, int32 `[B, 2]`.
    tta: scales, flip and tiles to average over.

  Returns:
    float32 `[B, H, W, C]`; values at padding are meaningless.
  """
  images = images.astype(jnp.float32)
  num_classes = jax.eval_shape(network, images[:, :_STRIDE, :_STRIDE]).shape[-1]
  total = jnp.zeros((*images.shape[:3], num_classes)), jnp.zeros((*images.shape[:3], 1))
  for scale in tta.scales:
    grid = _Grid.of(images.shape[1:3], scale, tta.tile, tta.overlap)
    tiles = [(*corner, flip) for corner in grid.corners for flip in ((0, 1) if tta.flip else (0,))]
    add_tile = functools.partial(_add_tile, network, grid, images, sizes, jnp.array(tta.pixel))
    total, _ = jax.lax.scan(add_tile, total, jnp.array(tiles, jnp.int32))
  probabilities, count = total
  return probabilities / jnp.maximum(count, 1)


@dataclasses.dataclass(frozen=True)
class _Grid:
  """The tiles of a scaled canvas.

  Attributes:
    scale: scale of the canvas.
    corners: (top, left) of each tile on the scaled canvas.
    shape: (height, width) of a tile.
    window: (height, width) of the part of the unscaled canvas that a tile can cover.
    canvas: (height, width) of the unscaled canvas.
    margin: pixels by which a window starts before its tile.
  """

  scale: float
  corners: list[tuple[int, int]]
  shape: tuple[int, int]
  window: tuple[int, int]
  canvas: tuple[int, int]
  margin: int

  @classmethod
  def of(cls, canvas: Sequence[int], scale: float, tile: Sequence[int], overlap: int) -> "_Grid":
    scaled = [max(_STRIDE, round_up(round(side * scale), _STRIDE)) for side in canvas]
    shape = tuple(min(pair) for pair in zip(tile or scaled, scaled, strict=True))
    rows, columns = (tile_starts(side, length, overlap) for side, length in zip(scaled, shape, strict=True))
    # Rounding the sides of a scaled image shifts its pixels by up to half a scaled pixel.
    margin = 0 if scale == 1 else 1 + math.ceil(1 / scale)
    window = tuple(
      min(side, math.ceil(length / scale) + 2 * margin) for side, length in zip(canvas, shape, strict=True)
    )
    return cls(scale, [(row, column) for row in rows for column in columns], shape, window, tuple(canvas), margin)


def _add_tile(network, grid, images, sizes, pixel, total, tile):
  """Adds one tile, (top, left, flip), of each image to the running (sum of probabilities, count): a scan step."""
  corner, flip = tile[:2], tile[2] > 0
  scaled = sizes if grid.scale == 1 else jnp.maximum(1, jnp.round(sizes * grid.scale).astype(jnp.int32))
  logits = network(jax.vmap(lambda *each: _cut(*each, corner, flip, grid.shape, pixel))(images, sizes, scaled))
  start = jnp.floor(corner / grid.scale).astype(jnp.int32) - grid.margin
  start = jnp.clip(start, 0, np.array(grid.canvas) - np.array(grid.window))
  height = min(_STRIP, grid.window[0])

  def add_strip(index, total):
    # A few rows at a time, so that no second array of the size of the image is needed. The last strip is moved up to
    # end with the window; rows that were added before are masked out.
    first = jnp.minimum(index * height, grid.window[0] - height)
    is_new = jnp.arange(height) + first >= index * height
    strip_start = start + jnp.array([1, 0]) * first
    resize_back = functools.partial(_resize_back, corner, flip, strip_start, (height, grid.window[1]))
    probabilities, covered = jax.vmap(resize_back)(logits, sizes, scaled)
    covered = covered * is_new[:, None, None]
    added = probabilities * covered, covered
    return tuple(_add_at(whole, part, strip_start) for whole, part in zip(total, added, strict=True))

  return jax.lax.fori_loop(0, ceil_div(grid.window[0], height), add_strip, total), None


def _flipped(columns, flip, width):
  """Returns the columns of a tile after a flip of its first `width` columns, the ones inside the image."""
  return jnp.where(flip & (columns < width), width - 1 - columns, columns)


def _cut(image, size, scaled, corner, flip, shape, pixel):
  """Returns one tile `[h, w, 3]` of the scaled image, flipped on demand, padded with `pixel`."""
  axes, inside = [], []
  for axis, length in enumerate(shape):
    index = jnp.arange(length)
    if axis == 1:
      index = _flipped(index, flip, jnp.minimum(scaled[1] - corner[1], length))
    index += corner[axis]
    inside.append(index < scaled[axis])
    axes.append(_neighbours((index + 0.5) * (size[axis] / scaled[axis]) - 0.5, size[axis] - 1))
  return jnp.where((inside[0][:, None] & inside[1])[..., None], _interpolate(image, *axes), pixel)


def _resize_back(corner, flip, start, shape, logits, size, scaled):
  """Resizes a tile to a window of the image's own pixels: (probabilities `[h, w, C]`, 1 where the tile covers them)."""
  axes, covered = [], []
  for axis, length in enumerate(shape):
    centre = (start[axis] + jnp.arange(length) + 0.5) * (scaled[axis] / size[axis]) - corner[axis]
    covered.append((centre >= 0) & (centre < logits.shape[axis]))
    width = jnp.minimum(logits.shape[axis], scaled[axis] - corner[axis])
    lower, upper, weight = _neighbours(centre - 0.5, width - 1)
    if axis == 1:
      lower, upper = (_flipped(columns, flip, width) for columns in (lower, upper))
    axes.append((lower, upper, weight))
  probabilities = _interpolate(logits, *axes, activation=jax.nn.softmax)
  return probabilities, (covered[0][:, None] & covered[1])[..., None].astype(jnp.float32)


def _neighbours(coordinate, last):
  """Returns (lower neighbour, upper neighbour, weight of the upper one) of coordinates clipped to 0 ... `last`."""
  coordinate = jnp.clip(coordinate, 0, jnp.maximum(last, 0))
  lower = jnp.floor(coordinate).astype(jnp.int32)
  return lower, jnp.minimum(lower + 1, last), coordinate - lower


def _interpolate(array, rows, columns, activation=lambda rows: rows):
  """Interpolates `activation(array)`, `[H, W, C]`, bilinearly at `rows` x `columns`, each from `_neighbours`."""
  for axis, (lower, upper, weight) in enumerate((rows, columns)):
    weight = weight[:, None, None] if axis == 0 else weight[:, None]
    low, high = (jnp.take(array, index, axis, mode="clip") for index in (lower, upper))
    if axis == 0:
      low, high = (activation(part.astype(jnp.float32)) for part in (low, high))
    array = low * (1 - weight) + high * weight
  return array


def _add_at(whole, part, start):
  begin = (0, start[0], start[1], 0)
  return jax.lax.dynamic_update_slice(whole, jax.lax.dynamic_slice(whole, begin, part.shape) + part, begin)
