"""Measures several rivals in interleaved rounds, and summarizes what was measured."""

import functools
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

PAUSE_S = 0.05  # Before each measurement, so that the threads of the previous rival have gone to sleep.
MIN_TIME_S = 0.1  # A fast rival is called repeatedly until this much time has passed.


def interleave(rivals: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
  """Times functions in rounds; each round times every function once and starts with a different one.

  Args:
    rivals: name -> function, which must return only when its work is done.
    repeats: number of rounds.

  Returns:
    name -> seconds per call, one number per round.
  """
  for rival in rivals.values():
    rival()
    rival()
  return in_rounds({name: functools.partial(_time, rival) for name, rival in rivals.items()}, repeats)


def in_rounds(measures: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
  """Calls every function once per round, starting with a different one each time, and returns name -> results."""
  results = {name: [] for name in measures}
  order = list(measures)
  for _ in range(rounds):
    for name in order:
      time.sleep(PAUSE_S)
      results[name].append(measures[name]())
    order.append(order.pop(0))
  return results


def summarize(results: Mapping[str, Sequence[float]], unit: str = "s") -> dict[str, float]:
  """Returns the median of each rival as `NAME_UNIT`, its extremes as `NAME_min_UNIT` and `NAME_max_UNIT`."""
  summary = {}
  for name, values in results.items():
    summary[f"{name}_{unit}"] = statistics.median(values)
    summary |= {f"{name}_min_{unit}": min(values), f"{name}_max_{unit}": max(values)}
  return summary


def resident_mb() -> float:
  """Returns the resident memory of this process in megabytes (Linux)."""
  return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """Returns a Markdown table with all columns but the first aligned to the right."""
  lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _time(rival: Callable[[], object]) -> float:
  calls, start = 0, time.perf_counter()
  while True:
    rival()
    calls += 1
    passed = time.perf_counter() - start
    if passed >= MIN_TIME_S:
      return passed / calls
