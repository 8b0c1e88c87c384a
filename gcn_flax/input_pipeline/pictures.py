"""Reads and encodes picture files: one reader for data preparation and for prediction."""

import contextlib
import io
import json
import os
import pathlib
import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from PIL import Image, ImageOps

from gcn_flax.messages import python_command

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")  # Pillow knows many more, and starts Ghostscript for some.
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")  # Of the pictures in a folder.
MAX_PIXELS = 2**28  # Decoding takes about 7 bytes of memory per pixel.
MAX_SIDE = 1_000_000  # The limit of libpng, pixels.
MAX_JPEG_SIDE = 65_500  # The limit of libjpeg, pixels.
_MODES = ("RGB", "L", "P", "1", "RGBA", "RGBX", "RGBa", "LA", "PA", "CMYK", "YCbCr")  # 8 bits per channel.
_DEEP_MODES = ("I;16", "I;16B", "I")  # One channel of 16 or 32 bits.
_ORIENTATION = 0x0112  # The EXIF tag.
_TIFF_DEPTH = 258  # The tag BitsPerSample.
_TIFF_KIND = 254  # The tag NewSubfileType.
_MAX_PAGES = 100  # Of a TIFF, that are looked at: Pillow takes seconds for thousands.
_TIFF_EXTRA = 1 | 4  # Its bits for a reduced copy of another page, and for a transparency mask.
_PNG_DEPTH = 24  # Offset of the bit depth in the file (PNG specification, 11.2.1).

# Pillow refuses more than twice as many pixels before it decodes any; it would warn from here on.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


Picture = np.ndarray | str | os.PathLike | Image.Image  # A picture as a user of the Python API has it.


def is_picture(value: object) -> bool:
  """Returns True for what `as_rgb` may take, False for what may be several of them."""
  return isinstance(value, Picture)


def as_rgb(picture: Picture) -> tuple[np.ndarray, str]:
  """Returns a picture as RGB uint8 `[H, W, 3]`, and what to call it in messages.

  Args:
    picture: RGB uint8 `[H, W, 3]`; the path of a file, read by `read_picture`; or a Pillow image, whose EXIF
      orientation is applied.

  Raises:
    ValueError: for anything else, and as `read_picture`.
    OSError: if a file cannot be opened.
  """
  if isinstance(picture, Image.Image):
    name = getattr(picture, "filename", "") or "the image"
    if picture.mode not in _MODES:
      raise ValueError(f"{name} has mode {picture.mode}. Convert it to 8-bit RGB.")
    with _named(name):
      picture = ImageOps.exif_transpose(picture)
    return to_rgb(picture, name), name
  if isinstance(picture, np.ndarray):
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
      raise ValueError(f"the image is {picture.dtype} {list(picture.shape)}: must be RGB uint8 [H, W, 3].")
    return picture, "the image"
  if isinstance(picture, str | os.PathLike):
    path = pathlib.Path(picture).expanduser()
    return read_picture(path), str(path)
  raise ValueError(f"{type(picture).__name__} is no image. Use RGB uint8 [H, W, 3], a path, or a Pillow image.")


def read_picture(path: pathlib.Path) -> np.ndarray:
  """Reads a picture as viewers show it, RGB uint8 `[H, W, 3]`: EXIF orientation is applied, transparency dropped.

  Raises:
    ValueError: as `decode`.
    OSError: if the file cannot be opened.
  """
  return decode_rgb(path.read_bytes(), str(path))


def decode_rgb(data: bytes, name: str) -> np.ndarray:
  """Decodes the content of a file as `read_picture` does, RGB uint8 `[H, W, 3]`. Raises ValueError as `decode`."""
  image, _ = decode(data, name)
  with _named(name):
    upright = ImageOps.exif_transpose(image)
  return to_rgb(upright, name)


def to_rgb(image: Image.Image, name: str) -> np.ndarray:
  """Converts a decoded picture to RGB uint8 `[H, W, 3]`. Raises ValueError if Pillow cannot convert its mode."""
  with _named(name):
    return np.array(image.convert("RGB"))


def decode(data: bytes, name: str, deep: bool = False) -> tuple[Image.Image, int]:
  """Decodes a picture completely, and returns it with its EXIF orientation, 1 if it has none.

  Args:
    data: content of the file.
    name: name of the file, for error messages.
    deep: if True, one channel of 16 or 32 bits is accepted, too.

  Raises:
    ValueError: if the file is damaged, truncated or not in one of `FORMATS`; if it has more than `MAX_PIXELS` pixels,
      more than `MAX_SIDE` along a side, several pages or frames, or more than 8 bits per channel.
  """
  with _named(name):
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    pages = _pages(image)
  if max(image.size) > MAX_SIDE:
    raise ValueError(f"{name} is {image.height} x {image.width}, longer than {MAX_SIDE:,} pixels. Cut it into pieces.")
  if pages > 1:
    first = f"{pathlib.PurePath(name).stem}_0.png"
    command = python_command(f"from PIL import Image; Image.open({json.dumps(name)}).save({json.dumps(first)})")
    shown = f"{pages} or more" if pages == _MAX_PAGES else pages
    raise ValueError(f"{name} holds {shown} pages or frames. Save the one to read as a file of its own: {command}")
  with _named(name):
    # Loading a TIFF rotates it and removes the tag; a PNG may store the tag after its pixels.
    before = image.getexif().get(_ORIENTATION, 1)
    image.load()
    orientation = max(before, image.getexif().get(_ORIENTATION, 1))
    depth = _depth(image, data)
  if not (deep and image.mode in _DEEP_MODES):
    if depth > 8:  # Pillow would silently round or clip the values.
      raise ValueError(f"{name} has {depth} bits per channel. {_to_8_bits(data, name)}")
    if image.mode not in _MODES:
      raise ValueError(f"{name} has mode {image.mode}. Convert it to 8-bit RGB.")
  return image, orientation


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
  """Raises ValueError with the name of the file for whatever Pillow raises, which is all kinds of errors."""
  try:
    yield
  except Image.UnidentifiedImageError as error:
    raise ValueError(
      f"{name} is damaged or truncated, or not an 8-bit grey or colour picture of the formats {', '.join(FORMATS)}. "
      "Replace or convert it."
    ) from error
  except Image.DecompressionBombError as error:
    raise ValueError(f"{name} has more than {MAX_PIXELS:,} pixels. Cut it into pieces.") from error
  except Exception as error:
    text = re.sub(r" ?<_io\S+ object at \w+>", "", " ".join(str(error).split())) or type(error).__name__
    raise ValueError(f"{name} is damaged or truncated ({text[:300]}). Replace the file.") from error


def _pages(image: Image.Image) -> int:
  """Returns the number of pages or frames; a first page with reduced copies and masks of it counts as one."""
  if image.format == "MPO":  # A photo with a preview or a depth map, which viewers take for a JPEG.
    return 1
  if image.format == "TIFF":
    return _tiff_pages(image)
  return getattr(image, "n_frames", 1)


def _tiff_pages(image: Image.Image) -> int:
  """Returns the number of pages of a TIFF as `_pages` does, `_MAX_PAGES` if it has more."""
  kinds = []
  with contextlib.suppress(EOFError):  # There is no such page.
    for page in range(_MAX_PAGES):
      image.seek(page)
      kinds.append(image.tag_v2.get(_TIFF_KIND, 0))
  image.seek(0)
  is_one = len(kinds) < _MAX_PAGES and [page for page, kind in enumerate(kinds) if not kind & _TIFF_EXTRA] == [0]
  return 1 if is_one or len(kinds) == 1 else len(kinds)


def _depth(image: Image.Image, data: bytes) -> int:
  """Returns the bits per channel, for formats that can have more than 8."""
  if image.format == "PNG":
    return data[_PNG_DEPTH]
  if image.format == "TIFF":
    return max(image.tag_v2.get(_TIFF_DEPTH, (8,)))
  return 8


def _to_8_bits(data: bytes, name: str) -> str:
  """Returns the advice to convert a picture of more than 8 bits, with a range that suits its values."""
  try:
    highest = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED).max()
    white = 2 ** max(8, int(highest).bit_length()) - 1 if highest > 1 else 1
  except (cv2.error, AttributeError, OverflowError):  # OpenCV returns None for most of what it cannot read.
    return "Convert it to 8-bit RGB."
  flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
  result = f"{pathlib.PurePath(name).stem}_8bit.png"
  command = python_command(
    f"import cv2; picture = cv2.imread({json.dumps(name)}, {flags}); "
    f"cv2.imwrite({json.dumps(result)}, cv2.convertScaleAbs(picture, None, 255 / {white}))"
  )
  return (
    f"Its values reach {highest:g}. Convert all pictures to 8 bits by the same range, for instance 0 to {white}: "
    f"{command}"
  )


def encoded_size(data: bytes) -> tuple[int, int]:
  """Returns (height, width) of an encoded picture as stored, from its header. Raises ValueError if that is damaged."""
  with _named("the picture"), Image.open(io.BytesIO(data), formats=FORMATS) as image:
    return image.height, image.width


def encode(image: np.ndarray, suffix: str, options: Sequence[int] = ()) -> bytes:
  """Encodes uint8 `[H, W]`, or RGB uint8 `[H, W, 3]`, in the format of a suffix such as `.png`.

  Args:
    image: the picture.
    suffix: `.png` or `.jpg`.
    options: OpenCV's flags and their values, in turn.

  Raises:
    ValueError: for another suffix, and for a picture that the format cannot hold.
  """
  try:
    done, data = cv2.imencode(suffix, image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
  except cv2.error:
    done = False
  if not done:
    raise ValueError(
      f"{image.shape[0]} x {image.shape[1]} pixels cannot be written as {suffix!r}. Use .png, or .jpg for up to "
      f"{MAX_JPEG_SIDE:,} pixels per side."
    )
  return data.tobytes()


def check_image_id(image_id: str) -> None:
  """Raises ValueError unless an image id is a relative path, inside its folder, that fits on a line of UTF-8 text."""
  if any(part in ("", ".", "..") for part in image_id.split("/")):
    raise ValueError(f"the image id {image_id!r} is no path inside a folder. Rename the image.")
  if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in image_id):
    raise ValueError(f"the image id {image_id!r} contains control characters or is not UTF-8. Rename the image.")
