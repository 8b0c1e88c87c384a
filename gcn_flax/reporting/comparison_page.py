"""The page `compare.html`: several runs beside each other."""

import numpy as np

from gcn_flax.reporting import comparison, rendering
from gcn_flax.visualize import charts
from gcn_flax.visualize.tables import TITLES

_MAX_CLASSES = 150  # In the table of classes.


def render(runs: comparison.Runs, panel: np.ndarray | None) -> str:
  """Renders the page.

  Args:
    runs: the runs by name.
    panel: pictures with the predictions of the runs, RGB uint8 `[H, W, 3]`; None if there are none.

  Raises:
    ImportError: if Jinja or matplotlib is not installed.
  """
  return rendering.render(
    "compare.html",
    title="Comparison of runs",
    subtitle=", ".join(runs),
    names=list(zip(runs, charts.colours(len(runs)), strict=True)),
    facts=comparison.facts(runs),
    metrics=comparison.metrics(runs),
    settings=comparison.differing_settings(runs),
    classes=comparison.classes(runs)[:_MAX_CLASSES],
    charts=_curves(runs),
    panel="" if panel is None else rendering.jpeg_source(panel),
  )


def _curves(runs: comparison.Runs) -> list[tuple[str, str]]:
  """Returns (title, source) of each chart in which a run has more than one point."""
  found = [
    ("Training loss", "loss", {name: run.series("loss") for name, run in runs.items()}),
    ("Learning rate", "learning rate", {name: run.series("learning_rate") for name, run in runs.items()}),
  ]
  for metric in dict.fromkeys(run.main_metric for run in runs.values()):
    curves = {name: run.evaluated(metric) for name, run in runs.items() if run.main_metric == metric}
    percents = {name: (steps, [100 * value for value in values]) for name, (steps, values) in curves.items()}
    found.append((f"{TITLES[metric][0].upper()}{TITLES[metric][1:]}", f"{TITLES[metric]}, %", percents))
  return [
    (title, rendering.svg_source(charts.lines(series, "step", label)))
    for title, label, series in found
    if any(len(steps) > 1 for steps, _ in series.values())
  ]
