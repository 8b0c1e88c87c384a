"""Environment variables for JAX in tests: CPU devices, fast compilation, one compilation cache."""

import os
import pathlib
from importlib import metadata

_CACHE = pathlib.Path(__file__).parent.parent / ".pytest_cache" / "jax"
# Most of the tests' time is compilation. These flags halve it, for slower programs, but those of the tests are small.
_COMMON_FLAGS = "--xla_backend_optimization_level=0"
_CPU_FLAGS = "--xla_cpu_parallel_codegen_split_count=1"
if metadata.version("jaxlib").startswith("0.10."):  # Jaxlib 0.12 has no such flag any more, and ends the process.
  _CPU_FLAGS += " --xla_cpu_use_fusion_emitters=false"


def jax_environment(devices: int) -> dict[str, str]:
  """Returns the variables of this process with those of JAX for a number of CPU devices."""
  return {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": f"{_COMMON_FLAGS} {_CPU_FLAGS} --xla_force_host_platform_device_count={devices}",
    "JAX_COMPILATION_CACHE_DIR": str(_CACHE),  # Many tests compile the same step.
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
  }


def initialize_jax(devices: int) -> None:
  """Starts JAX with a number of CPU devices."""
  os.environ.update(jax_environment(devices))
  import jax

  jax.devices()  # Reads XLA_FLAGS. Tests of plans load libtpu later, which aborts on flags of the CPU backend.
  os.environ["XLA_FLAGS"] = _COMMON_FLAGS
