"""A picture of effective receptive fields, as the paper's Figure 3: heat maps side by side and their mass by radius."""

import io
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from gcn_flax.evaluation.receptive_field import SHARES, Field
from gcn_flax.printable import printable
from gcn_flax.visualize import charts

_DECADES = 2.5  # Of the colour scale: lower values are black.
_BRIGHTEST = 99.8  # Percentile of the values that gets the brightest colour: single pixels are far above the others.
_BLUR = 1.5  # Standard deviation of the smoothing of the maps, pixels: gradients change from pixel to pixel.


def draw(
  titles: Sequence[str], means: Sequence[Field], singles: Sequence[Field], picture: np.ndarray, num_pictures: int
) -> bytes:
  """Draws fields of several networks side by side: on one picture, as the mean over all, and as mass by radius.

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
  with matplotlib.rc_context({"text.parse_math": False, "font.size": 9}):
    figure = Figure(figsize=(max(6.5, 2.6 * len(titles) + 0.4), 8.4), layout="constrained", dpi=110)
    upper, lower = figure.subfigures(2, 1, height_ratios=(1.9, 1))
    axes = upper.subplots(2, len(titles), squeeze=False)
    _show_row(axes[0], singles, 0.7 * picture / 255)
    _show_row(axes[1], means, np.zeros((1, 1, 3)))
    for column, (title, mean) in enumerate(zip(titles, means, strict=True)):
      axes[0, column].set_title(title, fontsize=10)
      _draw_circles(axes[1, column], mean)
    axes[0, 0].set_ylabel("one picture")
    axes[1, 0].set_ylabel(f"mean of {num_pictures} pictures")
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
  """Draws the circles that hold `SHARES` of the mass."""
  from matplotlib.patches import Circle

  for share in SHARES:
    radius = field.radius_of(share)
    ax.add_patch(Circle(field.pixel[::-1], radius, fill=False, color="white", linewidth=1, linestyle="--"))
    row = max(field.mass.shape[0] // 25, field.pixel[0] - radius)
    ax.text(
      field.pixel[1], row, f"{100 * share:.0f} %: {radius} px", color="white", fontsize=8, ha="center", va="center"
    )


def _draw_curves(ax: Any, titles: Sequence[str], fields: Sequence[Field]) -> None:
  """Draws the share of the mass outside of each radius, one line for each field."""
  for title, field, colour in zip(titles, fields, charts.colours(len(titles)), strict=True):
    ax.plot(100 * (1 - field.mass_by_radius()), color=colour, linewidth=1.8, label=" ".join(title.split("\n")))
  ax.set(xlabel="radius around the pixel, pixels", ylabel="gradient outside the radius, %", ylim=(0, 100))
  ax.margins(x=0)
  ax.grid(alpha=0.25)
  ax.legend(frameon=False)
  for side in ("top", "right"):
    ax.spines[side].set_visible(False)
