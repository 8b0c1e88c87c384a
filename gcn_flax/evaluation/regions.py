"""How good a prediction is near the boundaries of objects, and away from them."""

import cv2
import numpy as np

from gcn_flax.labels import IGNORE

FARTHEST = 40  # Pixels; how far the curve of accuracy against distance goes.
BOUNDARY = 7  # Pixels; the paper's.
_DILATION = 0.02  # Of the image's diagonal: the width that Boundary IoU looks at.


def distance_to_boundary(labels: np.ndarray, ignore: int = IGNORE) -> np.ndarray:
  """Euclidean distance of each pixel to the nearest pixel of another label, in pixels.

  The two pixels that touch across a boundary are both at distance 1. The edge of a void region counts as a boundary,
  because VOC draws its objects' boundaries as void; the edge of the image does not.

  Args:
    labels: integers `[H, W]`.
    ignore: label of void pixels.

  Returns:
    float32 `[H, W]`: 0 at void pixels, infinite where the whole image has one label.
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
  """From the first to the last place that is occupied, and one more on either side."""
  places = np.flatnonzero(occupied)
  return slice(max(0, places[0] - 1), places[-1] + 2)


def boundary_region(labels: np.ndarray, distance: float = BOUNDARY, ignore: int = IGNORE) -> np.ndarray:
  """The pixels at most so far from an object's boundary, bool `[H, W]` (the paper, section 4.1.1, Table 5).

  Everything else that is valid is the internal region; void pixels belong to neither. The paper gives the distance
  of 7 pixels but neither its metric nor what it does with void: both are ours, see `distance_to_boundary`.

  Args:
    labels: uint8 `[H, W]`.
    distance: pixels.
    ignore: label of void pixels.
  """
  return (np.asarray(labels) != ignore) & (distance_to_boundary(labels, ignore) <= distance)


def count_by_distance(labels: np.ndarray, predictions: np.ndarray, ignore: int = IGNORE) -> np.ndarray:
  """Counts pixels and hits by distance from the nearest boundary.

  Args:
    labels, predictions: uint8 `[H, W]`.
    ignore: label of void pixels, which are not counted.

  Returns:
    int64 `[FARTHEST + 1, 2]`, (pixels, hits): row i holds distances above i up to i + 1 pixels, the last one all above.
  """
  valid = labels != ignore
  rings = np.minimum(np.ceil(distance_to_boundary(labels, ignore)[valid]), FARTHEST + 1).astype(np.int64) - 1
  hits = (labels == predictions)[valid]
  length = FARTHEST + 1
  return np.stack([np.bincount(rings, minlength=length), np.bincount(rings[hits], minlength=length)], -1)


def boundary_accuracy(counts: np.ndarray, distance: int = BOUNDARY) -> tuple[float, float]:
  """(accuracy within `distance` pixels of a boundary, accuracy of the rest): Table 5; NaN where there is no pixel.

  `counts` are those of `count_by_distance`, over the whole set.
  """
  return _share(counts[:distance].sum(0)), _share(counts[distance:].sum(0))


def accuracy_curve(counts: np.ndarray) -> np.ndarray:
  """Accuracy of the pixels within 1, 2, ... `FARTHEST` pixels of a boundary, float64 `[FARTHEST]`."""
  return np.array([_share(row) for row in np.cumsum(counts[:FARTHEST], 0)])


def _share(row: np.ndarray) -> float:
  return float(row[1] / row[0]) if row[0] else float("nan")


def count_boundaries(labels: np.ndarray, predictions: np.ndarray, num_classes: int, ignore: int = IGNORE) -> np.ndarray:
  """Counts what Boundary IoU (Cheng et al., CVPR 2021) is made of.

  The boundary of a class is what erosion by 3 x 3, done 0.02 x diagonal times, takes from its mask; the edge of the
  image counts as a boundary, too. Theirs is a measure of instances: summing each class over the set is ours, and
  so is taking void out of label and prediction alike, before either is eroded.

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
  """Whether a pixel has another label, or the outside, within `width` rows and columns."""
  window = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
  near = (cv2.dilate(array, window) != array) | (cv2.erode(array, window) != array)
  near[:width] = near[-width:] = near[:, :width] = near[:, -width:] = True
  return near


def boundary_iou(counts: np.ndarray) -> np.ndarray:
  """Boundary IoU of each class, float64 `[C]`, from `count_boundaries` over the set; NaN where a class has none."""
  both, true, found = np.asarray(counts, np.int64).T
  union = true + found - both
  return np.where(union > 0, both / np.maximum(union, 1), np.nan)
