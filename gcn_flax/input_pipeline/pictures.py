"""Reads pictures that are in no data set."""

import pathlib

import numpy as np
from PIL import Image, ImageOps

_MODES = ("RGB", "L", "P", "1", "RGBA", "LA", "PA", "CMYK", "YCbCr", "LAB", "HSV")


def read_picture(path: pathlib.Path) -> np.ndarray:
  """A picture as viewers show it, RGB uint8 `[H, W, 3]`: turned as its EXIF orientation asks, without transparency.

  Raises ValueError, naming the file, where it cannot be read to its end, or is of a kind that Pillow does not bring to
  8 bits a channel.
  """
  try:
    with Image.open(path) as image:
      image.load()
      if image.mode not in _MODES:
        raise ValueError(f"it is of mode {image.mode}, not of 8 bits a channel")
      return np.array(ImageOps.exif_transpose(image).convert("RGB"))
  except Exception as error:  # Decoders of damaged files raise what they like.
    raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
