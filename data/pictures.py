"""Reads pictures and masks the strict way: what another reader might take for something else is refused."""

import io
import re

import cv2
import numpy as np
from PIL import Image

from data.faults import one_line

Image.MAX_IMAGE_PIXELS = None  # Aerial and medical pictures are large; these are the user's own.
_ORIENTATION = 0x0112  # The EXIF tag.
_TIFF_DEPTH = 258  # The tag BitsPerSample.
_PNG_DEPTH = 24  # Place of the bit depth, before the colour type, in the header chunk (PNG specification, 11.2.1).
_JPEG_QUALITY = 95


def decode_rgb(data: bytes, name: str, published: bool = False) -> np.ndarray:
  """Decodes every pixel of a picture to RGB uint8 `[H, W, 3]`.

  Args:
    data: of the file.
    name: of the file, for errors.
    published: whether its labels are known to belong to the pixels as they are stored, whatever the
      file says of orientation and of colours.

  Raises:
    ValueError: where it cannot be decoded to the end, is not 8-bit RGB, or asks to be turned.
  """
  image, orientation = _open(data, name)
  if image.mode != "RGB" and not published:
    kind = _MODES.get(image.mode, "unusual")
    raise ValueError(f"{name} is a picture of mode {image.mode} ({kind}): convert it to 8-bit RGB.")
  if orientation in range(2, 9) and not published:  # Other values turn nothing.
    raise ValueError(
      f"{name} asks by EXIF orientation {orientation} to be turned: turn its pixels and remove the tag "
      "(for instance mogrify -auto-orient), and see that the mask fits."
    )
  return np.asarray(image.convert("RGB"))


_MODES = {"L": "grey", "1": "black and white", "P": "palette", "CMYK": "four inks", "RGBA": "with transparency"}
_MODES.update(dict.fromkeys(("I", "I;16", "I;16B", "F"), "16 or 32 bits"))


def is_rgb(data: bytes) -> bool:
  """Whether a picture that can be opened is stored as 8-bit RGB or grey, which every decoder reads alike."""
  return Image.open(io.BytesIO(data)).mode in ("RGB", "L")


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


def decode_instances(data: bytes, name: str) -> np.ndarray:
  """Decodes a PNG of instance ids to uint16 `[H, W]`. Raises ValueError where it is something else."""
  image, _ = _open(data, name)
  if image.format != "PNG" or image.mode not in ("I;16", "I", "L"):
    raise ValueError(f"{name} is a {image.format} of mode {image.mode}: instance ids are a PNG of one channel.")
  return np.asarray(image).astype(np.uint16)


def _open(data: bytes, name: str) -> tuple[Image.Image, int]:
  """The picture, decoded to its end, and its EXIF orientation, 1 where it has none."""
  try:
    image = Image.open(io.BytesIO(data))
    depth = _depth(image, data)
    # TIFF files are turned, and their tag removed, by loading them; PNG files may tell it only after their pixels.
    before = image.getexif().get(_ORIENTATION, 1)
    image.load()
    orientation = max(before, image.getexif().get(_ORIENTATION, 1))
  except Exception as error:  # Pillow raises whatever its parsers stumble over.
    text = re.sub(r" ?<_io\S+ object at \w+>", "", one_line(error))
    raise ValueError(f"{name} cannot be read to its end ({text}).") from error
  if depth > 8 and image.mode in ("RGB", "RGBA"):  # Pillow rounds these to 8 bits without a word.
    raise ValueError(f"{name} has {depth} bits a channel: convert it to 8-bit RGB.")
  return image, orientation


def _depth(image: Image.Image, data: bytes) -> int:
  """Bits of a channel, where the format can have more than 8."""
  if image.format == "PNG":
    return data[_PNG_DEPTH]
  if image.format == "TIFF":
    return max(image.tag_v2.get(_TIFF_DEPTH, (8,)))
  return 8


def _grey_step(png: bytes) -> int:
  """What decoders multiply the values of a grey PNG of fewer than 8 bits by, to spread them to 255."""
  depth, colour_type = png[_PNG_DEPTH], png[_PNG_DEPTH + 1]
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
