"""Augmentation transforms image and label alike, and pads with void."""

from unittest import mock

import cv2
import numpy as np
import pytest
from PIL import Image

from gcn_flax.config import get_config
from gcn_flax.input_pipeline import transforms
from gcn_flax.tasks import segmentation


def example(height, width):
  """Returns an image whose channels equal its label, so that both must move alike."""
  label = np.random.default_rng(0).integers(0, 20, (height // 8 + 1, width // 8 + 1))
  label = np.kron(label, np.ones((8, 8)))[:height, :width].astype(np.uint8)
  return {"image": np.stack([label, label, label], -1), "label": label, "image_id": "street"}


def options(**changes):
  settings = {"crop_size": (32, 64), "pixel": (100, 101, 102.6), "scales": None}
  return {**settings, "crop": False, "flip": False, "jitter": 0.0, **changes}


@pytest.mark.parametrize("height, width", [(20, 30), (100, 30), (20, 100), (100, 100), (32, 64)])
def test_crop_and_flip_move_image_and_label_alike_and_pad_with_void(height, width):
  for seed in range(5):
    rng = np.random.default_rng(seed)
    result = transforms.augment(example(height, width), rng, **options(crop=True, flip=True))
    assert result["image"].shape == (32, 64, 3) and result["label"].shape == (32, 64)
    valid = result["label"] != 255
    assert valid.sum() == min(height, 32) * min(width, 64)
    np.testing.assert_array_equal(result["image"][valid][:, 0], result["label"][valid])
    assert (result["image"][~valid] == (100, 101, 103)).all()


def test_half_of_the_images_are_flipped():
  before = example(32, 64)
  after = [transforms.random_flip(before, np.random.default_rng(seed))["label"] for seed in range(100)]
  mirrored = [np.array_equal(label, before["label"][:, ::-1]) for label in after]
  assert 30 < sum(mirrored) < 70
  assert all(
    np.array_equal(label, before["label"])
    for label, is_mirrored in zip(after, mirrored, strict=True)
    if not is_mirrored
  )


def test_flips_are_involutions_along_their_axis():
  before = example(32, 64)
  seed = next(seed for seed in range(9) if np.random.default_rng(seed).random() >= 0.5)
  for vertical, mirrored in ((True, np.s_[::-1]), (False, np.s_[:, ::-1])):
    once = transforms.random_flip(before, np.random.default_rng(seed), vertical)
    twice = transforms.random_flip(once, np.random.default_rng(seed), vertical)
    for name in ("image", "label"):
      np.testing.assert_array_equal(once[name], before[name][mirrored])
      np.testing.assert_array_equal(twice[name], before[name])


class FixedAngle:
  """Random numbers that are all one angle."""

  def __init__(self, degrees):
    self.degrees = degrees

  def uniform(self, low, high):
    assert low <= self.degrees <= high
    return self.degrees


def rotated(before, degrees):
  return transforms.random_rotation(before, 180.0, (100, 101, 102.6), FixedAngle(degrees))


@pytest.mark.parametrize("degrees", [-30.0, 12.5, 75.0])
def test_rotation_equals_a_computation_pixel_by_pixel(degrees):
  """Each pixel of the result looks up the place that the rotation takes to it, counter-clockwise for the viewer."""
  before = example(48, 80)
  before["image"] = cv2.GaussianBlur(before["image"], (0, 0), 4.0) * 10
  result, angle = rotated(before, degrees), np.deg2rad(degrees)
  rows, columns = np.mgrid[:48, :80].astype(float)
  x, y = columns - 79 / 2, rows - 47 / 2
  x, y = np.cos(angle) * x - np.sin(angle) * y + 79 / 2, np.sin(angle) * x + np.cos(angle) * y + 47 / 2

  inside = (x >= 0) & (x <= 79) & (y >= 0) & (y <= 47)
  nearest = before["label"][np.clip(np.rint(y), 0, 47).astype(int), np.clip(np.rint(x), 0, 79).astype(int)]
  off_border = np.maximum(np.abs(x - 79 / 2) - 79 / 2, np.abs(y - 47 / 2) - 47 / 2)
  unsure = (np.abs(x % 1 - 0.5) < 0.05) | (np.abs(y % 1 - 0.5) < 0.05) | (np.abs(off_border - 0.5) < 0.05)
  expected = np.where(off_border < 0.5, nearest, 255)
  np.testing.assert_array_equal(result["label"][~unsure], expected[~unsure])
  assert (~unsure).mean() > 0.7 and 0.2 < inside.mean() < 1

  top, left = np.clip(np.floor(y), 0, 46).astype(int), np.clip(np.floor(x), 0, 78).astype(int)
  down, right, image = (y - top)[..., None], (x - left)[..., None], before["image"].astype(float)
  upper = image[top, left] * (1 - right) + image[top, left + 1] * right
  lower = image[top + 1, left] * (1 - right) + image[top + 1, left + 1] * right
  difference = np.abs(result["image"] - (upper * (1 - down) + lower * down))
  assert difference[inside].max() <= 3  # OpenCV rounds places to 1/32 of a pixel.
  assert (result["image"][off_border > 1] == (100, 101, 103)).all()


def test_rotation_by_a_right_angle_moves_pixels_and_invents_no_label():
  before = example(40, 40)
  before["label"][before["label"] == 7] = 255
  result = rotated(before, 90.0)
  np.testing.assert_array_equal(result["label"], np.rot90(before["label"]))
  np.testing.assert_array_equal(result["image"], np.rot90(before["image"]))
  for seed in range(20):
    turned = transforms.random_rotation(before, 30.0, (0, 0, 0), np.random.default_rng(seed))
    assert turned["label"].dtype == np.uint8 and set(np.unique(turned["label"])) <= {*np.unique(before["label"]), 255}


def test_angles_are_drawn_uniformly_to_both_sides():
  before, rng = example(32, 64), mock.Mock(uniform=mock.Mock(return_value=0.0))
  after = transforms.random_rotation(before, 20.0, (0, 0, 0), rng)
  rng.uniform.assert_called_once_with(-20.0, 20.0)
  np.testing.assert_array_equal(after["image"], before["image"])
  np.testing.assert_array_equal(after["label"], before["label"])


def test_blur_spreads_a_point_by_its_standard_deviation_and_keeps_the_label():
  image = np.zeros((65, 65, 3), np.uint8)
  image[28:37, 28:37] = 255
  before, found = {"image": image, "label": image[..., 0]}, []
  square = (9**2 - 1) / 12  # Variance of a row of nine pixels, to which that of the blur is added.
  for seed in range(40):
    result = transforms.random_blur(before, 4.0, np.random.default_rng(seed))
    assert result["label"] is before["label"]
    rows = result["image"][..., 0].sum(1, dtype=float)
    assert abs(rows.sum() / image[..., 0].sum(dtype=float) - 1) < 0.03
    variance = (rows * (np.arange(65) - 32) ** 2).sum() / rows.sum() - square
    sigma = np.random.default_rng(seed).uniform(0, 4.0)
    if sigma > 0.5:
      np.testing.assert_allclose(np.sqrt(max(variance, 0)), sigma, rtol=0.1)
    found.append(sigma)
  assert min(found) < 0.5 and max(found) > 3.5


@pytest.mark.parametrize("field, value", [("rotation", 30.0), ("vertical_flip", True), ("blur", 3.0)])
def test_each_augmentation_is_off_until_the_config_asks_for_it(field, value):
  config = get_config()
  config.data.crop_size, config.data.random_flip = (32, 64), False

  def images():
    augment = segmentation.augmentation(config)
    return [augment(example(32, 64), np.random.default_rng(seed))["image"] for seed in range(5)]

  assert all((image == example(32, 64)["image"]).all() for image in images())
  config.data[field] = value
  assert any((image != example(32, 64)["image"]).any() for image in images())


def test_an_image_and_its_label_stay_together_under_all_augmentations():
  """The image is bright where the label says 5, up to the pixels that interpolation and blur mix."""
  label = np.full((96, 96), 2, np.uint8)
  label[20:50, 30:80] = 5
  before = {"image": np.where(label == 5, 250, 10)[..., None].repeat(3, -1).astype(np.uint8), "label": label}
  settings = options(crop=True, flip=True, vertical_flip=True, rotation=45.0, blur=1.0, scales=(0.7, 1.5))
  for seed in range(20):
    result = transforms.augment({**before, "image_id": "a"}, np.random.default_rng(seed), **settings)
    valid = result["label"] != 255
    assert result["image"].shape == (32, 64, 3) and set(np.unique(result["label"])) <= {2, 5, 255}
    assert ((result["image"][..., 0] > 128) == (result["label"] == 5))[valid].mean() > 0.95
  again = transforms.augment({**before, "image_id": "a"}, np.random.default_rng(19), **settings)
  np.testing.assert_array_equal(again["image"], result["image"])


def test_scale_keeps_label_values_and_centres():
  before = example(64, 64)
  result = transforms.random_crop(before, (200, 200), np.random.default_rng(0), scales=(2.0, 2.0))
  np.testing.assert_array_equal(result["label"], np.kron(before["label"], np.ones((2, 2))))
  inside = result["label"][8:-8, 8:-8]
  agreement = (result["image"][8:-8, 8:-8, 0] == inside).mean()
  assert agreement > 0.7  # All but the pixels that bilinear interpolation mixes at class borders.
  smaller = transforms.random_crop(before, (200, 200), np.random.default_rng(0), scales=(0.4, 0.4))
  assert smaller["label"].shape == (26, 26)
  assert set(np.unique(smaller["label"])) <= set(np.unique(before["label"]))


def test_a_scaled_crop_has_full_size_if_the_image_is_large_enough():
  for seed in range(200):
    result = transforms.random_crop(example(90, 70), (40, 30), np.random.default_rng(seed), scales=(0.45, 3.0))
    assert result["label"].shape == (40, 30) and result["image"].shape == (40, 30, 3)


@pytest.mark.parametrize(
  "side, max_side, factor, expected",
  [(400, 800, 1.998, (400, 800)), (399, 800, 1.998, (399, 797)), (90, 40, 0.45, (89, 40)), (80, 40, 0.45, (80, 36))],
)
def test_windows_have_full_size_as_soon_as_the_image_allows(side, max_side, factor, expected):
  assert transforms._window(side, max_side, factor) == expected


def test_scales_cover_their_range():
  sides = [
    transforms.random_crop(example(100, 100), (300, 300), np.random.default_rng(seed), scales=(0.5, 2.0))["label"].shape
    for seed in range(60)
  ]
  assert all(height == width for height, width in sides)
  assert 50 <= min(sides)[0] < 70 and 180 < max(sides)[0] <= 200


def test_a_scaled_crop_is_a_window_of_the_scaled_image():
  """A ramp of 2 per pixel becomes one of 2 / factor, in image and label."""
  ramp = np.repeat(2 * np.arange(120, dtype=np.uint8)[:, None], 160, 1)
  before = {"image": np.stack([ramp] * 3, -1), "label": ramp}
  for seed in range(20):
    result = transforms.random_crop(before, (60, 60), np.random.default_rng(seed), scales=(1.5, 1.5))
    rows = result["image"][:, 30, 0].astype(float)
    np.testing.assert_allclose(np.diff(rows[2:-2]).mean(), 2 / 1.5, atol=0.05)
    assert np.abs(result["label"][2:-2, 30].astype(float) - rows[2:-2]).max() <= 2


def test_colour_jitter_changes_only_the_image_and_only_within_its_strength():
  pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 3)).astype(np.uint8)
  before = {**example(32, 64), "image": pixels}
  assert transforms.color_jitter(before, 0.5, np.random.default_rng(0))["label"] is before["label"]
  images = [transforms.color_jitter(before, 0.4, np.random.default_rng(seed))["image"] for seed in range(20)]
  assert len({image.tobytes() for image in images}) == 20 and all(image.dtype == np.uint8 for image in images)
  np.testing.assert_array_equal(
    transforms.color_jitter(before, 0.0, np.random.default_rng(0))["image"], before["image"]
  )


def test_colour_jitter_keeps_grey_grey():
  """Saturation and hue rotate colours around the grey axis, where only brightness and contrast have an effect."""
  grey = {"image": np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, -1).repeat(4, 1)}
  for seed in range(20):
    image = transforms.color_jitter(grey, 0.5, np.random.default_rng(seed))["image"].astype(int)
    assert np.ptp(image, axis=-1).max() <= 1
    brightness, contrast, _ = np.random.default_rng(seed).uniform(0.5, 1.5, 3)
    expected = np.clip(brightness * (128 + contrast * (np.arange(256) - 128)), 0, 255)
    assert np.abs(image[:, 0, 0] - expected).max() <= 1


def test_colour_jitter_is_off_at_strength_zero():
  before = example(32, 64)
  plain, changed = (
    transforms.augment(before, np.random.default_rng(0), **options(jitter=strength))["image"] for strength in (0.0, 0.5)
  )
  np.testing.assert_array_equal(plain, before["image"])
  assert (changed != before["image"]).any()


def test_hue_rotates_by_at_most_a_fifth_of_the_strength():
  red = {"image": np.full((4, 4, 3), (150, 100, 100), np.uint8)}
  hues = []
  for seed in range(100):
    image = transforms.color_jitter(red, 0.4, np.random.default_rng(seed))["image"]
    hues.append(cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[0, 0, 0] * 2.0)
  turned = np.minimum(np.array(hues), 360 - np.array(hues))
  assert 15 < turned.max() < 50  # 0.4 / 5 of a turn is 29 degrees in YIQ; the hexagonal hue of HSV stretches it.


def test_crops_reach_every_corner():
  image = np.arange(16).reshape(4, 4).astype(np.uint8)
  before = {"image": np.stack([image] * 3, -1), "label": image, "image_id": "numbers"}
  corners = {
    int(transforms.random_crop(before, (2, 2), np.random.default_rng(seed))["label"][0, 0]) for seed in range(99)
  }
  assert corners == {0, 1, 2, 4, 5, 6, 8, 9, 10}


def test_the_papers_recipe_only_pads_and_flips():
  before = example(30, 50)
  result = transforms.augment(before, np.random.default_rng(3), **options(flip=True))
  label = result["label"][:30, :50]
  assert np.array_equal(label, before["label"]) or np.array_equal(label, before["label"][:, ::-1])


def test_an_image_too_large_to_pad_is_rejected_with_its_name():
  with pytest.raises(
    ValueError,
    match="image street: its size 40 x 50 is larger than 32 x 64. .* to .64, 64. or more",
  ):
    transforms.augment(example(40, 50), np.random.default_rng(0), **options())


# Images with one class.


def photo(height, width, seed=0):
  """Returns smooth colours with edges, similar to a photo."""
  small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
  return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def functional():
  """Returns torchvision's transforms, which beside a CPU build of torch import only after declaring two operators."""
  import torch

  try:
    import torchvision  # noqa: F401
  except RuntimeError:
    for operator in ("nms", "qnms"):
      torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
  from torchvision.transforms import functional

  return functional


@pytest.mark.parametrize(
  "shape, size, shorter_side",
  [((375, 500), (224, 224), 256), ((500, 333), (224, 224), 256), ((64, 64), (64, 64), 64), ((120, 70), (96, 64), 99)],
)
def test_center_crop_equals_torchvisions_presets(shape, size, shorter_side, functional):
  """torchvision evaluates its weights with Resize(256) and CenterCrop(224) on Pillow images."""
  image = photo(*shape)
  resized = functional.resize(Image.fromarray(image), shorter_side)
  expected = np.asarray(functional.center_crop(resized, size))
  result = transforms.center_crop({"image": image, "label": 3}, size, shorter_side)
  np.testing.assert_array_equal(result["image"], expected)
  assert result["label"] == 3


def test_random_resized_crop_draws_area_and_ratio():
  """The channels of the image contain row and column, which identifies the window."""
  rows, columns = np.mgrid[0:240, 0:200]
  image = np.stack([rows, columns, rows * 0], -1).astype(np.uint8)
  areas, ratios, tops = [], [], []
  for seed in range(400):
    result = transforms.random_resized_crop(image, (8, 8), (0.1, 0.6), np.random.default_rng(seed)).astype(float)
    # Each pixel averages an eighth of the window; the first and the last are seven eighths apart.
    height, width = ((result[-1, -1, channel] - result[0, 0, channel]) * 8 / 7 for channel in (0, 1))
    areas.append(height * width / (240 * 200))
    ratios.append(width / height)
    tops.append(result[0, 0, 0] / (240 - height))
  areas, ratios = np.array(areas), np.array(ratios)
  assert 0.08 < areas.min() < 0.12 and 0.55 < areas.max() < 0.63 and 0.3 < areas.mean() < 0.4
  assert 0.7 < ratios.min() < 0.8 and 1.27 < ratios.max() < 1.4
  np.testing.assert_allclose(np.log(ratios).mean(), 0, atol=0.05)
  assert np.histogram(tops, 4, (0, 1.1))[0].min() > 50


def test_random_resized_crop_takes_the_centre_if_no_window_fits():
  image = np.zeros((10, 400, 3), np.uint8)
  image[:, 193:207] = 255
  result = transforms.random_resized_crop(image, (8, 8), (0.9, 1.0), np.random.default_rng(0))
  assert result.shape == (8, 8, 3) and result.min() == 255


def test_augment_whole_flips_half_and_keeps_the_class():
  image = photo(64, 64)
  image[:, :32] //= 4  # Dark on the left.
  flipped = 0
  for seed in range(60):
    example = {"image": image, "label": 5, "image_id": "x"}
    result = transforms.augment_whole(
      example, np.random.default_rng(seed), crop_size=(32, 32), area=(0.9, 1.0), flip=True, jitter=0.1
    )
    assert result["label"] == 5 and result["image"].shape == (32, 32, 3) and result["image"].dtype == np.uint8
    flipped += result["image"][:, :16].mean() > result["image"][:, 16:].mean()
  assert 18 < flipped < 42
