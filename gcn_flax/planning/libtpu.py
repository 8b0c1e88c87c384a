"""The compiler of TPUs, for chips that need not be there: its devices, what it compiles, what it says does not fit."""

import importlib.util
import logging
import os
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from gcn_flax.planning import hardware

_log = logging.getLogger(__name__)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_NO_MEMORY = re.compile(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)")


def devices(target: hardware.Target, chip: hardware.Tpu) -> list:
  """The devices of a slice that need not be there. Raises ValueError where libtpu is missing or has no such slice."""
  # libtpu is to look neither for a TPU on this machine, nor for the service that tells a TPU VM what it is; and it may
  # be in use by a run.
  for name, value in {
    "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-8", "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  }.items():  # fmt: skip
    os.environ.setdefault(name, value)
  if importlib.util.find_spec("libtpu") is None:
    raise ValueError("--mode=plan compiles by libtpu, which is not installed: pip install libtpu -c constraints.txt.")
  options = {"chip_config_name": chip.chip_config} if chip.chip_config else {}
  cores = os.sched_getaffinity(0)
  usable = max(1, _free_memory() // chip.compile_bytes) if chip.compile_bytes else len(cores)
  if usable < len(cores):
    _log.info(
      "compiling on %d of %d cores: on each, libtpu may take %d GB for %s",
      usable, len(cores), chip.compile_bytes >> 30, target.generation,
    )  # fmt: skip
  os.sched_setaffinity(0, sorted(cores)[:usable])  # libtpu makes as many threads as it sees cores when it is loaded.
  try:
    return topologies.get_topology_desc(platform="tpu", topology_name=target.name, **options).devices
  except (jax.errors.JaxRuntimeError, ValueError) as error:
    raise ValueError(f"--topology={target.name!r}: libtpu has no such slice ({str(error).splitlines()[0]}).") from error
  finally:
    os.sched_setaffinity(0, cores)


def _free_memory() -> int:
  """Bytes that programs can have on this machine; of Linux, as libtpu is."""
  return 1024 * int(re.search(r"MemAvailable:\s+(\d+) kB", pathlib.Path("/proc/meminfo").read_text())[1])


def compile_past_cache(lowered: Any) -> Any:
  """Compiles past the cache: what is for chips that are not here cannot be read back from it."""
  before = jax.config.jax_enable_compilation_cache
  jax.config.update("jax_enable_compilation_cache", False)
  try:
    return lowered.compile()
  finally:
    jax.config.update("jax_enable_compilation_cache", before)


def memory_limit(device: Any) -> int | None:
  """Bytes of a device's memory that programs may fill: libtpu names them only where a program needs more."""
  huge = jax.ShapeDtypeStruct((1 << 20, 1 << 20), jnp.float32, sharding=jax.sharding.SingleDeviceSharding(device))
  try:
    compile_past_cache(jax.jit(jnp.negative).lower(huge))
  except jax.errors.JaxRuntimeError as error:
    return read_shortage(str(error))[1]
  return None


def read_shortage(message: str) -> tuple[int, int]:
  """(bytes needed, bytes there are) of libtpu's message that a program does not fit. Raises RuntimeError for others."""
  found = _NO_MEMORY.search(message)
  if not found:
    raise RuntimeError(message)
  needed, unit, limit, limit_unit = found.groups()
  return round(float(needed) * _UNITS[unit]), round(float(limit) * _UNITS[limit_unit])
