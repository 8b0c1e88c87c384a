"""Scores of whole images from tiles, scales and mirror images of them."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

_STRIDE = 32  # The sides of what a network takes are multiples of it.
_STRIP = 64  # Rows of an image whose probabilities are worked on at once.

Network = Callable[[jax.Array], jax.Array]


def tile_starts(side: int, tile: int, overlap: int) -> list[int]:
  """Where tiles begin along a side: the fewest that overlap by at least `overlap`, evenly spread, from end to end.

  2048 pixels, tiles of 1024 and an overlap of 682 give 0, 341, 683, 1024: the paper's four crops of a Cityscapes image.
  """
  if tile >= side:
    return [0]
  gaps = math.ceil((side - tile) / (tile - overlap))
  return [round(index * (side - tile) / gaps) for index in range(gaps + 1)]


@dataclasses.dataclass(frozen=True)
class TTA:
  """In what ways an image is looked at.

  Attributes:
    scales: factors of its size.
    flip: whether mirror images, left and right, are looked at as well.
    tile: (height, width), multiples of 32; () for the whole image at once.
    overlap: pixels that neighbouring tiles share at least.
    pixel: RGB, 0 to 255, of what lies outside an image.
  """

  scales: tuple[float, ...] = (1.0,)
  flip: bool = False
  tile: tuple[int, ...] = ()
  overlap: int = 0
  pixel: tuple[float, ...] = (0.0, 0.0, 0.0)

  @property
  def one(self) -> bool:
    """Whether an image is looked at once, as it is."""
    return self.scales == (1.0,) and not self.flip and not self.tile


def classes(network: Network, images: jax.Array, sizes: jax.Array, views: TTA) -> jax.Array:
  """The most probable classes, uint8 `[B, H, W]`; arguments are those of `mean_probabilities`."""
  return jnp.argmax(mean_probabilities(network, images, sizes, views), -1).astype(jnp.uint8)


def mean_probabilities(network: Network, images: jax.Array, sizes: jax.Array, views: TTA) -> jax.Array:
  """Class probabilities of images, each pixel's the mean over all tiles, scales and mirror images that show it.

  Softmax comes before the mean: logits are only defined up to a constant for each pixel and grow with the
  sureness of a view, so their mean would be the loudest view's. A scaled image is cut into tiles of the
  same size as an unscaled one; each tile's probabilities are brought to the image's own pixels and averaged
  there, so that one map of all classes at full size is kept, however many views there are, beside what the network
  gives for one tile. A mirrored tile begins at the left as others do, its filling stays at the right. Resizing is
  bilinear with half-pixel centres and without anti-aliasing, for images and probabilities alike: that of OpenCV's
  INTER_LINEAR and of PyTorch's `interpolate(align_corners=False)`.

  Args:
    network: RGB `[B, h, w, 3]`, 0 to 255, h and w multiples of 32, -> logits `[B, h, w, C]`.
    images: uint8 `[B, H, W, 3]`, H and W multiples of 32; what lies below and to the right of an image is filling.
    sizes: int32 `[B, 2]`, (height, width) of each image.
    views: what is averaged.

  Returns:
    float32 `[B, H, W, C]`; filling has probabilities of no meaning.
  """
  images = images.astype(jnp.float32)
  num_classes = jax.eval_shape(network, images[:, :_STRIDE, :_STRIDE]).shape[-1]
  total = jnp.zeros((*images.shape[:3], num_classes)), jnp.zeros((*images.shape[:3], 1))
  for scale in views.scales:
    plan = _Plan.of(images.shape[1:3], scale, views.tile, views.overlap)
    tiles = [(*corner, mirror) for corner in plan.corners for mirror in ((0, 1) if views.flip else (0,))]
    look = functools.partial(_look, network, plan, images, sizes, jnp.array(views.pixel))
    total, _ = jax.lax.scan(look, total, jnp.array(tiles, jnp.int32))
  probabilities, count = total
  return probabilities / jnp.maximum(count, 1)


@dataclasses.dataclass(frozen=True)
class _Plan:
  """The tiles of a scaled canvas.

  `corners` are their (top, left), `shape` what the network sees, `window` the shape of what a tile may show of the
  unscaled canvas, `canvas` the shape of that, and `margin` by how many pixels a window begins before its tile.
  """

  scale: float
  corners: list[tuple[int, int]]
  shape: tuple[int, int]
  window: tuple[int, int]
  canvas: tuple[int, int]
  margin: int

  @classmethod
  def of(cls, canvas: Sequence[int], scale: float, tile: Sequence[int], overlap: int) -> "_Plan":
    scaled = [max(_STRIDE, math.ceil(round(side * scale) / _STRIDE) * _STRIDE) for side in canvas]
    shape = tuple(min(pair) for pair in zip(tile or scaled, scaled, strict=True))
    rows, columns = (tile_starts(side, length, overlap) for side, length in zip(scaled, shape, strict=True))
    # Rounding the sides of a scaled image moves its pixels by up to half of one of its own.
    margin = 0 if scale == 1 else 1 + math.ceil(1 / scale)
    window = tuple(
      min(side, math.ceil(length / scale) + 2 * margin) for side, length in zip(canvas, shape, strict=True)
    )
    return cls(scale, [(row, column) for row in rows for column in columns], shape, window, tuple(canvas), margin)


def _look(network, plan, images, sizes, pixel, total, tile):
  """Adds what one tile, (top, left, mirrored), shows of each image to the total: a step of a scan over tiles."""
  corner, mirror = tile[:2], tile[2] > 0
  scaled = sizes if plan.scale == 1 else jnp.maximum(1, jnp.round(sizes * plan.scale).astype(jnp.int32))
  logits = network(jax.vmap(lambda *each: _cut(*each, corner, mirror, plan.shape, pixel))(images, sizes, scaled))
  start = jnp.floor(corner / plan.scale).astype(jnp.int32) - plan.margin
  start = jnp.clip(start, 0, np.array(plan.canvas) - np.array(plan.window))
  height = min(_STRIP, plan.window[0])

  def add_strip(index, total):
    # A few rows at a time, so that nothing else of the size of the image is made. The last strip may begin earlier,
    # with rows that were added before.
    first = jnp.minimum(index * height, plan.window[0] - height)
    fresh = jnp.arange(height) + first >= index * height
    place = start + jnp.array([1, 0]) * first
    bring_back = functools.partial(_bring_back, corner, mirror, place, (height, plan.window[1]))
    found, shown = jax.vmap(bring_back)(logits, sizes, scaled)
    shown = shown * fresh[:, None, None]
    return tuple(_add_at(whole, part, place) for whole, part in zip(total, (found * shown, shown), strict=True))

  return jax.lax.fori_loop(0, -(-plan.window[0] // height), add_strip, total), None


def _mirrored(columns, mirror, width):
  """The columns of a tile as they stand in its mirror image, of whose columns the first `width` show the image."""
  return jnp.where(mirror & (columns < width), width - 1 - columns, columns)


def _cut(image, size, scaled, corner, mirror, shape, pixel):
  """One tile `[h, w, 3]` of the scaled image, or its mirror image."""
  axes, inside = [], []
  for axis, length in enumerate(shape):
    place = jnp.arange(length)
    if axis == 1:
      place = _mirrored(place, mirror, jnp.minimum(scaled[1] - corner[1], length))
    place += corner[axis]
    inside.append(place < scaled[axis])
    axes.append(_neighbours((place + 0.5) * (size[axis] / scaled[axis]) - 0.5, size[axis] - 1))
  return jnp.where((inside[0][:, None] & inside[1])[..., None], _interpolate(image, *axes), pixel)


def _bring_back(corner, mirror, start, shape, logits, size, scaled):
  """What a tile says of the image's own pixels in a window: (probabilities `[h, w, C]`, 1 where it shows them)."""
  axes, shown = [], []
  for axis, length in enumerate(shape):
    centre = (start[axis] + jnp.arange(length) + 0.5) * (scaled[axis] / size[axis]) - corner[axis]
    shown.append((centre >= 0) & (centre < logits.shape[axis]))
    width = jnp.minimum(logits.shape[axis], scaled[axis] - corner[axis])
    lower, upper, weight = _neighbours(centre - 0.5, width - 1)
    if axis == 1:
      lower, upper = (_mirrored(columns, mirror, width) for columns in (lower, upper))
    axes.append((lower, upper, weight))
  probabilities = _interpolate(logits, *axes, of_rows=jax.nn.softmax)
  return probabilities, (shown[0][:, None] & shown[1])[..., None].astype(jnp.float32)


def _neighbours(coordinate, last):
  """(lower neighbour, upper one, weight of the upper one) of coordinates that are held within 0 and `last`."""
  coordinate = jnp.clip(coordinate, 0, jnp.maximum(last, 0))
  lower = jnp.floor(coordinate).astype(jnp.int32)
  return lower, jnp.minimum(lower + 1, last), coordinate - lower


def _interpolate(array, rows, columns, of_rows=lambda rows: rows):
  """Bilinear values of `of_rows([H, W, C])` where rows and columns, each of `_neighbours`, cross."""
  for axis, (lower, upper, weight) in enumerate((rows, columns)):
    weight = weight[:, None, None] if axis == 0 else weight[:, None]
    low, high = (jnp.take(array, index, axis, mode="clip") for index in (lower, upper))
    if axis == 0:
      low, high = (of_rows(part.astype(jnp.float32)) for part in (low, high))
    array = low * (1 - weight) + high * weight
  return array


def _add_at(whole, part, start):
  begin = (0, start[0], start[1], 0)
  return jax.lax.dynamic_update_slice(whole, jax.lax.dynamic_slice(whole, begin, part.shape) + part, begin)
