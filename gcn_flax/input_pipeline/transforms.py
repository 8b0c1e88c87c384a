"""Training augmentation, and what brings an example to a fixed size for scoring: numpy in, numpy out, one at a time."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image

from gcn_flax.labels import IGNORE

Example = dict[str, Any]


def random_crop(
  example: Example, size: Sequence[int], rng: np.random.Generator, scales: Sequence[float] | None = None
) -> Example:
  """Cuts a window of at most `size` = (height, width) out of the example, resized by a random factor before.

  Only what the window shows is resized: a window of `size / factor` is cut out and
  brought to `size`, bilinear for the image, nearest for the label, both with
  half-pixel centres.

  Args:
    example: to cut from.
    size: (height, width) of the window; a smaller example gives a smaller one.
    rng: of factor and place.
    scales: (smallest, largest) factor, drawn uniformly; None for no resizing.
  """
  factor = 1.0 if scales is None else rng.uniform(*scales)
  axes = [_window(side, most, factor) for side, most in zip(example["label"].shape, size, strict=True)]
  cuts, targets = zip(*axes, strict=True)
  top, left = (int(rng.integers(0, side - cut + 1)) for side, cut in zip(example["label"].shape, cuts, strict=True))
  image, label = (example[key][top : top + cuts[0], left : left + cuts[1]] for key in ("image", "label"))
  if targets != cuts:
    image = cv2.resize(image, targets[::-1], interpolation=cv2.INTER_LINEAR)
    label = cv2.resize(label, targets[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
  return {**example, "image": image, "label": label}


def _window(side: int, most: int, factor: float) -> tuple[int, int]:
  """(pixels to cut out of a side, pixels they become) for a window of at most `most`."""
  cut = max(1, round(most / factor))
  return (cut, most) if cut <= side else (side, min(most, max(1, round(side * factor))))


def color_jitter(example: Example, strength: float, rng: np.random.Generator) -> Example:
  """Changes brightness, contrast, saturation and hue of the image at random.

  The first three by factors from `1 - strength` to `1 + strength`, contrast about the middle grey,
  saturation about the pixel's own grey; hue by up to `strength / 5` of a full turn, in the plane of
  chroma (YIQ). All four are linear in RGB, so one matrix does them at once.
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


def random_flip(example: Example, rng: np.random.Generator) -> Example:
  """Mirrors left and right in one case of two."""
  if rng.random() < 0.5:
    return example
  return {**example, "image": cv2.flip(example["image"], 1), "label": cv2.flip(example["label"], 1)}


def pad(example: Example, size: Sequence[int], pixel: Sequence[float]) -> Example:
  """Extends below and to the right to `size` = (height, width): image by `pixel` (RGB, rounded), any label by 255.

  Raises:
    ValueError: where the example is larger than `size`.
  """
  height, width = example["image"].shape[:2]
  if height > size[0] or width > size[1]:
    raise ValueError(
      f"image {example['image_id']} is {height} x {width}, larger than {size[0]} x {size[1]}: "
      "raise config.data.eval_size (multiples of 32), or config.data.crop_size with config.data.random_crop=False."
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
) -> Example:
  """Random scale and crop, flip and colour, each if asked for, then padding to `crop_size`.

  The paper flips and pads (VOC), or flips and crops (Cityscapes), and does nothing else.
  """
  if crop:
    example = random_crop(example, crop_size, rng, scales)
  if flip:
    example = random_flip(example, rng)
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
  """A random window of the image, resized to `size`: the crop that ImageNet networks are trained on.

  Share of the area and aspect ratio are drawn as in Szegedy et al. (CVPR 2015) and torchvision's
  `RandomResizedCrop`: up to ten times, until the window lies within the image; then the
  largest central window of an allowed ratio.

  Args:
    image: RGB uint8 `[H, W, 3]`.
    size: (height, width) of the result.
    area: (smallest, largest) share of the image's area.
    rng: of window and ratio.
    ratio: (smallest, largest) width / height, drawn uniformly in its logarithm.
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
  # Averaging where it shrinks, so that nothing is skipped; between pixels where it grows.
  shrinks = cut[0] * cut[1] > size[0] * size[1]
  return cv2.resize(window, tuple(size)[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def center_crop(example: Example, size: Sequence[int], shorter_side: int) -> Example:
  """Resizes the image to a shorter side of so many pixels and cuts its centre out: how ImageNet networks are scored.

  Pillow's bilinear filter and the rounding of torchvision's `Resize` and `CenterCrop`, so that public
  weights get the accuracy they are known for. `size` = (height, width), at most `shorter_side` each.
  """
  height, width = example["image"].shape[:2]
  longer = int(shorter_side * max(height, width) / min(height, width))
  target = (shorter_side, longer) if height <= width else (longer, shorter_side)
  image = Image.fromarray(example["image"])
  if target != (height, width):
    image = image.resize(target[::-1], Image.Resampling.BILINEAR)
  top, left = (round((side - most) / 2) for side, most in zip(target, size, strict=True))
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
  """Random resized crop, flip and colour of an image whose label is one class."""
  image = random_resized_crop(example["image"], crop_size, area, rng)
  if flip and rng.random() < 0.5:
    image = cv2.flip(image, 1)
  example = {**example, "image": image}
  return color_jitter(example, jitter, rng) if jitter else example
