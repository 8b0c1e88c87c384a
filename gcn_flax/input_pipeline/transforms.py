"""Training augmentation and evaluation padding: numpy in, numpy out, one example at a time."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from gcn_flax.labels import IGNORE

Example = dict[str, Any]


def random_scale(example: Example, scales: Sequence[float], rng: np.random.Generator) -> Example:
  """Resizes by a factor drawn uniformly from `scales` = (smallest, largest).

  Bilinear for the image, nearest for the label, both with half-pixel centres.
  """
  factor = rng.uniform(*scales)
  height, width = example["label"].shape
  size = (max(1, round(width * factor)), max(1, round(height * factor)))
  image = cv2.resize(example["image"], size, interpolation=cv2.INTER_LINEAR)
  label = cv2.resize(example["label"], size, interpolation=cv2.INTER_NEAREST_EXACT)
  return {**example, "image": image, "label": label}


def random_flip(example: Example, rng: np.random.Generator) -> Example:
  """Mirrors left and right in one case of two."""
  if rng.random() < 0.5:
    return example
  return {**example, "image": example["image"][:, ::-1], "label": example["label"][:, ::-1]}


def random_crop(example: Example, size: Sequence[int], rng: np.random.Generator) -> Example:
  """Cuts out a window of at most `size` = (height, width) at a random place."""
  height, width = example["label"].shape
  top = int(rng.integers(0, max(0, height - size[0]) + 1))
  left = int(rng.integers(0, max(0, width - size[1]) + 1))
  window = np.s_[top : top + size[0], left : left + size[1]]
  return {**example, "image": example["image"][window], "label": example["label"][window]}


def pad(example: Example, size: Sequence[int], pixel: Sequence[float]) -> Example:
  """Extends below and to the right to `size` = (height, width): image by `pixel` (RGB, rounded), label by 255.

  Raises:
    ValueError: where the example is larger than `size`.
  """
  height, width = example["label"].shape
  if height > size[0] or width > size[1]:
    raise ValueError(
      f"image {example['image_id']} is {height} x {width}, larger than {size[0]} x {size[1]}: "
      "raise config.data.eval_size (multiples of 32), or config.data.crop_size with config.data.random_crop=False."
    )
  image = np.empty((*size, 3), np.uint8)
  image[:] = np.round(pixel).astype(np.uint8)
  image[:height, :width] = example["image"]
  label = np.full(tuple(size), IGNORE, np.uint8)
  label[:height, :width] = example["label"]
  return {**example, "image": image, "label": label}


def augment(
  example: Example,
  rng: np.random.Generator,
  *,
  crop_size: Sequence[int],
  pixel: Sequence[float],
  scales: Sequence[float] | None,
  crop: bool,
  flip: bool,
) -> Example:
  """Random scale, crop and flip, each if asked for, then padding to `crop_size`.

  The paper flips and pads (VOC), or flips and crops (Cityscapes), and never scales.
  """
  if scales is not None:
    example = random_scale(example, scales, rng)
  if crop:
    example = random_crop(example, crop_size, rng)
  if flip:
    example = random_flip(example, rng)
  return pad(example, crop_size, pixel)
