"""Strict decoding of images and masks: files that readers could interpret differently are rejected."""

import io

import cv2
import numpy as np
from PIL import Image

from gcn_flax.input_pipeline import pictures

_PNG_DEPTH = 24  # Offset of the bit depth, followed by the colour type, in the file (PNG specification, 11.2.1).
_JPEG_QUALITY = 95


def decode_rgb(data: bytes, name: str, published: bool = False) -> np.ndarray:
  """Decodes an image completely to RGB uint8 `[H, W, 3]`.

  Args:
    data: content of the file.
    name: name of the file, for error messages.
    published: if True, labels are known to fit the pixels as stored, whatever the orientation and colour mode.

  Raises:
    ValueError: for what `pictures.decode` rejects; and unless `published`, for other modes than RGB and for an EXIF
      orientation.
  """
  image, orientation = pictures.decode(data, name)
  if image.mode != "RGB" and not published:
    kind = _MODES.get(image.mode, "unusual")
    raise ValueError(f"{name} has mode {image.mode} ({kind}). Convert it to 8-bit RGB.")
  if orientation in range(2, 9) and not published:  # Other values have no meaning.
    raise ValueError(
      f"{name} has EXIF orientation {orientation}, which its mask does not share. Rotate the pixels and remove the tag "
      "(for instance with mogrify -auto-orient), and check that the mask fits."
    )
  return pictures.to_rgb(image, name)


_MODES = {"L": "grey", "1": "black and white", "P": "palette", "CMYK": "print colours", "RGBA": "with transparency"}


def is_rgb(data: bytes) -> bool:
  """Returns True if an image is stored as 8-bit RGB or grey, which all decoders read alike."""
  return Image.open(io.BytesIO(data), formats=pictures.FORMATS).mode in ("RGB", "L")


def decode_mask(data: bytes, name: str) -> np.ndarray:
  """Decodes a mask to its stored values, uint8 `[H, W]`: a palette mask to its indices, never to colours.

  Raises ValueError if the file is damaged or truncated, or not a single-channel 8-bit PNG.
  """
  image, _ = _open(data, name)
  if image.format != "PNG" or image.mode not in ("L", "P", "1"):
    raise ValueError(
      f"{name} is a {image.format} of mode {image.mode}. Save the mask as a PNG with one 8-bit channel, grey or "
      "palette, of class numbers."
    )
  stored = np.asarray(image).astype(np.uint8)
  return stored // _grey_step(data) if image.mode == "L" else stored


def decode_colours(data: bytes, name: str) -> np.ndarray:
  """Decodes a colour-coded mask to RGB uint8 `[H, W, 3]`. Raises ValueError unless it is an RGB or palette PNG."""
  image, _ = _open(data, name)
  if image.format != "PNG" or image.mode not in ("RGB", "P"):
    raise ValueError(
      f"{name} is a {image.format} of mode {image.mode}, but classes.txt lists colours. Save the mask as an RGB PNG, "
      "or list values in classes.txt."
    )
  return np.asarray(image.convert("RGB"))


def decode_instances(data: bytes, name: str) -> np.ndarray:
  """Decodes a PNG of instance ids to uint16 `[H, W]`. Raises ValueError if the file is anything else."""
  image, _ = _open(data, name)
  if image.format != "PNG" or image.mode not in ("I;16", "I", "L"):
    raise ValueError(f"{name} is a {image.format} of mode {image.mode}: instance ids must be a PNG with one channel.")
  return np.asarray(image).astype(np.uint16)


def _open(data: bytes, name: str) -> tuple[Image.Image, int]:
  """Decodes a mask; unlike those of an image, its values may have 16 bits."""
  return pictures.decode(data, name, deep=True)


def _grey_step(png: bytes) -> int:
  """Returns the factor by which decoders stretch the values of a grey PNG with fewer than 8 bits."""
  depth, colour_type = png[_PNG_DEPTH], png[_PNG_DEPTH + 1]
  return 255 // (2**depth - 1) if colour_type == 0 and depth < 8 else 1


def encode_mask(mask: np.ndarray) -> bytes:
  """Encodes a mask, uint8 `[H, W]`, as a single-channel PNG; without row filters, because that decodes fastest."""
  return pictures.encode(mask, ".png", [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE])


def encode_jpeg(image: np.ndarray) -> bytes:
  """Encodes RGB uint8 `[H, W, 3]` as a JPEG of quality 95. Raises ValueError for more than 65,500 pixels per side."""
  return pictures.encode(image, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])


def encode_png(image: np.ndarray) -> bytes:
  """Encodes RGB uint8 `[H, W, 3]` as a PNG."""
  return pictures.encode(image, ".png")
