"""COCO's instances as one map of VOC's classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from gcn_flax.labels import IGNORE, VOC

# VOC's names for COCO's categories; the other fourteen are the same in both.
_RENAMED = {
  "airplane": "aeroplane",
  "motorcycle": "motorbike",
  "couch": "sofa",
  "potted plant": "pottedplant",
  "dining table": "diningtable",
  "tv": "tvmonitor",
}


def train_ids(categories: Sequence[dict[str, Any]]) -> dict[int, int]:
  """COCO category id -> VOC train id, from `categories` of an annotation file, by name."""
  ids = {}
  for category in categories:
    name = _RENAMED.get(category["name"], category["name"])
    if name in VOC.classes:
      ids[category["id"]] = VOC.classes.index(name)
  return ids


def class_map(height: int, width: int, annotations: Sequence[tuple[int, bool, Any]]) -> np.ndarray:
  """Draws instances into one label map.

  Args:
    height, width: of the image, pixels.
    annotations: (train id, whether a crowd region, COCO's `segmentation`) of each instance.

  Returns:
    uint8 `[H, W]`: background 0; 255 where instances of different classes overlap, and in crowd
    regions, whose outline says only that there are many.
  """
  label, crowds = np.zeros((height, width), np.uint8), np.zeros((height, width), bool)
  for train_id, is_crowd, segmentation in annotations:
    inside = _inside(segmentation, height, width)
    if is_crowd:
      crowds |= inside
      continue
    disagree = inside & (label != 0) & (label != train_id)
    label[inside] = train_id
    label[disagree] = IGNORE
  label[crowds] = IGNORE
  return label


def _inside(segmentation: Any, height: int, width: int) -> np.ndarray:
  """The pixels of a list of polygons or of a run-length code, bool `[H, W]`."""
  if isinstance(segmentation, list):
    # Fewer than three corners have no inside, and pycocotools would take four numbers for a box.
    segmentation = [polygon for polygon in segmentation if len(polygon) >= 6]
    if not segmentation:
      return np.zeros((height, width), bool)
    code = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
  elif isinstance(segmentation["counts"], list):
    code = coco_mask.frPyObjects(segmentation, height, width)
  else:
    code = segmentation
  return coco_mask.decode(code).astype(bool)
