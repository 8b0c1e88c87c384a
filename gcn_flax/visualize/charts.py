"""Charts, as SVG text."""

import functools
import io
import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from gcn_flax.printable import printable

_INK = "#1f2933"
_ACCENT = ("#2563eb", "#d97706", "#059669", "#7c3aed", "#dc2626", "#0891b2", "#be185d", "#65a30d")
_MAX_ANNOTATED = 25  # Classes; the cells of larger confusion matrices show no numbers.

Points = tuple[Sequence[float], Sequence[float]]


def colours(count: int) -> list[str]:
  """Returns a colour for each of several lines, `#rrggbb`; the ninth is the first one again."""
  return [_ACCENT[index % len(_ACCENT)] for index in range(count)]


def _plain_text(draw: Callable[..., str]) -> Callable[..., str]:
  """Decorates a chart: the same one is drawn each time, and names, as they are written, stay text for the browser."""

  @functools.wraps(draw)
  def drawn(*args, **kwargs) -> str:
    import matplotlib  # Imported here: it takes half a second, and only reports need it.

    # Names of the parts of a drawing are random without a salt.
    settings = {"text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "gcn_flax"}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
      warnings.filterwarnings("ignore", "Glyph .* missing")  # From the font that measures the text.
      return draw(*args, **kwargs)

  return drawn


@_plain_text
def lines(series: Mapping[str, Points], x_label: str, y_label: str, size: tuple[float, float] = (5.2, 3.2)) -> str:
  """Draws a line through the (x, y) points of each series, with a legend where there are several."""
  figure, axes = _figure(size)
  for (name, (x, y)), colour in zip(series.items(), colours(len(series)), strict=True):
    axes.plot(
      x, y, color=colour, label=printable(name), linewidth=1.6, marker="o" if len(x) < 30 else None, markersize=3
    )
  axes.set(xlabel=x_label, ylabel=y_label)
  axes.grid(alpha=0.25)
  if len(series) > 1:
    axes.legend(frameon=False, fontsize=8)
  return _svg(figure)


@_plain_text
def ranges(
  series: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float]]], x_label: str, y_label: str
) -> str:
  """Draws (x, mean, standard deviation) of each series with error bars; a single point becomes a horizontal line."""
  figure, axes = _figure((6.2, 3.6))
  for (name, (x, mean, deviation)), colour in zip(series.items(), colours(len(series)), strict=True):
    if len(x) == 1:
      axes.axhline(mean[0], color=colour, label=printable(name), linestyle="--", linewidth=1.3)
    else:
      axes.errorbar(x, mean, yerr=deviation, color=colour, label=printable(name), marker="o", markersize=4, capsize=3)
      axes.set_xticks(list(x))
  axes.set(xlabel=x_label, ylabel=y_label)
  axes.grid(alpha=0.25)
  axes.legend(frameon=False, fontsize=8)
  return _svg(figure)


@_plain_text
def histogram(values: Sequence[float], x_label: str, y_label: str) -> str:
  """Draws a histogram of values from 0 to 100, in 20 bins."""
  figure, axes = _figure((5.2, 3.2))
  axes.hist(values, bins=np.linspace(0, 100, 21), color=_ACCENT[0], edgecolor="white")
  axes.set(xlabel=x_label, ylabel=y_label)
  axes.grid(alpha=0.25, axis="y")
  return _svg(figure)


@_plain_text
def confusion(matrix: np.ndarray, names: Sequence[str]) -> str:
  """Draws a confusion matrix, rows = ground truth, in percent of each row.

  Args:
    matrix: int64 `[C, C]`.
    names: names of the classes.
  """
  totals = matrix.sum(1, keepdims=True)
  share = np.where(totals > 0, 100 * matrix / np.maximum(totals, 1), np.nan)
  side = 1.8 + 0.36 * len(names)
  figure, axes = _figure((side + 0.6, side))
  names = [printable(name) for name in names]
  axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
  axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
  axes.set_yticks(range(len(names)), names, fontsize=8)
  axes.set(xlabel="predicted", ylabel="ground truth")
  if len(names) <= _MAX_ANNOTATED:
    for row, column in np.argwhere(np.nan_to_num(share) >= 0.5):
      colour = "white" if share[row, column] > 55 else _INK
      axes.text(column, row, f"{share[row, column]:.0f}", ha="center", va="center", fontsize=7, color=colour)
  return _svg(figure)


def _figure(size: tuple[float, float]):
  from matplotlib.figure import Figure

  figure = Figure(figsize=size, layout="constrained")
  axes = figure.add_subplot()
  for side in ("top", "right"):
    axes.spines[side].set_visible(False)
  return figure, axes


def _svg(figure) -> str:
  content = io.StringIO()
  figure.savefig(content, format="svg", metadata={"Date": None})
  return content.getvalue()
