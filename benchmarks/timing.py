"""Timing rivals side by side, and what a measurement must say of the machine it was made on."""

import datetime
import functools
import importlib.metadata
import os
import pathlib
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

PAUSE_S = 0.05  # Before each timing, so that the threads of the rival before have gone to sleep.
ENOUGH_S = 0.1  # A timing calls a quick rival again and again until so much has passed.


def interleave(rivals: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
  """Times functions in rounds: each round times every one once, and each round begins with another one.

  Args:
    rivals: name -> function; it must return only when its work is done.
    repeats: number of rounds.

  Returns:
    name -> seconds a call, one number for each round.
  """
  for rival in rivals.values():
    rival()
    rival()
  return in_rounds({name: functools.partial(_time, rival) for name, rival in rivals.items()}, repeats)


def in_rounds(measures: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
  """Calls every function once a round, each round beginning with another one: name -> what it returned, by round."""
  results = {name: [] for name in measures}
  order = list(measures)
  for _ in range(rounds):
    for name in order:
      time.sleep(PAUSE_S)
      results[name].append(measures[name]())
    order.append(order.pop(0))
  return results


def summarise(results: Mapping[str, Sequence[float]], unit: str = "s") -> dict[str, float]:
  """Of each rival the median as `NAME_UNIT`, the extremes as `NAME_min_UNIT` and `NAME_max_UNIT`."""
  summary = {}
  for name, values in results.items():
    summary[f"{name}_{unit}"] = statistics.median(values)
    summary |= {f"{name}_min_{unit}": min(values), f"{name}_max_{unit}": max(values)}
  return summary


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """A Markdown table; the columns behind the first are aligned to the right."""
  lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def num_cores() -> int:
  """Cores this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def machine(packages: Iterable[str]) -> dict:
  """Where, when and with what: processor, cores, load, date, versions and command."""
  return {
    "cpu": _cpu_model(),
    "cores": num_cores(),
    "load_average": os.getloadavg()[0],
    "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "versions": {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages},
    "command": f"python benchmarks/{pathlib.Path(sys.argv[0]).name} {shlex.join(sys.argv[1:])}".strip(),
  }


def _time(rival: Callable[[], object]) -> float:
  calls, start = 0, time.perf_counter()
  while True:
    rival()
    calls += 1
    passed = time.perf_counter() - start
    if passed >= ENOUGH_S:
      return passed / calls


def _cpu_model() -> str:
  cpuinfo = pathlib.Path("/proc/cpuinfo")
  lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
  models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
  return models[0] if models else platform.processor() or platform.machine()
