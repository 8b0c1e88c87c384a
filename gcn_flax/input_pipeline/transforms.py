"""Augmentation for training, and padding or centre crop for evaluation, of one NumPy example at a time."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image

from gcn_flax.labels import IGNORE
from gcn_flax.rounding import round_up

Example = dict[str, Any]


def random_rotation(example: Example, max_degrees: float, pixel: Sequence[float], rng: np.random.Generator) -> Example:
  """Rotates an example about its centre by a random angle, at most `max_degrees` to either side; its size stays.

  The image is interpolated bilinearly, the label takes the nearest pixel. Outside of the example, the image gets the
  colour `pixel`, RGB, rounded, and the label 255.
  """
  height, width = example["label"].shape
  turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), rng.uniform(-max_degrees, max_degrees), 1.0)
  border = dict(dsize=(width, height), borderMode=cv2.BORDER_CONSTANT)
  colour = np.round(pixel).tolist()
  image = cv2.warpAffine(example["image"], turn, flags=cv2.INTER_LINEAR, borderValue=colour, **border)
  label = cv2.warpAffine(example["label"], turn, flags=cv2.INTER_NEAREST, borderValue=IGNORE, **border)
  return {**example, "image": image, "label": label}


def random_crop(
  example: Example, size: Sequence[int], rng: np.random.Generator, scales: Sequence[float] | None = None
) -> Example:
  """Rescales an example by a random factor and takes a random crop.

  For speed a window of `size / factor` is cut out first and then resized to `size`: bilinear for the image, nearest
  for the label, both with half-pixel centres.

  Args:
    example: example with `image` and `label`.
    size: (height, width) of the crop; a smaller example gives a smaller crop.
    rng: random numbers for factor and position.
    scales: (min, max) factor, drawn uniformly; None for no rescaling.
  """
  factor = 1.0 if scales is None else rng.uniform(*scales)
  axes = [_window(side, max_side, factor) for side, max_side in zip(example["label"].shape, size, strict=True)]
  cuts, targets = zip(*axes, strict=True)
  top, left = (int(rng.integers(0, side - cut + 1)) for side, cut in zip(example["label"].shape, cuts, strict=True))
  image, label = (example[key][top : top + cuts[0], left : left + cuts[1]] for key in ("image", "label"))
  if targets != cuts:
    image = cv2.resize(image, targets[::-1], interpolation=cv2.INTER_LINEAR)
    label = cv2.resize(label, targets[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
  return {**example, "image": image, "label": label}


def _window(side: int, max_side: int, factor: float) -> tuple[int, int]:
  """Returns (pixels to cut out along a side, pixels to resize them to), at most `max_side`."""
  cut = max(1, round(max_side / factor))
  return (cut, max_side) if cut <= side else (side, min(max_side, max(1, round(side * factor))))


def color_jitter(example: Example, strength: float, rng: np.random.Generator) -> Example:
  """Randomly changes brightness, contrast, saturation and hue of the image.

  Brightness, contrast (around middle grey) and saturation (around the pixel's grey value) are scaled by factors from
  `1 - strength` to `1 + strength`; hue is rotated by up to `strength / 5` of a turn in the chroma plane (YIQ). All
  four are linear in RGB, so they are applied as one matrix.
  """
  brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3)
  angle = 2 * np.pi * rng.uniform(-strength, strength) / 5
  turn = np.eye(3)
  turn[1:, 1:] = saturation * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
  matrix = brightness * contrast * _TO_RGB @ turn @ _TO_YIQ
  offset = np.full((3, 1), 128 * (1 - contrast) * brightness)
  return {**example, "image": cv2.transform(np.ascontiguousarray(example["image"]), np.hstack([matrix, offset]))}


_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_TO_RGB = np.linalg.inv(_TO_YIQ)


def random_flip(example: Example, rng: np.random.Generator, vertical: bool = False) -> Example:
  """Flips the example horizontally, or vertically, with probability 1/2."""
  if rng.random() < 0.5:
    return example
  axis = 0 if vertical else 1
  return {**example, "image": cv2.flip(example["image"], axis), "label": cv2.flip(example["label"], axis)}


def random_blur(example: Example, max_sigma: float, rng: np.random.Generator) -> Example:
  """Blurs the image by a Gaussian whose standard deviation is drawn uniformly from 0 to `max_sigma` pixels."""
  sigma = rng.uniform(0, max_sigma)
  return {**example, "image": cv2.GaussianBlur(example["image"], (0, 0), sigma)} if sigma else example


def pad(example: Example, size: Sequence[int], pixel: Sequence[float]) -> Example:
  """Pads an example at the bottom and on the right.

  Args:
    example: example with `image`, and optionally `label`.
    size: (height, width) of the result.
    pixel: padding colour, RGB, rounded; labels are padded with 255.

  Raises:
    ValueError: if the example is larger than `size`.
  """
  height, width = example["image"].shape[:2]
  if height > size[0] or width > size[1]:
    fits = (round_up(max(height, size[0]), 32), round_up(max(width, size[1]), 32))
    raise ValueError(
      f"image {example['image_id']}: its size {height} x {width} is larger than {size[0]} x {size[1]}. "
      f"Set config.data.eval_size=(), or to {fits} or more; or config.data.crop_size in training without random_crop."
    )
  border = (0, size[0] - height, 0, size[1] - width, cv2.BORDER_CONSTANT)
  padded = {**example, "image": cv2.copyMakeBorder(example["image"], *border, value=np.round(pixel).tolist())}
  if "label" in example:
    padded["label"] = cv2.copyMakeBorder(example["label"], *border, value=IGNORE)
  return padded


def augment(
  example: Example,
  rng: np.random.Generator,
  *,
  crop_size: Sequence[int],
  pixel: Sequence[float],
  scales: Sequence[float] | None,
  crop: bool,
  flip: bool,
  jitter: float,
  rotation: float = 0.0,
  vertical_flip: bool = False,
  blur: float = 0.0,
) -> Example:
  """Applies rotation, random scale and crop, flips, blur and colour jitter as configured, then pads to `crop_size`.

  The paper only flips and pads (VOC), or flips and crops (Cityscapes).

  Args:
    example: example with `image` and `label`.
    rng: random numbers.
    crop_size: (height, width) of the result.
    pixel: padding colour, RGB.
    scales: (min, max) of the random scale; None for none.
    crop: take a random crop.
    flip: flip horizontally at random.
    jitter: strength of `color_jitter`; 0 for none.
    rotation: largest angle of `random_rotation`, degrees; 0 for none.
    vertical_flip: flip vertically at random.
    blur: largest standard deviation of `random_blur`, pixels; 0 for none.
  """
  if rotation:
    example = random_rotation(example, rotation, pixel, rng)
  if crop:
    example = random_crop(example, crop_size, rng, scales)
  if flip:
    example = random_flip(example, rng)
  if vertical_flip:
    example = random_flip(example, rng, vertical=True)
  if blur:
    example = random_blur(example, blur, rng)
  if jitter:
    example = color_jitter(example, jitter, rng)
  return pad(example, crop_size, pixel)


def random_resized_crop(
  image: np.ndarray,
  size: Sequence[int],
  area: Sequence[float],
  rng: np.random.Generator,
  ratio: Sequence[float] = (3 / 4, 4 / 3),
) -> np.ndarray:
  """Takes a random window of the image and resizes it to `size`, as in ImageNet training.

  Area and aspect ratio are drawn as in Szegedy et al. (CVPR 2015) and torchvision's `RandomResizedCrop`: up to ten
  times, until the window lies within the image; after that the largest central window of an allowed ratio is taken.

  Args:
    image: RGB uint8 `[H, W, 3]`.
    size: (height, width) of the result.
    area: (min, max) share of the image's area.
    rng: random numbers for area, ratio and position.
    ratio: (min, max) of width / height, drawn log-uniformly.
  """
  height, width = image.shape[:2]
  for _ in range(10):
    pixels, aspect = height * width * rng.uniform(*area), np.exp(rng.uniform(*np.log(ratio)))
    cut = (round(np.sqrt(pixels / aspect)), round(np.sqrt(pixels * aspect)))
    if 0 < cut[0] <= height and 0 < cut[1] <= width:
      top, left = (int(rng.integers(0, side - length + 1)) for side, length in zip((height, width), cut, strict=True))
      break
  else:
    aspect = np.clip(width / height, *ratio)
    cut = (min(height, max(1, round(width / aspect))), min(width, max(1, round(height * aspect))))
    top, left = (height - cut[0]) // 2, (width - cut[1]) // 2
  window = image[top : top + cut[0], left : left + cut[1]]
  # Area averaging when shrinking, so that no pixel is skipped; bilinear when growing.
  shrinks = cut[0] * cut[1] > size[0] * size[1]
  return cv2.resize(window, tuple(size)[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def center_crop(example: Example, size: Sequence[int], shorter_side: int) -> Example:
  """Resizes the shorter side of the image and takes the central crop, as in ImageNet evaluation.

  Uses Pillow's bilinear filter and the rounding of torchvision's `Resize` and `CenterCrop`, so that public weights
  reach their published accuracy.

  Args:
    example: example with `image`.
    size: (height, width) of the crop, at most `shorter_side` each.
    shorter_side: length of the shorter side after resizing, pixels.
  """
  height, width = example["image"].shape[:2]
  longer = int(shorter_side * max(height, width) / min(height, width))
  target = (shorter_side, longer) if height <= width else (longer, shorter_side)
  image = Image.fromarray(example["image"])
  if target != (height, width):
    image = image.resize(target[::-1], Image.Resampling.BILINEAR)
  top, left = (round((side - crop) / 2) for side, crop in zip(target, size, strict=True))
  return {**example, "image": np.asarray(image)[top : top + size[0], left : left + size[1]]}


def augment_whole(
  example: Example,
  rng: np.random.Generator,
  *,
  crop_size: Sequence[int],
  area: Sequence[float],
  flip: bool,
  jitter: float,
) -> Example:
  """Applies a random resized crop, flip and colour jitter to an example with one class per image.

  Args:
    example: example with `image`.
    rng: random numbers.
    crop_size: (height, width) of the result.
    area: (min, max) share of the image's area in the crop.
    flip: flip horizontally at random.
    jitter: strength of `color_jitter`; 0 for none.
  """
  image = random_resized_crop(example["image"], crop_size, area, rng)
  if flip and rng.random() < 0.5:
    image = cv2.flip(image, 1)
  example = {**example, "image": image}
  return color_jitter(example, jitter, rng) if jitter else example
