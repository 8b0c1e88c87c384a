"""Reads pictures and masks the strict way: what another reader might take for something else is refused."""

import io

import cv2
import numpy as np
from PIL import Image

_ORIENTATION = 0x0112  # The EXIF tag.
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG_QUALITY = 95


def decode_rgb(data: bytes, name: str, published: bool = False) -> np.ndarray:
  """Decodes every pixel of a picture to RGB uint8 `[H, W, 3]`.

  Args:
    data: of the file.
    name: of the file, for errors.
    published: whether its labels are known to belong to the pixels as they are stored, whatever
      the file says of its orientation, and grey pictures are known to be among them (COCO).

  Raises:
    ValueError: where it cannot be decoded to the end, is not 8-bit RGB, or asks to be turned.
  """
  image, orientation = _open(data, name)
  if image.mode != "RGB" and not (published and image.mode == "L"):
    kind = _MODES.get(image.mode, "unusual")
    raise ValueError(f"{name} is a picture of mode {image.mode} ({kind}): convert it to 8-bit RGB.")
  if orientation != 1 and not published:
    raise ValueError(
      f"{name} asks by EXIF orientation {orientation} to be turned: turn its pixels and remove the tag "
      "(for instance mogrify -auto-orient), and see that the mask fits."
    )
  return np.asarray(image.convert("RGB"))


_MODES = {"L": "grey", "1": "black and white", "P": "palette", "CMYK": "four inks", "RGBA": "with transparency"}
_MODES.update(dict.fromkeys(("I", "I;16", "I;16B", "F"), "16 or 32 bits"))


def decode_mask(data: bytes, name: str) -> np.ndarray:
  """Decodes a mask to the numbers it stores, uint8 `[H, W]`: a palette mask to its indices, never to colours.

  Raises ValueError where it cannot be decoded to the end or stores something else.
  """
  image, _ = _open(data, name)
  if image.format != "PNG" or image.mode not in ("L", "P", "1"):
    raise ValueError(
      f"{name} is a {image.format} of mode {image.mode}: a mask must be a PNG of one 8-bit channel, grey or palette, "
      "that holds class numbers."
    )
  stored = np.asarray(image).astype(np.uint8)
  return stored // _grey_step(data) if image.mode == "L" else stored


def decode_colours(data: bytes, name: str) -> np.ndarray:
  """Decodes a mask that tells classes by colour to RGB uint8 `[H, W, 3]`. Raises ValueError as `decode_mask`."""
  image, _ = _open(data, name)
  if image.format != "PNG" or image.mode not in ("RGB", "P"):
    raise ValueError(f"{name} is a {image.format} of mode {image.mode}: classes.txt asks for a PNG of colours.")
  return np.asarray(image.convert("RGB"))


def _open(data: bytes, name: str) -> tuple[Image.Image, int]:
  """The picture, decoded to its end, and its EXIF orientation, 1 where it has none."""
  try:
    image = Image.open(io.BytesIO(data))
    image.load()
    if data[:8] == _PNG:
      _check_header(data)
    return image, image.getexif().get(_ORIENTATION, 1)
  except Exception as error:  # Pillow raises whatever its parsers stumble over.
    raise ValueError(f"{name} cannot be read to its end ({error}).") from error


def _check_header(png: bytes) -> None:
  """Raises ValueError for 16-bit colours, which Pillow would round to 8 bits without a word."""
  if png[24] == 16 and png[25] in (2, 6):
    raise ValueError("it has 16 bits a channel, convert it to 8-bit RGB")


def _grey_step(png: bytes) -> int:
  """What decoders multiply the values of a grey PNG of fewer than 8 bits by, to spread them to 255."""
  depth, colour_type = png[24], png[25]  # Of the header chunk, which comes first (PNG specification, 11.2.1).
  return 255 // (2**depth - 1) if colour_type == 0 and depth < 8 else 1


def encode_mask(mask: np.ndarray) -> bytes:
  """A mask uint8 `[H, W]` as a PNG of one channel; without row filters, which masks decode fastest."""
  return cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE])[1].tobytes()


def encode_jpeg(image: np.ndarray) -> bytes:
  """RGB uint8 `[H, W, 3]` as a JPEG of quality 95."""
  quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
  return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)[1].tobytes()


def encode_png(image: np.ndarray) -> bytes:
  """RGB uint8 `[H, W, 3]` as a PNG."""
  return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
