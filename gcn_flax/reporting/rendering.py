"""Renders pages: one file each, with pictures inside, readable without a network."""

import base64
import pathlib
from typing import Any

import numpy as np

from gcn_flax.printable import printable
from gcn_flax.visualize import overlay


def render(template: str, **variables: Any) -> str:
  """Renders a template of this folder. Raises ImportError if Jinja is not installed."""
  import jinja2  # Imported here: training machines may lack it.

  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    undefined=jinja2.StrictUndefined,
  )
  text = environment.get_template(template).render(variables)
  return "\n".join(map(printable, text.split("\n")))


def jpeg_source(picture: np.ndarray) -> str:
  """Returns a picture, RGB uint8 `[H, W, 3]`, as the source of an image in a page."""
  return _source("image/jpeg", overlay.encode_jpeg(picture))


def svg_source(svg: str) -> str:
  """Returns a chart as the source of an image in a page."""
  return _source("image/svg+xml", svg.encode())


def _source(kind: str, content: bytes) -> str:
  return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def colour(rgb: tuple[int, int, int]) -> str:
  """Returns a colour as CSS writes it."""
  return f"rgb{tuple(map(int, rgb))}"


def percent(value: float | None) -> str:
  """Formats a share in percent with one decimal; `-` for None and NaN."""
  return decimal(None if value is None or np.isnan(value) else 100 * value)


def decimal(value: float | None) -> str:
  """Formats a number with one decimal; `-` for None."""
  return "-" if value is None else f"{value:.1f}"
