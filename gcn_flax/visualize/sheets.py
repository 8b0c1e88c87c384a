"""Contact sheets: pictures in rows, with captions and a legend of the classes."""

from collections.abc import Sequence

import cv2
import numpy as np

from gcn_flax.labels import LabelSet
from gcn_flax.rounding import ceil_div
from gcn_flax.visualize import overlay
from gcn_flax.visualize.text import draw_text

MAX_ASPECT = 4  # Height of a picture on a sheet, in widths of its column; a taller one becomes narrower.
_GAP = 8  # Between pictures, pixels.
_LINE = 22  # Height of a line of text, pixels.
_ENTRY = 150  # Width of an entry of the legend, pixels.


def browse_sheet(
  images: Sequence[np.ndarray],
  labels: Sequence[np.ndarray],
  names: Sequence[str],
  label_set: LabelSet,
  width: int = 480,
) -> np.ndarray:
  """Draws one row per example, image and overlay with class names, above a legend of the classes.

  Args:
    images: RGB uint8 `[H, W, 3]` each.
    labels: train ids uint8 `[H, W]` each.
    names: a caption for each row.
    label_set: names and colours of the classes.
    width: width of one picture on the sheet, pixels.

  Returns:
    RGB uint8 `[H', W', 3]`.
  """
  rows = []
  for image, label in zip(images, labels, strict=True):
    size = _size(image, width)
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST_EXACT)
    rows.append((image, overlay.name_regions(overlay.blend(image, label, label_set), label, label_set)))
  return _sheet(("image", "labels"), rows, names, [label_set], width, void="void: not covered")


def contact_sheet(
  images: Sequence[np.ndarray],
  labels: Sequence[np.ndarray],
  predictions: Sequence[np.ndarray],
  names: Sequence[str],
  label_set: LabelSet,
  over_image: bool = False,
  width: int = 360,
) -> np.ndarray:
  """Draws one row per example, image, ground truth and prediction, above a legend of the classes.

  Args:
    images: RGB uint8 `[H, W, 3]` each.
    labels, predictions: train ids uint8 `[H, W]` each. Predictions are drawn everywhere, also where the ground truth
      is void.
    names: a caption for each row.
    label_set: names and colours of the classes.
    over_image: blends ground truth and prediction with the image.
    width: width of one picture on the sheet, pixels.

  Returns:
    RGB uint8 `[H', W', 3]`.
  """

  def draw(image: np.ndarray, label: np.ndarray) -> np.ndarray:
    return overlay.blend(image, label, label_set) if over_image else overlay.colorize(label, label_set.palette)

  rows = [
    (image, draw(image, label), draw(image, prediction))
    for image, label, prediction in zip(images, labels, predictions, strict=True)
  ]
  return _sheet(("image", "ground truth", "prediction"), rows, names, [label_set], width, void="void")


def panel(
  columns: Sequence[tuple[str, Sequence[np.ndarray]]], names: Sequence[str], label_sets: Sequence[LabelSet], width: int
) -> np.ndarray:
  """Draws one row per example, with a picture from each column, above a legend of each label set.

  Args:
    columns: (title, pictures) of each, RGB uint8 `[H, W, 3]`, one for each example.
    names: a caption for each row.
    label_sets: names and colours of the classes.
    width: width of one picture on the sheet, pixels.

  Returns:
    RGB uint8 `[H', W', 3]`.
  """
  titles, pictures = zip(*columns, strict=True)
  rows = list(zip(*pictures, strict=True))
  return _sheet(titles, rows, names, label_sets, width, void="void", num_photos=len(columns))


def class_sheet(
  images: Sequence[np.ndarray], captions: Sequence[str], title: str, width: int = 200, columns: int = 4
) -> np.ndarray:
  """Draws pictures in rows of `columns`, each above its caption.

  Args:
    images: RGB uint8 `[H, W, 3]` each, all of one size.
    captions: one for each image.
    title: heading of the sheet.
    width: width of one picture on the sheet, pixels.
    columns: pictures in a row.

  Returns:
    RGB uint8 `[H', W', 3]`.
  """
  total = columns * (width + _GAP) + _GAP
  parts = [_text_row((title,), width, total)]
  for start in range(0, len(images), columns):
    row = slice(start, start + columns)
    parts += [_picture_row(images[row], width, total, num_photos=columns), _text_row(captions[row], width, total)]
  return np.concatenate(parts)


def _sheet(
  titles: Sequence[str],
  rows: Sequence[Sequence[np.ndarray]],
  names: Sequence[str],
  label_sets: Sequence[LabelSet],
  width: int,
  void: str,
  num_photos: int = 1,
) -> np.ndarray:
  """Stacks rows of pictures under `titles`, each above its name, and legends that call void `void`."""
  total = len(titles) * (width + _GAP) + _GAP
  parts = [_text_row(titles, width, total)]
  for pictures, name in zip(rows, names, strict=True):
    parts += [_picture_row(pictures, width, total, num_photos), _text_row((name,), width, total)]
  return np.concatenate([*parts, *(_legend(label_set, total, void) for label_set in label_sets)])


def _picture_row(pictures: Sequence[np.ndarray], width: int, total: int, num_photos: int = 1) -> np.ndarray:
  """Resizes pictures to one width, side by side: the first `num_photos` by area, label maps by nearest neighbour."""
  columns, height = _size(pictures[0], width)
  row = np.full((height + _GAP, total, 3), 255, np.uint8)
  for column, picture in enumerate(pictures):
    interpolation = cv2.INTER_AREA if column < num_photos else cv2.INTER_NEAREST_EXACT
    left = _GAP + column * (width + _GAP)
    row[:height, left : left + columns] = cv2.resize(picture, (columns, height), interpolation=interpolation)
  return row


def _size(picture: np.ndarray, width: int) -> tuple[int, int]:
  """Returns the (width, height) that a picture takes in a column of a sheet, pixels."""
  scale = min(width / picture.shape[1], MAX_ASPECT * width / picture.shape[0])
  return max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))


def _text_row(texts: Sequence[str], width: int, total: int) -> np.ndarray:
  row = np.full((_LINE, total, 3), 255, np.uint8)
  for column, text in enumerate(texts):
    draw_text(row, text, _GAP + column * (width + _GAP), _LINE - 7)
  return row


def _legend(label_set: LabelSet, total: int, void: str) -> np.ndarray:
  """Draws a coloured square and a name for each class and for void, in as many lines as needed."""
  entries = [*zip(label_set.classes, label_set.palette, strict=True), (void, overlay.VOID_COLOUR)]
  columns = max(1, (total - _GAP) // _ENTRY)
  legend = np.full((ceil_div(len(entries), columns) * _LINE + _GAP, total, 3), 255, np.uint8)
  for index, (name, colour) in enumerate(entries):
    top, left = index // columns * _LINE, _GAP + index % columns * _ENTRY
    cv2.rectangle(legend, (left, top + 4), (left + 14, top + 18), tuple(map(int, colour)), -1)
    cv2.rectangle(legend, (left, top + 4), (left + 14, top + 18), (0, 0, 0), 1)
    draw_text(legend, name, left + 20, top + 16)
  return legend
