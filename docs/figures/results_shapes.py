"""Blocks of docs/figures/results.py about generated scenes; their records are in docs/runs/shapes."""

import statistics
from typing import Any

from docs.figures.results_format import RUNS, load, measured_on, provenance, table
from gcn_flax.reporting.rendering import percent
from launch import ablation_table, records
from launch.ablation_run import Run
from launch.records import Record

_SEEDS = range(3)
_SCORES = ("mean_iou", "boundary_accuracy", "boundary_iou")
_EXPLAINED = {"pointwise": "1 x 1", "gcn-k3": "GCN, k = 3", "gcn-k7": "GCN, k = 7", "gcn-k15": "GCN, k = 15"}


def _records(number: int) -> dict[tuple[str, int], Record]:
  """Returns the records of one of the paper's tables."""
  runs = [Run(cell, "shapes", seed, RUNS, RUNS) for cell in ablation_table.cells_of(number) for seed in _SEEDS]
  return {(run.cell, run.seed): records.read(run.record_path) for run in runs if run.record_path.exists()}


def _of_cell(cell: str) -> list[Record]:
  return [found for (name, _), found in _records(int(cell[len("table")])).items() if name == cell]


def _two() -> dict[str, list[Record]]:
  return {"k = 15": _of_cell("table1-k15"), "1 x 1": _of_cell("table1-base")}


def by_seed() -> str:
  """Returns mean IoU of k = 15 and of 1 x 1 heads for each seed."""
  names = {"k = 15": "k = 15: `configs/quickstart.py`", "1 x 1": "1 x 1: `configs/quickstart.py:pointwise`"}
  rows = [(names[name], *(percent(each["last"]["mean_iou"]) for each in found)) for name, found in _two().items()]
  header = ("mIoU on 300 validation scenes, %", *(f"seed {seed}" for seed in _SEEDS))
  return table(header, rows) + f"{provenance(sum(_two().values(), []))}.\n"


def by_class() -> str:
  """Returns the IoU of each class for k = 15 and 1 x 1 heads, and how far the first are ahead."""
  rows, leads = [], []
  for name, found in _two().items():
    for each in found:
      last = each["last"]
      iou = map(percent, last["iou"].values())
      rows.append((f"{name}, seed {each['config']['seed']}", percent(last["mean_iou"]), *iou))
  for ours, theirs in zip(*_two().values(), strict=True):
    leads.append(percent(ours["last"]["mean_iou"] - theirs["last"]["mean_iou"]))
  settings = _two()["k = 15"][0]["config"]
  classes = _two()["k = 15"][0]["last"]["iou"]
  return (
    f"\nIoU in % after {settings['total_steps']} steps of {settings['batch_size']} scenes, without boundary "
    f"refinement; {provenance(sum(_two().values(), []))}:\n{table(('heads', 'mean', *classes), rows)}"
    f"k = 15 is ahead by {', '.join(leads)} points of mIoU.\n"
  )


def table1() -> str:
  """Returns the paper's Table 1 on shapes."""
  return _table(1)


def table5() -> str:
  """Returns the paper's Table 5 on shapes, and what boundary refinement changes."""
  with_br, without = ([each["last"] for each in _of_cell(f"table5-{name}")] for name in ("gcn-br", "gcn"))
  changes = [
    f"{100 * (statistics.mean(each[name] for each in with_br) - statistics.mean(each[name] for each in without)):+.2f}"
    for name in ("mean_iou", "boundary_accuracy", "internal_accuracy")
  ]
  return f"{_table(5)}Boundary refinement changes mIoU by {changes[0]} points, accuracy at boundaries by " + (
    f"{changes[1]} and elsewhere by {changes[2]}, on average.\n\n"
  )


def _table(number: int) -> str:
  found = _records(number)
  return f"\n{provenance(found.values())}.\n\n{ablation_table.rows(number, found)}\n\n"


def chart(number: int) -> str:
  """Returns the chart of one of the paper's tables on shapes, as SVG."""
  return ablation_table.chart(number, "shapes", _records(number))


def scoring() -> str:
  """Returns the metrics of one network, evaluated in several ways."""
  found = load("shapes_scoring")
  rows = [
    (name, *(percent(each[metric]) for metric in _SCORES), f"{each['seconds']:.0f}")
    for name, each in found["ways"].items()
  ]
  header = ("flags", "mean IoU, %", "boundary accuracy, %", "Boundary IoU, %", "wall time, s")
  busy = f"load average {found['machine']['load_average']:.1f}"
  return f"\n{measured_on(found['machine'])}, {busy}; one run each.\n{table(header, rows)}"


def receptive_fields() -> str:
  """Returns the receptive fields of four networks near a corner and at the centre."""
  found = load("receptive_field")
  machine, pixels = found["machine"], {each["pixel"]: None for each in found["rows"]}
  return f"\n{measured_on(machine)}; {found['pictures']}.\n" + "".join(
    f"\n{'The centre pixel' if pixel == 'centre' else f'`--pixel={pixel}`'}:\n{_fields(found, pixel)}"
    for pixel in reversed(pixels)
  )


def _fields(found: dict[str, Any], pixel: str) -> str:
  outside, radii = "mass_outside_radius", "radius_of_mass"
  uniform = found["every_pixel_alike"][pixel]
  rows = []
  for run, title in _EXPLAINED.items():
    seeds = [each for each in found["rows"] if (each["pixel"], each["run"]) == (pixel, run)]
    shares = ([100 * each[outside][radius] for each in seeds] for radius in uniform[outside])
    sizes = (statistics.mean(each[radii][share] for each in seeds) for share in uniform[radii])
    each = (f"{statistics.mean(values):.1f} ({' / '.join(f'{value:.1f}' for value in values)})" for values in shares)
    rows.append((title, *each, *(f"{size:.0f}" for size in sizes)))
  rows.append(("every pixel alike", *map(percent, uniform[outside].values()), *map(str, uniform[radii].values())))
  header = [f"gradient outside {radius} px, %: mean (of each seed)" for radius in uniform[outside]]
  header += [f"radius of {float(share):.0%}, px" for share in uniform[radii]]
  return table(("network", *header), rows)
