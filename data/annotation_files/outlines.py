"""Outlines of objects as annotation tools store them, drawn as the pixels inside of them."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from data.coco_voc import masks
from gcn_flax.printable import one_line

Size = tuple[int, int]
_TOLERANCE = 0.01  # Of a side: tools round, and let the pointer leave the image a little.


def polygon(points: Sequence[Sequence[float]], size: Size) -> np.ndarray:
  """Draws a polygon with its border, as labelme and Ultralytics do.

  Args:
    points: (x, y) of the corners, pixels.
    size: (height, width) of the image, pixels.

  Returns:
    True inside, bool `[H, W]`.

  Raises:
    ValueError: for fewer than three corners, and for a corner outside of the image.
  """
  corners = np.array(points, np.float64).reshape(-1, 2)
  if len(corners) < 3:
    raise ValueError(f"has {len(corners)} points. A polygon needs three: draw it again, or delete it.")
  _check_inside(corners, size)
  return cv2.fillPoly(np.zeros(size, np.uint8), [np.rint(corners).astype(np.int32)], 1) > 0


def relative_polygon(points: Sequence[Sequence[float]], size: Size) -> np.ndarray:
  """Draws a polygon whose corners are shares of the image's width and height; else like `polygon`."""
  return polygon(np.array(points, np.float64) * size[::-1], size)


def rectangle(points: Sequence[Sequence[float]], size: Size) -> np.ndarray:
  """Draws a rectangle from two opposite corners; else like `polygon`."""
  (x1, y1), (x2, y2) = _two(points)
  return polygon([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], size)


def circle(points: Sequence[Sequence[float]], size: Size) -> np.ndarray:
  """Draws a circle from its centre and a point on it; it may reach over the border. Else like `polygon`."""
  centre, border = np.array(_two(points), np.float64)
  _check_inside(centre[None], size)
  radius = round(np.hypot(*(border - centre)))
  return cv2.circle(np.zeros(size, np.uint8), np.rint(centre).astype(int).tolist(), radius, 1, -1) > 0


def coco_region(segmentation: Any, size: Size) -> np.ndarray:
  """Draws COCO's polygons `[[x, y, x, y, ...], ...]` or run-length code `{"size": [H, W], "counts": ...}`.

  Arguments, result and errors are those of `polygon`; ValueError also for a code of another size, and for anything that
  pycocotools cannot read.
  """
  if isinstance(segmentation, dict):
    if list(segmentation.get("size", ())) != list(size):
      raise ValueError(
        f"has a run-length code of size {segmentation.get('size')}, but the image is {list(size)}. Export it again."
      )
  else:
    for part in _parts(segmentation):
      _check_inside(np.array(part, np.float64).reshape(-1, 2), size)
  try:
    return masks.inside(segmentation, *size)
  except Exception as error:  # pycocotools raises all kinds of errors for bad input.
    raise ValueError(f"cannot be drawn ({one_line(error)}). Export it again.") from error


def _parts(segmentation: Any) -> list[list[float]]:
  parts = segmentation if isinstance(segmentation, list) else [segmentation]
  for part in parts:
    numbers = isinstance(part, list) and all(type(value) in (int, float) for value in part)
    if not numbers or len(part) < 6 or len(part) % 2:
      raise ValueError("has a polygon that is not a list x, y, x, y, ... of three points or more. Export it again.")
  return parts


def _two(points: Sequence[Sequence[float]]) -> Sequence[Sequence[float]]:
  if len(points) != 2:
    raise ValueError(f"has {len(points)} points. It needs two: draw it again, or delete it.")
  return points


def _check_inside(points: np.ndarray, size: Size) -> None:
  height, width = size
  most = np.array([width, height])
  margin = np.maximum(1, _TOLERANCE * most)
  outside = points[~((points >= -margin) & (points <= most + margin)).all(-1)]
  if len(outside):
    x, y = outside[0]
    raise ValueError(f"has the point ({x:g}, {y:g}) outside of the image, which is {height} x {width}. Correct it.")
