"""Strict decoding of images and masks: files that readers could interpret differently are rejected."""

import io

import cv2
import numpy as np
from PIL import Image

from data.faults import change_masks
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

  Raises ValueError with the likely cause if the file is damaged or truncated, or not a single-channel 8-bit PNG.
  """
  image = _without_opacity(_open(data, name)[0])
  if image.format != "PNG" or image.mode not in ("L", "P", "1"):
    raise ValueError(
      f"{name} is a {image.format} of mode {image.mode}. Save the mask as a PNG with one 8-bit channel, grey or "
      f"palette, of class numbers.{_jpeg_cause(image)}{_channel_cause(image, name)}{_depth_cause(image, name)}"
    )
  stored = np.asarray(image).astype(np.uint8)
  return stored // _grey_step(data) if image.mode == "L" else stored


def decode_colours(data: bytes, name: str) -> np.ndarray:
  """Decodes a colour-coded mask to the RGB that viewers show, uint8 `[H, W, 3]`: grey and opaque files, too.

  Raises ValueError if the file is damaged or truncated, not an 8-bit PNG, or partly transparent.
  """
  image = _without_opacity(_open(data, name)[0])
  if image.format == "PNG" and image.mode in ("RGBA", "LA"):
    raise ValueError(
      f"{name} has transparent pixels, whose colour viewers do not show. Save the mask without transparency. "
      + change_masks("make them black", "I.alpha_composite(I.new('RGBA', i.size, 'black'), i.convert('RGBA'))", name)
    )
  if image.format != "PNG" or image.mode not in ("RGB", "P", "L", "1"):
    raise ValueError(
      f"{name} is a {image.format} of mode {image.mode}, but classes.txt lists colours. Save the mask as an RGB PNG, "
      f"or list values in classes.txt.{_jpeg_cause(image)}"
    )
  return np.asarray(image.convert("RGB"))


def _without_opacity(image: Image.Image) -> Image.Image:
  """Drops an alpha channel that is opaque everywhere."""
  if image.mode not in ("RGBA", "LA") or image.getchannel("A").getextrema() != (255, 255):
    return image
  opaque = image.convert(image.mode[:-1])
  opaque.format = image.format
  return opaque


def _jpeg_cause(image: Image.Image) -> str:
  if image.format != "JPEG":
    return ""
  return " JPEG changes values near edges, and converting the file does not bring them back: export it again as PNG."


def _depth_cause(image: Image.Image, name: str) -> str:
  if image.mode not in ("I", "I;16", "I;16B") or image.getextrema()[1] > 255:
    return ""
  return " " + change_masks("convert it, as its numbers fit", "i.convert('L')", name)


def _channel_cause(image: Image.Image, name: str) -> str:
  """Returns the cause if a colour mask holds class numbers in one or in all of its channels, or else its colours."""
  if image.format != "PNG" or image.mode not in ("RGB", "RGBA"):
    return ""
  channels = [np.asarray(image)[..., index] for index in range(3)]
  filled = [index for index in range(3) if channels[index].any()]
  if len(filled) == 1 or (len(filled) == 3 and all((channel == channels[0]).all() for channel in channels)):
    letter = "RGB"[filled[0]]
    others = "are 0" if len(filled) == 1 else "repeat it"
    keep = change_masks("keep that one", f"i.convert('RGB').getchannel('{letter}')", name)
    return f" Its numbers are in channel {letter}; the others {others}. {keep}"
  if not filled:
    return ""
  found = np.unique(np.asarray(image)[..., :3].reshape(-1, 3), axis=0)[:5].tolist()
  shown = " ".join(",".join(map(str, colour)) for colour in found)
  return (
    f" It shows colours ({shown}): to read those, list them in classes.txt, for instance road = {shown.split()[-1]}."
  )


def stored_palette(data: bytes) -> np.ndarray | None:
  """Returns the colours of a palette file, RGB uint8 `[N, 3]`, without decoding its pixels; None without a palette."""
  image = Image.open(io.BytesIO(data))
  return np.frombuffer(image.palette.palette, np.uint8).reshape(-1, 3) if image.mode == "P" else None


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
