"""Accuracy near object boundaries and away from them, and Boundary IoU."""

import cv2
import numpy as np

from gcn_flax.labels import IGNORE

MAX_DISTANCE = 40  # Last distance on the curve of accuracy against distance, pixels.
BOUNDARY = 7  # Width of the boundary region, pixels; the paper's.
_DILATION = 0.02  # Width of the boundaries of Boundary IoU, relative to the image's diagonal.


def distance_to_boundary(labels: np.ndarray, ignore: int = IGNORE) -> np.ndarray:
  """Returns the Euclidean distance from each pixel to the nearest pixel with another label, in pixels.

  Two pixels that touch across a boundary are both at distance 1. The border of a void region counts as a boundary,
  because VOC draws the boundaries of objects as void; the border of the image does not.

  Args:
    labels: integers `[H, W]`.
    ignore: label of void pixels.

  Returns:
    float32 `[H, W]`: 0 at void pixels, infinity if the whole image has one label.
  """
  labels = np.asarray(labels)
  distance = np.zeros(labels.shape, np.float32)
  for value in np.unique(labels[labels != ignore]):
    mask = labels == value
    rows, columns = (_extent(mask.any(axis)) for axis in (1, 0))
    mask = mask[rows, columns].astype(np.uint8)
    if mask.all():
      distance.fill(np.inf)
    else:
      distance[rows, columns] += cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
  return distance


def _extent(occupied: np.ndarray) -> slice:
  """Returns the range from the first to the last True, extended by one on either side."""
  indices = np.flatnonzero(occupied)
  return slice(max(0, indices[0] - 1), indices[-1] + 2)


def boundary_region(labels: np.ndarray, distance: float = BOUNDARY, ignore: int = IGNORE) -> np.ndarray:
  """Returns a mask of the pixels within `distance` of a boundary, bool `[H, W]` (section 4.1.1 and Table 5).

  All other valid pixels form the internal region; void pixels belong to neither. The paper gives the distance of 7
  pixels, but neither its metric nor its treatment of void: both are ours, see `distance_to_boundary`.

  Args:
    labels: uint8 `[H, W]`.
    distance: max distance, pixels.
    ignore: label of void pixels.
  """
  return (np.asarray(labels) != ignore) & (distance_to_boundary(labels, ignore) <= distance)


def count_by_distance(labels: np.ndarray, predictions: np.ndarray, ignore: int = IGNORE) -> np.ndarray:
  """Counts pixels and hits by distance to the nearest boundary.

  Args:
    labels, predictions: uint8 `[H, W]`.
    ignore: label of void pixels, which are not counted.

  Returns:
    (pixels, hits), int64 `[MAX_DISTANCE + 1, 2]`: row i counts distances in (i, i + 1], the last row all larger ones.
  """
  valid = labels != ignore
  rings = np.minimum(np.ceil(distance_to_boundary(labels, ignore)[valid]), MAX_DISTANCE + 1).astype(np.int64) - 1
  hits = (labels == predictions)[valid]
  length = MAX_DISTANCE + 1
  return np.stack([np.bincount(rings, minlength=length), np.bincount(rings[hits], minlength=length)], -1)


def boundary_accuracy(counts: np.ndarray, distance: int = BOUNDARY) -> tuple[float, float]:
  """Returns (accuracy in the boundary region, accuracy in the internal region), Table 5; NaN without pixels.

  Args:
    counts: sum of `count_by_distance` over the data set.
    distance: width of the boundary region, pixels.
  """
  return _share(counts[:distance].sum(0)), _share(counts[distance:].sum(0))


def accuracy_curve(counts: np.ndarray) -> np.ndarray:
  """Returns the accuracy within 1, 2, ... `MAX_DISTANCE` pixels of a boundary, float64 `[MAX_DISTANCE]`."""
  return np.array([_share(row) for row in np.cumsum(counts[:MAX_DISTANCE], 0)])


def _share(row: np.ndarray) -> float:
  return float(row[1] / row[0]) if row[0] else float("nan")


def count_boundaries(labels: np.ndarray, predictions: np.ndarray, num_classes: int, ignore: int = IGNORE) -> np.ndarray:
  """Counts the boundary pixels that `boundary_iou` (Cheng et al., CVPR 2021) is computed from.

  The boundary of a class is the part of its mask that 0.02 x diagonal erosions by 3 x 3 remove; the border of the
  image counts as a boundary, too. The original measures instances. Summing by class over the data set is ours, and so
  is removing void from labels and predictions before the erosion.

  Args:
    labels, predictions: uint8 `[H, W]`.
    num_classes: number of classes.
    ignore: label of void pixels.

  Returns:
    int64 `[num_classes, 3]`: pixels in both boundaries, in the label's, in the prediction's.
  """
  width = max(1, round(_DILATION * float(np.hypot(*labels.shape))))
  predictions = np.where(labels == ignore, np.uint8(ignore), predictions)
  true, found = (_near_another_label(array, width) & (labels != ignore) for array in (labels, predictions))
  both = true & found & (labels == predictions)
  parts = labels[both], labels[true], predictions[found]
  return np.stack([np.bincount(part, minlength=num_classes) for part in parts], -1)


def _near_another_label(array: np.ndarray, width: int) -> np.ndarray:
  """Returns a mask of the pixels with another label, or the image's border, within `width` rows and columns."""
  window = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
  near = (cv2.dilate(array, window) != array) | (cv2.erode(array, window) != array)
  near[:width] = near[-width:] = near[:, :width] = near[:, -width:] = True
  return near


def boundary_iou(counts: np.ndarray) -> np.ndarray:
  """Returns the Boundary IoU of each class, float64 `[C]`, from summed `count_boundaries`; NaN without boundaries."""
  both, true, found = np.asarray(counts, np.int64).T
  union = true + found - both
  return np.where(union > 0, both / np.maximum(union, 1), np.nan)
