"""Shared parts of the blocks of docs/figures/results.py: records, tables, lines that say where figures are from."""

import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks import timing
from launch import records
from launch.records import Record

RUNS = pathlib.Path(__file__).resolve().parents[1] / "runs"


def load(name: str) -> Any:
  """Returns the content of a JSON file in docs/runs."""
  return json.loads((RUNS / f"{name}.json").read_text())


def read_all(pattern: str) -> dict[str, Record]:
  """Returns the records in docs/runs whose path matches a pattern, by file name."""
  return {path.stem: records.read(path) for path in sorted(RUNS.glob(pattern))}


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """Returns a Markdown table between empty lines, with all columns but the first aligned to the right."""
  return f"\n{timing.table(header, rows)}\n\n"


def where(cores: int, cpu: str, dates: Iterable[str]) -> str:
  """Returns processor and day, or first and last day, of measurements."""
  days = sorted({date[:10] for date in dates})
  return f"{cores} cores of an {cpu} CPU, {' to '.join(dict.fromkeys((days[0], days[-1])))}"


def measured_on(machine: dict[str, Any], date: str = "") -> str:
  """Returns `where` for the `machine` of a benchmark."""
  return where(machine["cores"], machine["cpu"], [date or machine["date"]])


def provenance(found: Iterable[Record]) -> str:
  """Returns processor, precision, days, commits and duration of some runs, as one line."""
  found = list(found)
  commits = sorted({each["commit"][:7] for each in found})
  precisions = sorted({each["config"]["model"]["dtype"] for each in found})
  processor, days = found[0]["processor"], [each["finished"] for each in found]
  return (
    f"{where(processor['cores'], processor['model'], days)}; {', '.join(precisions)}; "
    f"{'commit' if len(commits) == 1 else 'commits'} {', '.join(commits)}; {_duration(found)}"
  )


def _duration(found: Sequence[Record]) -> str:
  """Returns the time from the first step to the last evaluation of some runs, and how many were resumed."""
  known = [minutes for each in found if (minutes := records.minutes(each)) is not None]
  low, high = (
    f"{value:.1f}" if value < 10 else f"{value:.0f}" for value in (min(known, default=0), max(known, default=0))
  )
  parts = [f"{low} minutes a run" if low == high else f"{low} to {high} minutes a run"] if known else []
  parts += [f"{len(found) - len(known)} stopped and resumed"] if len(known) < len(found) else []
  return ", ".join(parts)
