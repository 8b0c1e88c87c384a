"""Pictures of one image and its label map: colours, overlays, class names, and the files they are written to."""

import io
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from gcn_flax import files
from gcn_flax.input_pipeline import pictures
from gcn_flax.labels import LabelSet
from gcn_flax.visualize.text import draw_text

VOID_COLOUR = (255, 255, 255)
_PREDICTED = "gcn_flax: prediction"  # In the metadata of predictions, where editors do not keep it.
_JPEG_QUALITY = 95


def save(path: files.Path, picture: np.ndarray) -> None:
  """Writes RGB uint8 `[H, W, 3]` in the format of the path's suffix. Raises ValueError as `pictures.encode`."""
  files.write(path, pictures.encode(picture, path.suffix))


def save_labels(path: files.Path, label: np.ndarray, palette: Sequence[Sequence[int]] = ()) -> None:
  """Writes a predicted label map uint8 `[H, W]` as a PNG, see `encode_labels`."""
  files.write(path, encode_labels(label, palette))


def encode_labels(label: np.ndarray, palette: Sequence[Sequence[int]] = ()) -> bytes:
  """Encodes a predicted label map uint8 `[H, W]` as a PNG: indexed with the palette, grey without one."""
  image = Image.fromarray(label)
  if palette:
    image.putpalette([channel for colour in palette for channel in colour])
  info = PngInfo()
  info.add_text("Software", _PREDICTED)
  content = io.BytesIO()
  image.save(content, "PNG", pnginfo=info)
  return content.getvalue()


def encode_jpeg(picture: np.ndarray) -> bytes:
  """Encodes a picture of predictions, RGB uint8 `[H, W, 3]`, as a JPEG, shrunk if it is too long for one."""
  content = io.BytesIO()
  fitting = fit(picture, pictures.MAX_JPEG_SIDE, pictures.MAX_JPEG_SIDE)
  Image.fromarray(fitting).save(content, "JPEG", quality=_JPEG_QUALITY, comment=_PREDICTED)
  return content.getvalue()


def is_predicted(path: pathlib.Path) -> bool:
  """Returns True for a file made by `save_labels` or `encode_jpeg`, unless it is edited; False for a link to one."""
  if path.is_symlink() or not path.is_file():
    return False
  with open(path, "rb") as file:
    return _PREDICTED.encode() in file.read(4096)  # Encoders write comments before pixels.


def fit(picture: np.ndarray, max_width: int, max_height: int) -> np.ndarray:
  """Shrinks to at most this size, pixels: images `[H, W, 3]` by area, label maps `[H, W]` by nearest neighbour."""
  height, width = picture.shape[:2]
  scale = min(max_width / width, max_height / height)
  if scale >= 1:
    return picture
  size = (max(1, round(width * scale)), max(1, round(height * scale)))
  return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if picture.ndim == 3 else cv2.INTER_NEAREST_EXACT)


def colorize(label: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
  """Maps train ids uint8 `[H, W]` to RGB uint8 `[H, W, 3]`; ids without a class, such as 255, become white."""
  table = np.full((256, 3), VOID_COLOUR, np.uint8)
  table[: len(palette)] = palette
  return table[label]


def blend(image: np.ndarray, label: np.ndarray, label_set: LabelSet) -> np.ndarray:
  """Blends RGB uint8 `[H, W, 3]` with its classes' colours and outlines them in white; void keeps the image."""
  colours = colorize(label, label_set.palette)
  mixed = cv2.addWeighted(image, 0.45, colours, 0.55, 0)
  mixed[label >= label_set.num_classes] = image[label >= label_set.num_classes]
  mixed[cv2.morphologyEx(label, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0] = VOID_COLOUR
  return mixed


def name_regions(picture: np.ndarray, label: np.ndarray, label_set: LabelSet, min_pixels: int = 400) -> np.ndarray:
  """Returns a copy of the picture with each class's name on its largest region of at least `min_pixels` pixels."""
  named = picture.copy()
  for index in np.unique(label[label < label_set.num_classes]):
    _, regions, stats, _ = cv2.connectedComponentsWithStats((label == index).astype(np.uint8))
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    if stats[largest, cv2.CC_STAT_AREA] < min_pixels:
      continue
    # The pixel farthest from the region's boundary; a centre of gravity may lie outside the region.
    depth = cv2.distanceTransform(np.pad((regions == largest).astype(np.uint8), 1), cv2.DIST_L2, 3)
    bottom, left = np.unravel_index(int(np.argmax(depth)), depth.shape)
    name = label_set.classes[index]
    draw_text(named, name, max(0, int(left) - 4 * len(name)), int(bottom) + 5, outlined=True)
  return named
