"""JAX's compilation cache in the workdir: compiled programs, which a restart reads back and runs.

On GPUs, XLA chooses kernels by timing them, which is a large part of a compilation. It keeps most of its choices, not
all (https://github.com/openxla/xla/issues/37902), in a folder beside the programs: they help a program that is not in
the cache, but shares operations with one that was compiled before, and a compilation that was killed.
"""

import logging
import os
import pathlib
from collections.abc import Iterable

import jax
from jax._src import compilation_cache  # The format of an entry has no public name.

from gcn_flax.workdir.workdir import Workdir

_log = logging.getLogger(__name__)
_AUTOTUNING = "xla_gpu_per_fusion_autotune_cache_dir"  # JAX's option, its folder in the cache, and XLA's flag.


def cache_compilations(workdir: Workdir) -> None:
  """Keeps compiled programs in the workdir, so that a restart begins sooner; on GPUs also autotuning results.

  Entries that a kill cut short are removed: JAX would neither use nor replace them. Programs of another user are not
  run: if workdir or cache belong to one, or the cache is damaged, nothing is cached, with a warning in the log.
  JAX_COMPILATION_CACHE_DIR takes precedence: JAX then keeps both there, for all runs that share it. The log names the
  folder.

  On CPUs and TPUs the programs are found again on another machine and in a moved workdir. On GPUs, a moved workdir
  compiles again with the autotuning results at hand, because JAX makes their folder a part of each program's key.
  """
  if jax.config.jax_compilation_cache_dir:
    _log.info("%s in JAX_COMPILATION_CACHE_DIR=%s", _kept(), jax.config.jax_compilation_cache_dir)
    return
  folder = workdir / "compiled"
  if not workdir.is_remote:  # Buckets know no owners, and their objects appear only when complete.
    entries, tuned = list(folder.glob("*-cache")), folder / _AUTOTUNING
    problem = _problem((workdir.path, folder, tuned, *entries), (folder, tuned), entries)
    if problem:
      _log.warning("WARNING: compiled programs are not cached: %s", problem)
      return
    if jax.process_index() == 0:
      _remove_cut(entries, tuned)
  # XLA writes to no bucket. A folder of the user's own in XLA_FLAGS is left to XLA.
  tunes = (
    jax.default_backend() == "gpu" and not workdir.is_remote and _AUTOTUNING not in os.environ.get("XLA_FLAGS", "")
  )
  jax.config.update("jax_persistent_cache_enable_xla_caches", _AUTOTUNING if tunes else "")
  jax.config.update("jax_compilation_cache_dir", str(folder))
  _log.info("%s in %s", _kept(), folder)


def _kept() -> str:
  tunes = jax.default_backend() == "gpu" and jax.config.jax_persistent_cache_enable_xla_caches
  return "compiled programs and autotuning results are kept" if tunes else "compiled programs are kept"


def _problem(owned: Iterable[pathlib.Path], folders: Iterable[pathlib.Path], files: Iterable[pathlib.Path]) -> str:
  """Returns why the cache cannot be used, with the fix; "" if it can."""
  for path in owned:
    if path.exists() and path.stat().st_uid != os.geteuid():
      return (
        f"{path} belongs to another user, whose programs would be run here. Set JAX_COMPILATION_CACHE_DIR=DIR to cache "
        "them in a folder of your own."
      )
  for path in folders:
    if os.path.lexists(path) and not path.is_dir():
      return f"{path} is no folder. Remove it."
  return next((f"{path} is no file. Remove it." for path in files if not path.is_file()), "")


def _remove_cut(entries: Iterable[pathlib.Path], tuned: pathlib.Path) -> None:
  for path in entries:
    content = path.read_bytes()
    try:
      compilation_cache.decompress_executable(content)
    except Exception as error:  # Of zlib or zstandard, whichever JAX uses.
      _log.warning("removing %s, which is cut short (%s).", path, error)
      path.unlink()
  for path in tuned.glob("*"):
    if path.is_file() and not path.stat().st_size:  # XLA renames whole files, but a crash of the machine empties them.
      _log.warning("removing %s, which is empty.", path)
      path.unlink()
