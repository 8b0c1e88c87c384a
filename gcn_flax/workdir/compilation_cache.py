"""JAX's compilation cache in the workdir: compiled programs, which a restart reads back and runs."""

import logging
import os
import pathlib

import jax
from jax._src import compilation_cache  # The format of an entry has no public name.

from gcn_flax.workdir.workdir import Workdir

_log = logging.getLogger(__name__)


def cache_compilations(workdir: Workdir) -> None:
  """Keeps compiled programs in the workdir, so that a restart begins sooner, also on another machine.

  Entries that a kill cut short are removed: JAX would neither use nor replace them. Programs of another user are not
  run: if workdir or cache belong to one, nothing is cached, with a warning in the log. JAX_COMPILATION_CACHE_DIR takes
  precedence.
  """
  if jax.config.jax_compilation_cache_dir:
    return
  folder = workdir / "compiled"
  if not workdir.is_remote:  # Buckets know no owners, and their objects appear only when complete.
    entries = list(folder.glob("*-cache"))
    for path in (workdir.path, folder, *entries):
      if path.exists() and path.stat().st_uid != os.geteuid():
        _log.warning(
          "WARNING: compiled programs are not cached: %s belongs to another user, whose programs would be run here. "
          "Set JAX_COMPILATION_CACHE_DIR=DIR to cache them in a folder of your own.", path,
        )  # fmt: skip
        return
    if jax.process_index() == 0:
      _remove_cut(entries)
  # XLA's own caches would make the path of the workdir part of every key, and a moved workdir would not be found in it.
  jax.config.update("jax_persistent_cache_enable_xla_caches", "")
  jax.config.update("jax_compilation_cache_dir", str(folder))


def _remove_cut(entries: list[pathlib.Path]) -> None:
  for path in entries:
    content = path.read_bytes()
    try:
      compilation_cache.decompress_executable(content)
    except Exception as error:  # Of zlib or zstandard, whichever JAX uses.
      _log.warning("removing %s, which is cut short (%s).", path, error)
      path.unlink()
