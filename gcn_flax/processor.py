"""The processor of this machine, for records of runs and benchmarks."""

import os
import pathlib
import platform


def cpu_model() -> str:
  """Returns the name of the processor; "" if it is unknown."""
  cpuinfo = pathlib.Path("/proc/cpuinfo")
  lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
  models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
  return models[0] if models else platform.processor() or platform.machine()


def num_cores() -> int:
  """Returns the number of cores this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
