"""Reads picture files that are not part of a data set."""

import pathlib

import numpy as np
from PIL import Image, ImageOps

_MODES = ("RGB", "L", "P", "1", "RGBA", "LA", "PA", "CMYK", "YCbCr", "LAB", "HSV")


def read_picture(path: pathlib.Path) -> np.ndarray:
  """Reads a picture as viewers show it, RGB uint8 `[H, W, 3]`: EXIF orientation is applied, transparency dropped.

  Raises:
    ValueError: if the file is damaged or truncated, or does not have 8 bits per channel.
  """
  try:
    with Image.open(path) as image:
      image.load()
      if image.mode not in _MODES:
        raise ValueError(f"its mode {image.mode} does not have 8 bits per channel; convert it to RGB")
      return np.array(ImageOps.exif_transpose(image).convert("RGB"))
  except Exception as error:  # Decoders raise all kinds of errors for damaged files.
    raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
