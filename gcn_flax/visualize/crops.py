"""A region of an image, close up: the picture, its mask and the prediction, with the region outlined."""

import dataclasses

import cv2
import numpy as np

from gcn_flax.labels import LabelSet
from gcn_flax.visualize import overlay

_MARGIN = 24  # Least surroundings of a region in a crop, pixels; at least half of the region's size is shown as well.
_SIDE = 300  # Longer side of a crop as drawn, pixels.
_OUTLINE = (255, 0, 255)


@dataclasses.dataclass(frozen=True)
class Crop:
  """The surroundings of a region, of a size that a page can show.

  Attributes:
    image: RGB uint8 `[h, w, 3]`.
    label, prediction: label maps uint8 `[h, w]`.
    mask: the region, uint8 `[h, w]`, 0 or 1.
  """

  image: np.ndarray
  label: np.ndarray
  prediction: np.ndarray
  mask: np.ndarray


def crop_region(
  image: np.ndarray, label: np.ndarray, prediction: np.ndarray, mask: np.ndarray, box: tuple[slice, slice]
) -> Crop:
  """Crops an image to the surroundings of a region, scaled to 300 pixels.

  Args:
    image: RGB uint8 `[H, W, 3]`.
    label, prediction: label maps uint8 `[H, W]`.
    mask: the region, bool, of the size of its box.
    box: rows and columns of the box.
  """
  whole = np.zeros(label.shape, np.uint8)
  whole[box] = mask
  window = []
  for part, side in zip(box, label.shape, strict=True):
    margin = max(_MARGIN, (part.stop - part.start) // 2)
    window.append(slice(max(0, part.start - margin), min(side, part.stop + margin)))
  image, *maps = (array[tuple(window)] for array in (image, label, prediction, whole))
  height, width = image.shape[:2]
  scale = _SIDE / max(height, width)
  size = (max(1, round(width * scale)), max(1, round(height * scale)))
  shrinks = scale < 1
  image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
  return Crop(image, *(cv2.resize(each, size, interpolation=cv2.INTER_NEAREST_EXACT) for each in maps))


def draw_crop(crop: Crop, label_set: LabelSet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Draws picture, mask and prediction with the region outlined, RGB uint8 `[h, w, 3]` each."""
  outlines, _ = cv2.findContours(crop.mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
  drawn = [crop.image.copy(), *(overlay.blend(crop.image, each, label_set) for each in (crop.label, crop.prediction))]
  for picture in drawn:
    cv2.drawContours(picture, outlines, -1, _OUTLINE, 2, cv2.LINE_AA)
  return tuple(drawn)
