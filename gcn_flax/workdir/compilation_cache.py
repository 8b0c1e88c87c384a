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
  run: if workdir or cache belong to one, or the cache is damaged, nothing is cached, with a warning in the log.
  JAX_COMPILATION_CACHE_DIR takes precedence.
  """
  if jax.config.jax_compilation_cache_dir:
    return
  folder = workdir / "compiled"
  if not workdir.is_remote:  # Buckets know no owners, and their objects appear only when complete.
    entries = list(folder.glob("*-cache"))
    problem = _problem(workdir.path, folder, entries)
    if problem:
      _log.warning("WARNING: compiled programs are not cached: %s", problem)
      return
    if jax.process_index() == 0:
      _remove_cut(entries)
  # XLA's own caches would make the path of the workdir part of every key, and a moved workdir would not be found in it.
  jax.config.update("jax_persistent_cache_enable_xla_caches", "")
  jax.config.update("jax_compilation_cache_dir", str(folder))


def _problem(workdir: pathlib.Path, folder: pathlib.Path, entries: list[pathlib.Path]) -> str:
  """Returns why the cache cannot be used, with the fix; "" if it can."""
  for path in (workdir, folder, *entries):
    if path.exists() and path.stat().st_uid != os.geteuid():
      return (
        f"{path} belongs to another user, whose programs would be run here. Set JAX_COMPILATION_CACHE_DIR=DIR to cache "
        "them in a folder of your own."
      )
  if os.path.lexists(folder) and not folder.is_dir():
    return f"{folder} is no folder. Remove it."
  return next((f"{path} is no file. Remove it." for path in entries if not path.is_file()), "")


def _remove_cut(entries: list[pathlib.Path]) -> None:
  for path in entries:
    content = path.read_bytes()
    try:
      compilation_cache.decompress_executable(content)
    except Exception as error:  # Of zlib or zstandard, whichever JAX uses.
      _log.warning("removing %s, which is cut short (%s).", path, error)
      path.unlink()
