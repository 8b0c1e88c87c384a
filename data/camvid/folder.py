"""Finds and checks the files of CamVid."""

import pathlib

import cv2
import numpy as np

from gcn_flax.labels import CAMVID, IGNORE

_FOLDERS = {"train": "train", "validation": "val"}
_SHOWN = 20  # Faults listed in an error; the rest is counted.


def list_pairs(root: pathlib.Path, split: str) -> list[tuple[pathlib.Path, pathlib.Path]]:
  """The images of a split with their masks, by name.

  Raises ValueError where there are no images, or an image has no mask or a mask no image.
  """
  folder = _FOLDERS[split]
  images = {path.stem: path for path in sorted((root / "images" / folder).glob("*.*")) if path.suffix != ".txt"}
  masks = {path.stem: path for path in sorted((root / "masks" / folder).glob("*.png"))}
  if not images:
    raise ValueError(f"no images in {root / 'images' / folder}: --manual_dir must hold images/ and masks/.")
  faults = [f"{images[name]} has no mask" for name in sorted(images.keys() - masks.keys())]
  faults += [f"{masks[name]} has no image" for name in sorted(masks.keys() - images.keys())]
  _raise(faults)
  return [(images[name], masks[name]) for name in sorted(images)]


def check(root: pathlib.Path) -> dict[str, int]:
  """Reads every image and mask; returns the number of pairs of each split.

  Raises ValueError listing the files that cannot be read, whose sizes differ, or whose masks hold
  other values than 0 to 10 and 255.
  """
  faults, counts = [], {}
  for split in _FOLDERS:
    pairs = list_pairs(root, split)
    counts[split] = len(pairs)
    for image_path, mask_path in pairs:
      faults += _faults(image_path, mask_path)
  _raise(faults)
  return counts


def _faults(image_path: pathlib.Path, mask_path: pathlib.Path) -> list[str]:
  image = cv2.imread(str(image_path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
  mask = cv2.imread(str(mask_path), cv2.IMREAD_UNCHANGED)
  if image is None:
    return [f"{image_path} cannot be read"]
  if mask is None or mask.ndim != 2 or mask.dtype != np.uint8:
    return [f"{mask_path} is no 8-bit single-channel PNG"]
  if mask.shape != image.shape[:2]:
    return [f"{mask_path} is {mask.shape}, its image {image.shape[:2]}"]
  wrong = sorted(set(np.unique(mask).tolist()) - {*range(CAMVID.num_classes), IGNORE})
  return [f"{mask_path} holds the values {wrong}, not 0 to {CAMVID.num_classes - 1} or {IGNORE}"] if wrong else []


def _raise(faults: list[str]) -> None:
  if faults:
    more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
    raise ValueError("; ".join(faults[:_SHOWN]) + more)
