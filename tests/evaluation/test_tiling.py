"""Sliding window and test-time augmentation against PyTorch and plain NumPy."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from configs import camvid
from gcn_flax.evaluation import tiling
from gcn_flax.evaluation.tiling import TTA, tile_starts
from gcn_flax.models.layout import FeatureMap
from gcn_flax.rounding import round_up
from gcn_flax.tasks import segmentation

RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(3, 5)).astype(np.float32) / 50
IMAGES = RNG.integers(0, 256, (2, 96, 128, 3)).astype(np.uint8)
SIZES = np.array([[96, 128], [70, 101]], np.int32)


def pointwise(images):
  return images @ WEIGHTS


def from_the_left(images):
  """A network whose output is the pixel to the left, 0 beyond the border."""
  return jnp.pad(images, ((0, 0), (0, 0), (1, 0), (0, 0)))[:, :, :-1] @ WEIGHTS


def box(images):
  """A network with a receptive field of 5 x 5 pixels."""
  kernel = jnp.tile(jnp.ones((5, 5, 1, 1)) / 25, (1, 1, 1, 3))
  dimensions = ("NHWC", "HWIO", "NHWC")
  blurred = jax.lax.conv_general_dilated(
    images, kernel, (1, 1), "SAME", dimension_numbers=dimensions, feature_group_count=3
  )
  return blurred @ WEIGHTS


mean_probabilities = jax.jit(tiling.mean_probabilities, static_argnums=(0, 3))


def probabilities(network, tta):
  return mean_probabilities(network, IMAGES, SIZES, tta)


def without_padding(array, index):
  height, width = SIZES[index]
  return np.asarray(array)[index, :height, :width]


def softmax(logits):
  return np.asarray(jax.nn.softmax(jnp.asarray(logits)))


def test_tiles_cover_the_whole_side():
  assert tile_starts(2048, 1024, 682) == [0, 341, 683, 1024]  # The paper's four crops of a Cityscapes image.
  assert tile_starts(1024, 1024, 682) == tile_starts(96, 128, 0) == [0]
  for side, tile, overlap in [(512, 96, 0), (512, 96, 31), (100, 64, 63), (1000, 32, 5)]:
    starts = tile_starts(side, tile, overlap)
    steps = np.diff(starts)
    assert starts[0] == 0 and starts[-1] == side - tile
    assert steps.max() - steps.min() <= 1 and steps.max() <= tile - overlap
    assert len(starts) == 1 or (side - tile) / (len(starts) - 2 or 1e-9) > tile - overlap, "one tile fewer would do"


@pytest.mark.parametrize("tile", [(), (64, 64), (32, 96)])
@pytest.mark.parametrize("flip", [False, True])
def test_a_pointwise_network_gives_the_same_result_in_any_tiles(tile, flip):
  tta = TTA(tile=tile, overlap=20 if tile else 0, flip=flip)
  found, expected = probabilities(pointwise, tta), softmax(pointwise(np.float32(IMAGES)))
  for index in range(2):
    np.testing.assert_allclose(without_padding(found, index), without_padding(expected, index), atol=1e-6)


def test_tiles_change_nothing_beyond_the_receptive_field_from_their_borders():
  tiled = probabilities(box, TTA(tile=(64, 64), overlap=16))
  whole = softmax(box(jnp.float32(IMAGES)))
  away = np.ones((96, 128), bool)
  for axis, side in enumerate((96, 128)):
    for start in tile_starts(side, 64, 16):
      for border in (start, start + 64):
        near = np.abs(np.arange(side) + 0.5 - border) < 2.5
        away &= ~(near[:, None] if axis == 0 else near[None])
  assert 0.5 < away.mean() < 0.9
  np.testing.assert_allclose(np.asarray(tiled)[0][away], whole[0][away], atol=1e-6)
  assert np.abs(np.asarray(tiled)[0] - whole[0])[~away].max() > 1e-3


def test_overlapping_tiles_are_averaged():
  found = probabilities(from_the_left, TTA(tile=(96, 96), overlap=64))
  starts = tile_starts(128, 96, 64)
  total, count = np.zeros((96, 128, 5)), np.zeros((1, 128, 1))
  for start in starts:
    total[:, start : start + 96] += softmax(from_the_left(jnp.float32(IMAGES[:1, :, start : start + 96])))[0]
    count[:, start : start + 96] += 1
  assert len(starts) == 2
  np.testing.assert_allclose(np.asarray(found)[0], total / count, atol=1e-6)


def test_overlapping_rows_have_equal_weights_in_tiles_of_any_height():
  """A tile of 96 rows is not a multiple of the rows that are accumulated at once."""
  images = np.concatenate([IMAGES[:1], IMAGES[1:]], 1)[:, :128]

  def from_above(tile):
    return jnp.pad(tile, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1] @ WEIGHTS

  found = mean_probabilities(from_above, images, np.array([[128, 128]]), TTA(tile=(96, 128), overlap=64))
  total, count = np.zeros((128, 128, 5)), np.zeros((128, 1, 1))
  for start in (0, 32):
    total[start : start + 96] += softmax(from_above(jnp.float32(images[:, start : start + 96])))[0]
    count[start : start + 96] += 1
  np.testing.assert_allclose(np.asarray(found)[0], total / count, atol=1e-6)


@pytest.mark.parametrize(
  "tta", [TTA(flip=True), TTA(scales=(1.0, 1.0)), TTA(tile=(96, 128))], ids=["flip", "two scales", "one tile"]
)
def test_padding_has_the_given_colour(tta):
  """The values that the array has there do not matter."""

  def from_the_right(tile):
    return jnp.pad(tile, ((0, 0), (0, 0), (0, 1), (0, 0)))[:, :, 1:] @ WEIGHTS

  pixel = (10.0, 250.0, 30.0)
  found = probabilities(from_the_right, dataclasses.replace(tta, pixel=pixel))
  image = IMAGES[1, :70, :101].astype(np.float32)

  def seen(image):
    filled = np.concatenate([image, np.broadcast_to(np.float32(pixel), (70, 1, 3))], 1)
    return softmax(filled[:, 1:] @ WEIGHTS)

  expected = (seen(image) + seen(image[:, ::-1])[:, ::-1]) / 2 if tta.flip else seen(image)
  np.testing.assert_allclose(without_padding(found, 1), expected, atol=1e-6)


def test_a_flip_mirrors_the_image_without_its_padding():
  found = probabilities(from_the_left, TTA(flip=True))
  for index, (height, width) in enumerate(SIZES):
    image = jnp.float32(IMAGES[index : index + 1, :height, :width])
    straight, mirrored = softmax(from_the_left(image)), softmax(from_the_left(image[:, :, ::-1]))[:, :, ::-1]
    np.testing.assert_allclose(without_padding(found, index), (straight + mirrored)[0] / 2, atol=1e-6)


def resized(array, size):
  """Resizes `[H, W, C]` with PyTorch."""
  tensor = torch.from_numpy(np.array(array, np.float32)).permute(2, 0, 1)[None]
  resized = F.interpolate(tensor, size=tuple(map(int, size)), mode="bilinear", align_corners=False)
  return resized[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("scales", [(0.5,), (0.75, 1.25), (0.3, 1.0, 2.0)])
@pytest.mark.parametrize("flip", [False, True])
def test_scales_equal_pytorchs_resizing(scales, flip):
  found = probabilities(pointwise, TTA(scales=scales, flip=flip))
  for index, size in enumerate(SIZES):
    image = IMAGES[index, : size[0], : size[1]]
    parts = [resized(softmax(resized(image, np.round(size * scale)) @ WEIGHTS), size) for scale in scales]
    np.testing.assert_allclose(without_padding(found, index), np.mean(parts, 0), atol=1e-5)


@pytest.mark.parametrize("scale", [0.3, 0.5, 0.77, 1.5])
def test_scaled_tiles_cover_every_pixel(scale):
  found = probabilities(pointwise, TTA(scales=(scale,), tile=(32, 32), overlap=8))
  whole = probabilities(pointwise, TTA(scales=(scale,)))
  for index in range(2):
    np.testing.assert_allclose(without_padding(found, index).sum(-1), 1, atol=1e-5)
    # Only pixels within one scaled pixel of a tile's border are interpolated from different pixels.
    differs = np.abs(without_padding(found, index) - without_padding(whole, index)).max(-1) > 1e-5
    for axis, side in enumerate(SIZES[index]):
      scaled = max(1, round(side * scale))
      canvas = round_up(round((96, 128)[axis] * scale), 32)
      borders = [edge for start in tile_starts(canvas, 32, 8) for edge in (start, start + 32)]
      centres = (np.arange(side) + 0.5) * scaled / side
      near = np.abs(centres[:, None] - np.array(borders)).min(1) < 1
      differs[near if axis == 0 else (slice(None), near)] = False
    assert not differs.any()


def test_rounded_sizes_leave_no_gap_between_tiles():
  """A side of 105 is scaled to 34, slightly more than 0.32 of it: the tile at 32 starts at pixel 99, not 100."""
  images, sizes = np.zeros((1, 256, 128, 3), np.uint8), np.array([[105, 105]])
  found = mean_probabilities(pointwise, images, sizes, TTA(scales=(0.32,), tile=(32, 32)))
  np.testing.assert_allclose(np.asarray(found)[0, :105, :105].sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize(
  "tta, max_maps",
  [
    (TTA(scales=(0.5, 1.0, 1.5), flip=True, tile=(64, 64), overlap=16), 1.4),
    (TTA(tile=(512, 512), overlap=341), 1 + 0.5 + 0.4),  # The paper's four crops, each of half the image.
    (TTA(scales=(0.75, 1.0, 1.25), flip=True), 1 + 1.25**2 + 0.6),
  ],
  ids=["scales, flip and tiles", "the paper's crops", "scales and flip"],
)
def test_memory_holds_one_map_of_all_classes(tta, max_maps):
  """It holds the running sum, the logits of one tile, and little else, also for the loss."""
  image = jax.ShapeDtypeStruct((1, 512, 1024, 3), jnp.uint8)
  size, label = jax.ShapeDtypeStruct((1, 2), jnp.int32), jax.ShapeDtypeStruct((1, 512, 1024), jnp.uint8)
  weights = jnp.ones((3, 64)) / 500
  config = camvid.get_config()
  for name in ("scales", "flip", "tile", "overlap"):
    config.eval[name] = getattr(tta, name)
  infer = functools.partial(segmentation.inference(config), lambda tile: FeatureMap.of(tile @ weights))

  memory = jax.jit(infer).lower(image, size, label).compile().memory_analysis()
  one_map = 4 * 64 * 512 * 1024
  assert memory.temp_size_in_bytes < max_maps * one_map
