"""A table of the paper, made from the records of the runs of launch/ablation.py."""

import statistics
import time
from collections.abc import Iterable, Mapping

from configs import ablation
from gcn_flax.reporting import paper
from gcn_flax.visualize import charts, tables
from launch.records import Record

Records = Mapping[tuple[str, int], Record]  # By (cell, seed), for the runs that are finished.


def cells_of(table: int) -> list[str]:
  """Returns the names of a table's cells."""
  return [name for name in ablation.CELLS if name.startswith(f"table{table}-")]


def _values(records: Records, figure: paper.Figure) -> list[float]:
  """Returns the values measured for a figure of the paper, in percent, one per seed."""
  return [100 * found["last"][figure.measure] for (cell, _), found in records.items() if cell == figure.cell]


def markdown(table: int, data: str, records: Records, command: str) -> str:
  """Returns the table in Markdown, headed by the command and the hardware that produced it."""
  lines = [
    f"Table {table} on {data}, measured with `{command}`; written on {time.strftime('%Y-%m-%d')}, "
    f"{provenance(records.values())}. The paper's figures are as printed, for VOC 2012 validation and "
    f"{'its two encoders' if table == 6 else 'ResNet-152'}.",
    "",
    rows(table, records),
  ]
  return "\n".join(lines) + "\n"


def rows(table: int, records: Records) -> str:
  """Returns the table in Markdown: mean, standard deviation and each seed's value beside the paper's figures."""
  lines = ["| network | metric | measured, %: mean (deviation) | each seed | paper, % |", "|---|---|---|---|---|"]
  for figure in (figure for figure in paper.FIGURES if figure.table == table and figure.cell):
    measured = _values(records, figure)
    mean = f"{statistics.mean(measured):.1f}" if measured else "-"
    deviation = f" ({statistics.stdev(measured):.1f})" if len(measured) > 1 else ""
    each = " / ".join(f"{value:.1f}" for value in measured)
    lines.append(
      f"| {figure.row} | {tables.TITLES[figure.measure]} | {mean}{deviation} | {each} | {figure.value:.1f} |"
    )
  return "\n".join(lines)


def provenance(records: Iterable[Record]) -> str:
  """Returns the training length, the devices and the commits of some runs."""
  records = list(records)
  settings = [each["config"] for each in records]
  steps = {f"{each['total_steps']:,} steps of {each['batch_size']} images" for each in settings}
  devices = {f"{each['devices']['count']} x {each['devices']['kind']}" for each in records}
  commits = {each["commit"] for each in records}
  return f"{' or '.join(sorted(steps))} on {' or '.join(sorted(devices))} at commit {', '.join(sorted(commits))}"


def chart(table: int, data: str, records: Records) -> str | None:
  """Returns an SVG chart: mean IoU against k, or accuracy against distance for Table 5; None for Tables 4 and 6."""
  if table == 5:
    return _boundary_chart(records)
  series = {}
  figures = [figure for figure in paper.FIGURES if figure.table == table and figure.cell]
  if len({figure.kernel_size for figure in figures}) < 3:
    return None
  for head in dict.fromkeys(figure.head for figure in figures):
    own = [figure for figure in figures if figure.head == head]
    name = own[0].row.split(", k")[0]
    measured = [(figure.kernel_size, _values(records, figure)) for figure in own]
    measured = [(k, values) for k, values in measured if values]
    if measured:
      means = [statistics.mean(found) for _, found in measured]
      deviations = [statistics.stdev(found) if len(found) > 1 else 0.0 for _, found in measured]
      series[f"{name}, measured on {data}"] = [k for k, _ in measured], means, deviations
    kernels, printed = [figure.kernel_size for figure in own], [figure.value for figure in own]
    series[f"{name}, paper, VOC"] = kernels, printed, [0.0] * len(own)
  return charts.ranges(series, "k", "mean IoU, %")


def _boundary_chart(records: Records) -> str | None:
  """Returns a chart of the accuracy of pixels within a distance of a boundary, averaged over the seeds."""
  series = {}
  for figure in (figure for figure in paper.FIGURES if figure.table == 5 and figure.measure == "mean_iou"):
    own = [found["last"] for (cell, _), found in records.items() if cell == figure.cell]
    curves = [each["accuracy_within_pixels"] for each in own]
    if curves:
      pixels = [int(name) for name, value in curves[0].items() if value is not None]
      series[figure.row] = pixels, [100 * statistics.mean(curve[str(pixel)] for curve in curves) for pixel in pixels]
  distance = "distance from the nearest boundary, pixels"
  return charts.lines(series, distance, "accuracy, %", (6.2, 3.6)) if series else None
