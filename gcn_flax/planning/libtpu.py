"""The TPU compiler, used ahead of time for chips that this machine does not have."""

import importlib.util
import logging
import os
import pathlib
import re
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from gcn_flax.planning import hardware

_log = logging.getLogger(__name__)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_OUT_OF_MEMORY = re.compile(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)")


def devices(target: hardware.Target, chip: hardware.Tpu) -> list:
  """Returns the devices of a TPU slice, described by libtpu; no TPU is needed.

  Raises:
    ValueError: if libtpu is not installed, or has no such slice.
  """
  # Keeps libtpu from looking for a TPU on this machine and for the metadata server of a TPU VM, and lets it load while
  # a training process uses it.
  for name, value in {
    "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-8", "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  }.items():  # fmt: skip
    os.environ.setdefault(name, value)
  if importlib.util.find_spec("libtpu") is None:
    raise ValueError(
      f"--topology={target.name!r}: needs libtpu, the TPU compiler, which is not installed. Run pip install libtpu."
    )
  options = {"chip_config_name": chip.chip_config} if chip.chip_config else {}
  cores = os.sched_getaffinity(0)
  # libtpu starts as many threads as it sees cores when it is loaded.
  os.sched_setaffinity(0, compile_cores(cores, chip.compile_bytes, _available_memory()))
  try:
    return topologies.get_topology_desc(platform="tpu", topology_name=target.name, **options).devices
  except (jax.errors.JaxRuntimeError, ValueError) as error:
    raise ValueError(
      f"--topology={target.name!r}: libtpu has no such slice ({str(error).splitlines()[0]}). Use one that Cloud TPU "
      "offers, such as v5e:4x8."
    ) from error
  finally:
    os.sched_setaffinity(0, cores)


def compile_cores(cores: Collection[int], bytes_per_core: int, available: int) -> list[int]:
  """Returns the cores to compile on: all, or as many as the available memory is enough for, and at least one.

  Args:
    cores: cores that this process may run on.
    bytes_per_core: memory that the compiler may take on each; 0 for no limit.
    available: memory of this machine, bytes.
  """
  count = max(1, available // bytes_per_core) if bytes_per_core else len(cores)
  if count < len(cores):
    _log.info("compiling on %d of %d cores: each may take %d GiB", count, len(cores), bytes_per_core >> 30)
  return sorted(cores)[:count]


def _available_memory() -> int:
  """Returns the bytes that programs can still allocate on this machine; Linux only, as is libtpu."""
  return 1024 * int(re.search(r"MemAvailable:\s+(\d+) kB", pathlib.Path("/proc/meminfo").read_text())[1])


def compile_uncached(lowered: Any) -> Any:
  """Compiles without the persistent cache, from which a program for absent chips cannot be loaded."""
  before = jax.config.jax_enable_compilation_cache
  jax.config.update("jax_enable_compilation_cache", False)
  try:
    return lowered.compile()
  finally:
    jax.config.update("jax_enable_compilation_cache", before)


def memory_limit(device: Any) -> int | None:
  """Returns the bytes of HBM that a program may use on a device; None if unknown.

  libtpu names the limit only when a program exceeds it, so this compiles one that does.
  """
  huge = jax.ShapeDtypeStruct((1 << 20, 1 << 20), jnp.float32, sharding=jax.sharding.SingleDeviceSharding(device))
  try:
    compile_uncached(jax.jit(jnp.negative).lower(huge))
  except jax.errors.JaxRuntimeError as error:
    return parse_out_of_memory(str(error))[1]
  return None


def parse_out_of_memory(message: str) -> tuple[int, int]:
  """Returns (bytes needed, bytes available) from libtpu's out-of-memory error.

  Raises:
    RuntimeError: with the message itself, if it is about anything else.
  """
  found = _OUT_OF_MEMORY.search(message)
  if not found:
    raise RuntimeError(message)
  needed, unit, limit, limit_unit = found.groups()
  return round(float(needed) * _UNITS[unit]), round(float(limit) * _UNITS[limit_unit])
