"""Keeps a fraction of the training images for validation, where a folder has no images for it."""

import hashlib
import pathlib
from collections.abc import Sequence
from typing import TypeVar

from data.user_files import plain_name

Pair = TypeVar("Pair", bound=tuple)


def split_off(pairs: Sequence[Pair], fraction: float) -> tuple[list[Pair], list[Pair]]:
  """Divides the images of `train` into those to train on and those for validation.

  The choice depends on the images' names alone: those with the smallest digests are kept for validation, so that it is
  the same every time, and changes little when images are added.

  Args:
    pairs: (image, mask) of each image.
    fraction: share of the images to keep for validation, between 0 and 1; at least one image is, and one is not.

  Raises:
    ValueError: if there is only one image.
  """
  if len(pairs) < 2:
    raise ValueError(f"--val_fraction={fraction}: {pairs[0][0].parent} has only one image. Add images.")
  count = min(max(1, round(fraction * len(pairs))), len(pairs) - 1)
  kept = set(sorted(pairs, key=lambda pair: _digest(pair[0]))[:count])
  return [pair for pair in pairs if pair not in kept], [pair for pair in pairs if pair in kept]


def _digest(image: pathlib.Path) -> bytes:
  return hashlib.blake2b(plain_name(image.stem).encode(), digest_size=16).digest()
