"""A picture of effective receptive fields, as the paper's Figure 3: heat maps side by side and their mass by radius."""

import io
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from gcn_flax.evaluation.receptive_field import SHARES, Field
from gcn_flax.printable import printable
from gcn_flax.visualize import charts

_DECADES = 3.5  # Of the colour scale: lower values are black.
_BRIGHTEST = 99.8  # Percentile of the values that gets the brightest colour: single pixels are far above the others.
_BLUR = 1.5  # Standard deviation of the smoothing of the maps, pixels: gradients change from pixel to pixel.


def draw(
  titles: Sequence[str], means: Sequence[Field], singles: Sequence[Field], picture: np.ndarray, num_pictures: int
) -> bytes:
  """Draws fields of several networks side by side: on one picture, the mean over several, and their mass by radius.

  Args:
    titles: title of each network; may have several lines.
    means: field of each network, the mean over the pictures.
    singles: field of each network for one picture.
    picture: that picture, RGB uint8 `[H, W, 3]`.
    num_pictures: number of pictures in the mean.

  Returns:
    The content of a PNG.

  Raises:
    ImportError: if matplotlib is not installed.
  """
  import matplotlib  # Imported here: it takes half a second, and few commands need it.
  from matplotlib.figure import Figure

  titles = ["\n".join(map(printable, title.split("\n"))) for title in titles]
  rows = [("the picture" if num_pictures == 1 else "one picture", singles, 0.7 * picture / 255)]
  rows += [(f"mean of {num_pictures} pictures", means, np.zeros((1, 1, 3)))] if num_pictures > 1 else []
  with matplotlib.rc_context({"text.parse_math": False, "font.size": 9}):
    size = max(6.5, 2.6 * len(titles) + 0.4), 2.7 * len(rows) + 3
    figure = Figure(figsize=size, layout="constrained", dpi=110)
    upper, lower = figure.subfigures(2, 1, height_ratios=(2.7 * len(rows) + 0.2, 2.8))
    axes = upper.subplots(len(rows), len(titles), squeeze=False)
    for row, (label, fields, backdrop) in zip(axes, rows, strict=True):
      _show_row(row, fields, backdrop)
      row[0].set_ylabel(label)
    for column, (title, mean) in enumerate(zip(titles, means, strict=True)):
      axes[0, column].set_title(title, fontsize=10)
      _draw_circles(axes[-1, column], mean)
    _draw_curves(lower.subplots(), titles, means)
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
  return content.getvalue()


def _show_row(axes: Sequence[Any], fields: Sequence[Field], backdrop: np.ndarray) -> None:
  """Draws fields over a backdrop, RGB `[h, w, 3]` from 0 to 1, on one logarithmic colour scale for all."""
  import matplotlib

  smooth = [cv2.GaussianBlur(field.mass, (0, 0), _BLUR) for field in fields]
  brightest = max(np.percentile(each, _BRIGHTEST) for each in smooth)
  for ax, each, field in zip(axes, smooth, fields, strict=True):
    level = np.clip(1 + np.log10(np.maximum(each / brightest, 1e-30)) / _DECADES, 0, 1)[..., None]
    heat = matplotlib.colormaps["inferno"](level[..., 0])[..., :3]
    ax.imshow(heat * level + backdrop * (1 - level))
    ax.plot(field.pixel[1], field.pixel[0], "+", color="#22d3ee", markersize=10, markeredgewidth=1.5)
    ax.set(xticks=[], yticks=[], autoscale_on=False)


def _draw_circles(ax: Any, field: Field) -> None:
  """Draws the circles that hold `SHARES` of the mass, and writes their radii below."""
  from matplotlib.patches import Circle

  radii = {share: field.radius_of(share) for share in SHARES}
  for radius in radii.values():
    ax.add_patch(Circle(field.pixel[::-1], radius, fill=False, color="white", linewidth=1, linestyle="--"))
  ax.set_xlabel(", ".join(f"{100 * share:.0f} % within {radius} px" for share, radius in radii.items()))


def _draw_curves(ax: Any, titles: Sequence[str], fields: Sequence[Field]) -> None:
  """Draws the share of the mass outside of each radius, one line for each field."""
  for title, field, colour in zip(titles, fields, charts.colours(len(titles)), strict=True):
    ax.plot(100 * (1 - field.mass_by_radius()), color=colour, linewidth=1.8, label=title.replace("\n", ": "))
  ax.set(xlabel="radius around the pixel, pixels", ylabel="gradient outside the radius, %", ylim=(0, 100))
  ax.margins(x=0)
  ax.grid(alpha=0.25)
  ax.legend(frameon=False)
  for side in ("top", "right"):
    ax.spines[side].set_visible(False)
