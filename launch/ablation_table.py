"""The results of launch/ablation.py: where each run lies, its metrics, and a table of the paper made from them."""

import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

from configs import ablation
from gcn_flax import json_files
from gcn_flax.reporting import paper
from gcn_flax.visualize import charts, tables

# The files of a run that are read, as far as that.
_FORMS = {
  "config.json": {"total_steps": int, "batch_size": int, "eval": {}},
  "eval_validation.json": {"step": int},
  "run.json": {"commit": object, "devices": {"count": int, "kind": str}},
  "flags.json": [str],
}


def cells_of(table: int) -> list[str]:
  """Returns the names of a table's cells."""
  return [name for name in ablation.CELLS if name.startswith(f"table{table}-")]


def workdir_of(root: pathlib.Path, data: str, cell: str, seed: int) -> pathlib.Path:
  """Returns the workdir of a cell, which is named after its network."""
  model = ablation.get_config(f"{cell}:{data}").model
  parts = [*([model.backbone] if ablation.CELLS[cell]["backbone"] else []), model.head]
  parts += [] if model.head == "pointwise" else [f"k{model.kernel_size}"]
  parts += [f"w{model.stack_width}"] if model.stack_width else []
  parts += ["br"] if model.boundary_refine else []
  return root / data / "-".join(parts) / f"seed{seed}"


def read_json(path: pathlib.Path) -> Any:
  """Returns the content of one of the files in `_FORMS`, or None if it is missing. Raises ValueError if damaged."""
  return json_files.read(path, _FORMS[path.name], "Put it back, or use another --root.") if path.exists() else None


def final_metrics(workdir: pathlib.Path) -> dict[str, Any] | None:
  """Returns the metrics of a run's last step, or None if they are missing or were computed with other settings."""
  settings, found = (read_json(workdir / name) for name in ("config.json", "eval_validation.json"))
  if not settings or not found or found["step"] != settings["total_steps"]:
    return None
  return found if found.get("eval") == settings["eval"] else None


def measured_values(table: int, data: str, root: pathlib.Path, seeds: int) -> Callable[[paper.Figure], list[float]]:
  """Returns a function from a figure of the paper to the values measured for it, in percent, one per seed."""
  metrics = {
    cell: [final_metrics(workdir_of(root, data, cell, seed)) for seed in range(seeds)] for cell in cells_of(table)
  }
  return lambda figure: [100 * found[figure.measure] for found in metrics[figure.cell] if found]


def markdown(table: int, data: str, root: pathlib.Path, seeds: int, command: str) -> str:
  """Returns the table in Markdown, headed by the command and the hardware that produced it."""
  values = measured_values(table, data, root, seeds)
  lines = [
    f"Table {table} on {data}, measured with `{command}`; written on {time.strftime('%Y-%m-%d')}, "
    f"{_provenance(table, data, root, seeds)}. The paper's figures are as printed, for VOC 2012 validation and "
    f"{'its two encoders' if table == 6 else 'ResNet-152'}.",
    "",
    "| network | metric | measured, %: mean (deviation) | each seed | paper, % |",
    "|---|---|---|---|---|",
  ]
  for figure in (figure for figure in paper.FIGURES if figure.table == table):
    measured = values(figure)
    mean = f"{statistics.mean(measured):.1f}" if measured else "-"
    deviation = f" ({statistics.stdev(measured):.1f})" if len(measured) > 1 else ""
    each = " / ".join(f"{value:.1f}" for value in measured)
    lines.append(
      f"| {figure.row} | {tables.TITLES[figure.measure]} | {mean}{deviation} | {each} | {figure.value:.1f} |"
    )
  return "\n".join(lines) + "\n"


def _provenance(table: int, data: str, root: pathlib.Path, seeds: int) -> str:
  """Returns the training length, the devices and the commits of a table's finished runs."""
  workdirs = [workdir_of(root, data, cell, seed) for cell in cells_of(table) for seed in range(seeds)]
  workdirs = [workdir for workdir in workdirs if final_metrics(workdir)]
  settings, runs = ([read_json(workdir / name) for workdir in workdirs] for name in ("config.json", "run.json"))
  steps = {f"{each['total_steps']:,} steps of {each['batch_size']} images" for each in settings}
  devices = {f"{run['devices']['count']} x {run['devices']['kind']}" for run in runs}
  commits = {str(run["commit"]) for run in runs}
  return f"{' or '.join(sorted(steps))} on {' or '.join(sorted(devices))} at commit {', '.join(sorted(commits))}"


def chart(table: int, data: str, root: pathlib.Path, seeds: int) -> str | None:
  """Returns an SVG chart: mean IoU against k, or accuracy against distance for Table 5; None for Tables 4 and 6."""
  if table == 5:
    return _boundary_chart(data, root, seeds)
  values, series = measured_values(table, data, root, seeds), {}
  figures = [figure for figure in paper.FIGURES if figure.table == table and figure.cell]
  if len({figure.kernel_size for figure in figures}) < 3:
    return None
  for head in dict.fromkeys(figure.head for figure in figures):
    own = [figure for figure in figures if figure.head == head]
    name = own[0].row.split(", k")[0]
    measured = [(figure.kernel_size, values(figure)) for figure in own if values(figure)]
    if measured:
      means = [statistics.mean(found) for _, found in measured]
      deviations = [statistics.stdev(found) if len(found) > 1 else 0.0 for _, found in measured]
      series[f"{name}, measured on {data}"] = [k for k, _ in measured], means, deviations
    kernels, printed = [figure.kernel_size for figure in own], [figure.value for figure in own]
    series[f"{name}, paper, VOC"] = kernels, printed, [0.0] * len(own)
  return charts.ranges(series, "k", "mean IoU, %")


def _boundary_chart(data: str, root: pathlib.Path, seeds: int) -> str | None:
  """Returns a chart of the accuracy of pixels within a distance of a boundary, averaged over the seeds."""
  series = {}
  for figure in (figure for figure in paper.FIGURES if figure.table == 5 and figure.measure == "mean_iou"):
    found = [final_metrics(workdir_of(root, data, figure.cell, seed)) for seed in range(seeds)]
    curves = [each["accuracy_within_pixels"] for each in found if each]
    if curves:
      pixels = [int(name) for name, value in curves[0].items() if value is not None]
      series[figure.row] = pixels, [100 * statistics.mean(curve[str(pixel)] for curve in curves) for pixel in pixels]
  distance = "distance from the nearest boundary, pixels"
  return charts.lines(series, distance, "accuracy, %", (6.2, 3.6)) if series else None
