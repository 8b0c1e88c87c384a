"""Text in pictures, in any script that this machine has a font for."""

import functools

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gcn_flax.printable import printable

# Pillow looks for these in the folders of the system. They have Chinese, Japanese and Korean letters.
_SYSTEM_FONTS = (
  "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "SourceHanSans.ttc", "wqy-microhei.ttc", "wqy-zenhei.ttc",
  "DroidSansFallbackFull.ttf", "Arial Unicode.ttf", "msyh.ttc", "DejaVuSans.ttf",
)  # fmt: skip
_SIZE = 13  # Of a letter, pixels.


def draw_text(picture: np.ndarray, text: str, left: int, bottom: int, outlined: bool = False) -> None:
  """Draws a line of text into RGB uint8 `[H, W, 3]`, black; or white with a black outline.

  Letters that no font of this machine has are drawn as escapes, such as `\\u9053`.

  Args:
    picture: changed in place.
    text: the text; what cannot be printed is escaped.
    left, bottom: where it begins, and its baseline, pixels.
    outlined: draws white letters with a black outline.
  """
  text = printable(text)
  font = None if text.isascii() else _font(text)
  if font is None:
    text = text.encode("ascii", "backslashreplace").decode()
    for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)) if outlined else (((0, 0, 0), 1),):
      cv2.putText(picture, text, (left, bottom), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, thickness, cv2.LINE_AA)
    return
  image = Image.fromarray(picture)
  colours = {"fill": "white", "stroke_fill": "black", "stroke_width": 1} if outlined else {"fill": "black"}
  ImageDraw.Draw(image).text((left, bottom), text, font=font, anchor="ls", **colours)
  picture[:] = np.asarray(image)


def _font(text: str) -> ImageFont.FreeTypeFont | None:
  """Returns the first font that has all letters of a text; None if there is none."""
  return next((font for font in _fonts() if _has_letters(font, text)), None)


@functools.cache
def _fonts() -> list[ImageFont.FreeTypeFont]:
  found = [ImageFont.load_default(_SIZE)]
  for name in _SYSTEM_FONTS:
    try:
      found.append(ImageFont.truetype(name, _SIZE))
    except OSError:  # Not installed.
      continue
  return [font for font in found if isinstance(font, ImageFont.FreeTypeFont)]  # Pillow may lack FreeType.


def _has_letters(font: ImageFont.FreeTypeFont, text: str) -> bool:
  missing = bytes(font.getmask("\U0010fffd"))  # The picture of a letter that a font lacks: this one is in none.
  return all(bytes(font.getmask(letter)) != missing for letter in set(text) if not letter.isspace())
