"""Label maps as pictures, and results as tables."""

import io
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from gcn_flax import files
from gcn_flax.labels import LabelSet

VOID_COLOUR = (255, 255, 255)
_GAP = 8  # Pixels between pictures.
_LINE = 22  # Height of a line of text, pixels.


def save(path: files.Path, picture: np.ndarray) -> None:
  """Writes RGB uint8 `[H, W, 3]` in the format that the path's suffix names. Raises OSError where it cannot."""
  files.write(path, encode(picture, path.suffix))


def encode(picture: np.ndarray, suffix: str) -> bytes:
  """RGB uint8 `[H, W, 3]` as a file's content. Raises OSError for a suffix other than .png or .jpg."""
  try:
    return cv2.imencode(suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()
  except cv2.error as error:
    raise OSError(f"a picture cannot be written as {suffix!r}: its name must end in .png or .jpg.") from error


def save_labels(path: files.Path, label: np.ndarray, palette: Sequence[Sequence[int]] = ()) -> None:
  """Writes a label map uint8 `[H, W]` as a PNG of one channel: indexed where a palette is given, else grey."""
  image = Image.fromarray(label)
  if palette:
    image.putpalette([channel for colour in palette for channel in colour])
  content = io.BytesIO()
  image.save(content, "PNG")
  files.write(path, content.getvalue())


def shrink(picture: np.ndarray, width: int) -> np.ndarray:
  """At most `width` columns wide: images `[H, W, 3]` averaged, label maps `[H, W]` never mixed."""
  if picture.shape[1] <= width:
    return picture
  size = (width, max(1, round(picture.shape[0] * width / picture.shape[1])))
  return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if picture.ndim == 3 else cv2.INTER_NEAREST_EXACT)


def colorize(label: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
  """Train ids uint8 `[H, W]` -> RGB uint8 `[H, W, 3]`; values without a class, 255 among them, become white."""
  table = np.full((256, 3), VOID_COLOUR, np.uint8)
  table[: len(palette)] = palette
  return table[label]


def blend(image: np.ndarray, label: np.ndarray, label_set: LabelSet) -> np.ndarray:
  """The image, RGB uint8 `[H, W, 3]`, half covered by its classes' colours, void left as it is, borders drawn."""
  colours = colorize(label, label_set.palette)
  mixed = cv2.addWeighted(image, 0.45, colours, 0.55, 0)
  mixed[label >= label_set.num_classes] = image[label >= label_set.num_classes]
  mixed[cv2.morphologyEx(label, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0] = VOID_COLOUR
  return mixed


def name_regions(picture: np.ndarray, label: np.ndarray, label_set: LabelSet, least: int = 400) -> np.ndarray:
  """A copy of the picture with each class's name on its largest region, if that has at least `least` pixels."""
  named = picture.copy()
  for index in np.unique(label[label < label_set.num_classes]):
    _, regions, stats, _ = cv2.connectedComponentsWithStats((label == index).astype(np.uint8))
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    if stats[largest, cv2.CC_STAT_AREA] < least:
      continue
    # The place deepest inside, which a centre of gravity may miss.
    depth = cv2.distanceTransform(np.pad((regions == largest).astype(np.uint8), 1), cv2.DIST_L2, 3)
    bottom, left = np.unravel_index(int(np.argmax(depth)), depth.shape)
    name = label_set.classes[index]
    start = (max(0, int(left) - 4 * len(name)), int(bottom) + 5)
    for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
      cv2.putText(named, name, start, cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, thickness, cv2.LINE_AA)
  return named


def browse_sheet(
  images: Sequence[np.ndarray],
  labels: Sequence[np.ndarray],
  names: Sequence[str],
  label_set: LabelSet,
  width: int = 480,
) -> np.ndarray:
  """One row per example: image and overlay with class names, with a legend of the classes below.

  Args:
    images: RGB uint8 `[H, W, 3]` each.
    labels: train ids uint8 `[H, W]` each.
    names: a caption for each row.
    label_set: names and colours of the classes.
    width: of one picture on the sheet, pixels.

  Returns:
    RGB uint8 `[H', W', 3]`.
  """
  rows = []
  for image, label in zip(images, labels, strict=True):
    size = (width, max(1, round(image.shape[0] * width / image.shape[1])))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST_EXACT)
    rows.append((image, name_regions(blend(image, label, label_set), label, label_set)))
  return _sheet(("image", "labels"), rows, names, label_set, width, void="void: not covered")


def contact_sheet(
  images: Sequence[np.ndarray],
  labels: Sequence[np.ndarray],
  predictions: Sequence[np.ndarray],
  names: Sequence[str],
  label_set: LabelSet,
  over_image: bool = False,
  width: int = 360,
) -> np.ndarray:
  """One row per example: image, truth, prediction, with a legend of the classes below.

  Args:
    images: RGB uint8 `[H, W, 3]` each.
    labels, predictions: train ids uint8 `[H, W]` each. The prediction is shown
      everywhere, also where the truth is void.
    names: a caption for each row.
    label_set: names and colours of the classes.
    over_image: whether truth and prediction are shown over the image.
    width: of one picture on the sheet, pixels.

  Returns:
    RGB uint8 `[H', W', 3]`.
  """

  def shown(image: np.ndarray, label: np.ndarray) -> np.ndarray:
    return blend(image, label, label_set) if over_image else colorize(label, label_set.palette)

  rows = [
    (image, shown(image, label), shown(image, prediction))
    for image, label, prediction in zip(images, labels, predictions, strict=True)
  ]
  return _sheet(("image", "truth", "prediction"), rows, names, label_set, width, void="void")


def _sheet(
  titles: Sequence[str],
  rows: Sequence[Sequence[np.ndarray]],
  names: Sequence[str],
  label_set: LabelSet,
  width: int,
  void: str,
) -> np.ndarray:
  """Rows of pictures under `titles`, each with its name below, and a legend; `void` is what the legend says of it."""
  total = len(titles) * (width + _GAP) + _GAP
  parts = [_text_row(titles, width, total)]
  for pictures, name in zip(rows, names, strict=True):
    parts += [_picture_row(pictures, width, total), _text_row((name,), width, total)]
  return np.concatenate([*parts, _legend(label_set, total, void)])


def _picture_row(pictures: Sequence[np.ndarray], width: int, total: int, photos: int = 1) -> np.ndarray:
  """Pictures side by side, the first `photos` of them averaged to their width, label maps after them never mixed."""
  height = max(1, round(pictures[0].shape[0] * width / pictures[0].shape[1]))
  row = np.full((height + _GAP, total, 3), 255, np.uint8)
  for column, picture in enumerate(pictures):
    interpolation = cv2.INTER_AREA if column < photos else cv2.INTER_NEAREST_EXACT
    left = _GAP + column * (width + _GAP)
    row[:height, left : left + width] = cv2.resize(picture, (width, height), interpolation=interpolation)
  return row


def _text_row(texts: Sequence[str], width: int, total: int) -> np.ndarray:
  row = np.full((_LINE, total, 3), 255, np.uint8)
  for column, text in enumerate(texts):
    _write(row, text, _GAP + column * (width + _GAP), _LINE - 7)
  return row


def _legend(label_set: LabelSet, total: int, void: str) -> np.ndarray:
  """A coloured square and a name for each class and for void, in as many lines as it takes."""
  entries = [*zip(label_set.classes, label_set.palette, strict=True), (void, VOID_COLOUR)]
  columns = max(1, (total - _GAP) // 150)
  legend = np.full(((-(-len(entries) // columns)) * _LINE + _GAP, total, 3), 255, np.uint8)
  for index, (name, colour) in enumerate(entries):
    top, left = index // columns * _LINE, _GAP + index % columns * 150
    cv2.rectangle(legend, (left, top + 4), (left + 14, top + 18), tuple(map(int, colour)), -1)
    cv2.rectangle(legend, (left, top + 4), (left + 14, top + 18), (0, 0, 0), 1)
    _write(legend, name, left + 20, top + 16)
  return legend


def _write(picture: np.ndarray, text: str, left: int, bottom: int) -> None:
  cv2.putText(picture, text, (left, bottom), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)


TITLES = {  # How the figures of a split are called where people read them.
  "mean_iou": "mean IoU",
  "pixel_accuracy": "pixel accuracy",
  "mean_accuracy": "mean accuracy",
  "frequency_weighted_iou": "frequency-weighted IoU",
  "boundary_accuracy": "boundary accuracy",
  "internal_accuracy": "internal accuracy",
  "boundary_iou": "boundary IoU",
  "mean_category_iou": "category IoU",
  "mean_instance_iou": "iIoU",
  "mean_category_instance_iou": "category iIoU",
  "top1": "top-1",
  "top5": "top-5",
}


def class_table(classes: Sequence[str], iou: Sequence[float], share: Sequence[float], totals: dict[str, float]) -> str:
  """A table of IoU and share of the valid pixels by class, and of the totals, in percent; `-` where there is none."""
  width = max(map(len, [*classes, *map(TITLES.get, totals)]))
  lines = [f"{'class':<{width}}  {'IoU %':>6}  {'pixels %':>8}"]
  for name, value, part in zip(classes, iou, share, strict=True):
    shown = "-" if np.isnan(value) else f"{100 * value:.1f}"
    lines.append(f"{name:<{width}}  {shown:>6}  {100 * part:>8.2f}")
  for name, value in totals.items():
    shown = "-" if np.isnan(value) else f"{100 * value:.1f}"
    lines.append(f"{TITLES[name]:<{width}}  {shown:>6}")
  return "\n".join(lines)


def accuracy_table(
  classes: Sequence[str], accuracy: Sequence[float], images: Sequence[int], totals: dict[str, float], worst: int
) -> str:
  """A table of the `worst` classes by accuracy, in percent, with their number of images, and of the totals."""
  width = max(len("class"), *map(len, classes), *map(len, totals))
  present = [index for index in range(len(classes)) if images[index]]
  shown = sorted(present, key=lambda index: accuracy[index])[:worst]
  lines = [f"{'class':<{width}}  {'top-1 %':>7}  {'images':>8}"]
  lines += [f"{classes[index]:<{width}}  {100 * accuracy[index]:>7.1f}  {images[index]:>8,}" for index in shown]
  if len(present) > worst:
    lines.append(f"... and {len(present) - worst} classes that are recognised better")
  return "\n".join([*lines, *(f"{name:<{width}}  {100 * value:>7.1f}" for name, value in totals.items())])


def class_sheet(
  images: Sequence[np.ndarray], captions: Sequence[str], title: str, width: int = 200, columns: int = 4
) -> np.ndarray:
  """Pictures in rows of `columns`, each with its caption below.

  Args:
    images: RGB uint8 `[H, W, 3]` each, all of one size.
    captions: one for each image.
    title: what stands above all.
    width: of one picture on the sheet, pixels.
    columns: pictures in a row.

  Returns:
    RGB uint8 `[H', W', 3]`.
  """
  total = columns * (width + _GAP) + _GAP
  parts = [_text_row((title,), width, total)]
  for start in range(0, len(images), columns):
    row = slice(start, start + columns)
    parts += [_picture_row(images[row], width, total, photos=columns), _text_row(captions[row], width, total)]
  return np.concatenate(parts)
