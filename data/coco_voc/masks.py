"""Draws the instances of COCO as label maps with the classes of VOC."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from gcn_flax.labels import IGNORE, VOC

# VOC's names of COCO categories; the other fourteen have the same name in both.
_RENAMED = {
  "airplane": "aeroplane",
  "motorcycle": "motorbike",
  "couch": "sofa",
  "potted plant": "pottedplant",
  "dining table": "diningtable",
  "tv": "tvmonitor",
}


def train_ids(categories: Sequence[dict[str, Any]]) -> dict[int, int]:
  """Maps COCO category ids to VOC train ids, by the names in `categories` of an annotation file."""
  ids = {}
  for category in categories:
    name = _RENAMED.get(category["name"], category["name"])
    if name in VOC.classes:
      ids[category["id"]] = VOC.classes.index(name)
  return ids


def class_map(height: int, width: int, annotations: Sequence[tuple[int, bool, Any]]) -> np.ndarray:
  """Draws instances into one label map.

  Args:
    height, width: size of the image, pixels.
    annotations: (train id, is a crowd region, COCO's `segmentation`) of each instance.

  Returns:
    uint8 `[H, W]`: 0 for background; 255 where instances of different classes overlap, and in crowd regions, whose
    outlines do not separate objects from background.
  """
  label, crowds = np.zeros((height, width), np.uint8), np.zeros((height, width), bool)
  for train_id, is_crowd, segmentation in annotations:
    pixels = inside(segmentation, height, width)
    if is_crowd:
      crowds |= pixels
      continue
    disagree = pixels & (label != 0) & (label != train_id)
    label[pixels] = train_id
    label[disagree] = IGNORE
  label[crowds] = IGNORE
  return label


def inside(segmentation: Any, height: int, width: int) -> np.ndarray:
  """Rasterises a list of polygons or a run-length code, bool `[H, W]`."""
  if isinstance(segmentation, list):
    # Polygons with fewer than three corners are empty, and pycocotools would read four numbers as a box.
    segmentation = [polygon for polygon in segmentation if len(polygon) >= 6]
    if not segmentation:
      return np.zeros((height, width), bool)
    code = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
  elif isinstance(segmentation["counts"], list):
    code = coco_mask.frPyObjects(segmentation, height, width)
  else:
    code = segmentation
  return coco_mask.decode(code).astype(bool)
