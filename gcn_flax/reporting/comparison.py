"""Several runs beside each other: rows of facts, metrics, settings and classes, with one cell for each run."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from gcn_flax.reporting.page import prediction_method
from gcn_flax.reporting.rendering import percent
from gcn_flax.visualize.tables import TITLES, aligned
from gcn_flax.workdir.run_results import RunResults

Runs = Mapping[str, RunResults]  # By name; the first one is what the others are compared with.


@dataclasses.dataclass(frozen=True)
class Row:
  """A row of a table.

  Attributes:
    title: what the cells are.
    cells: one for each run; "-" where a run has none.
    best: numbers of the runs with the best value; () if there is no better or worse.
  """

  title: str
  cells: list[str]
  best: tuple[int, ...] = ()


def facts(runs: Runs) -> list[Row]:
  """Returns network, data, progress, speed and devices of each run."""
  results = list(runs.values())
  return [
    Row("network", [run.network for run in results]),
    Row("evaluated on", [f"{run.config.data.dataset} {run.config.data.eval_split}" for run in results]),
    Row("steps", [f"{run.step:,} of {run.config.total_steps:,}" for run in results]),
    Row("last evaluation", [_evaluation(run.evaluation) for run in results]),
    Row("loss, last", [_last(run.series("loss"), "{:.4f}") for run in results]),
    Row("images/s, median", [_median(run.series("images_per_second")[1]) for run in results]),
    Row("devices", [_devices(run.record) for run in results]),
    Row("commit", [(run.record.get("commit") or "-")[:10] for run in results]),
  ]


def metrics(runs: Runs) -> list[Row]:
  """Returns the metrics of the evaluation split in percent: the best of the main metric, then all of the last."""
  results = list(runs.values())
  rows = []
  for name in dict.fromkeys(run.main_metric for run in results):
    best = [max(zip(*run.evaluated(name)[::-1], strict=True), default=None) for run in results]
    cells = ["-" if pair is None else f"{percent(pair[0])} (step {pair[1]:,})" for pair in best]
    rows.append(Row(f"{TITLES[name]}, best", cells, _highest([pair and pair[0] for pair in best])))
  for name, title in TITLES.items():
    values = [next(iter(run.evaluated(name)[1][-1:]), None) for run in results]
    if any(value is not None for value in values):
      rows.append(Row(f"{title}, last", [percent(value) for value in values], _highest(values)))
  return rows


def differing_settings(runs: Runs) -> list[Row]:
  """Returns the settings that are not the same in all runs."""
  flat = [run.settings() for run in runs.values()]
  names = sorted({name for each in flat for name in each})
  return [
    Row(name, [_setting(each.get(name)) for each in flat])
    for name in names
    if any(each.get(name) != flat[0].get(name) for each in flat)
  ]


def classes(runs: Runs) -> list[Row]:
  """Returns the IoU of each class at the last evaluation in percent; after the first run with the difference to it.

  Classifiers have top-1 accuracy instead.
  """
  values = [run.by_class for run in runs.values()]
  rows = []
  for name in dict.fromkeys(name for each in values for name in each):
    own = [each.get(name) for each in values]
    cells = [percent(own[0]), *(_with_difference(value, own[0]) for value in own[1:])]
    rows.append(Row(name, cells, _highest(own)))
  return rows


def text(runs: Runs) -> str:
  """Formats all rows as a table for a terminal."""
  header = Row("", list(runs))
  parts = [("", facts(runs) + metrics(runs)), ("settings that differ", differing_settings(runs))]
  parts += [("IoU by class, %", classes(runs))]
  tables = []
  for title, rows in parts:
    cells = [[row.title, *row.cells] for row in (header, *rows)]
    cells[0][0] = title
    tables.append(aligned(cells, left=range(len(runs) + 1)) if rows else f"{title}: none")
  return "\n\n".join(tables)


def _highest(values: Sequence[float | None]) -> tuple[int, ...]:
  """Returns the places of the highest value; () if they are all the same."""
  known = [value for value in values if value is not None]
  if len(set(known)) < 2:
    return ()
  return tuple(place for place, value in enumerate(values) if value == max(known))


def _last(series: tuple[list[int], list[float]], form: str) -> str:
  return form.format(series[1][-1]) if series[1] else "-"


def _median(values: Sequence[float]) -> str:
  return f"{statistics.median(values):.1f}" if values else "-"


def _devices(record: Mapping[str, Any]) -> str:
  devices = record.get("devices")
  return f"{devices['count']} x {devices['kind']}" if devices else "-"


def _evaluation(result: Mapping[str, Any]) -> str:
  return f"step {result['step']:,}, {prediction_method(result['eval'])}" if result else "-"


def _setting(value: Any) -> str:
  return "-" if value is None else repr(value) if isinstance(value, str) else str(value)


def _with_difference(value: float | None, first: float | None) -> str:
  if value is None or first is None:
    return percent(value)
  return f"{percent(value)} ({100 * (value - first):+.1f})"
