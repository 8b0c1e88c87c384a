"""Checkpoints by Orbax: the most recent and the best, saved in the background, restored whole or not at all."""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from gcn_flax import files, json_files
from gcn_flax.printable import one_line
from gcn_flax.training import sharding, trees
from gcn_flax.training.checkpoint_manager import open_manager
from gcn_flax.training.checkpoint_metrics import CheckpointMetrics
from gcn_flax.training.checkpoint_reader import make_reader

# TensorStore's words for temporary failures.
_UNREACHABLE = ("UNAVAILABLE", "PERMISSION_DENIED", "UNAUTHENTICATED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")

_NO_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


class DamagedCheckpoint(ValueError):
  """Signals a checkpoint that cannot be read, or whose arrays are not those that were saved."""


def check_path(directory: files.Path, read_only: bool = False) -> None:
  """Raises ValueError for a directory whose path Orbax or TensorStore would take for another one."""
  name = str(directory)
  # TensorStore takes a backslash for a slash, and Orbax `gs:` for a bucket. It finds what it saves by a glob pattern.
  bad = [part for part in ("\\", "/gs:", *(() if read_only else "*?[")) if part in name]
  if bad:
    raise ValueError(f"{name}: a path with {' and '.join(bad)} cannot hold checkpoints. Use a folder without it.")
  try:
    name.encode()
  except UnicodeEncodeError as error:
    raise ValueError(f"{name!r}: a path that is not UTF-8 cannot hold checkpoints. Rename the folder.") from error


class Checkpoints:
  """The checkpoints in one directory, one folder per step, and their metrics.

  Each checkpoint holds the digests of its arrays, because Orbax (0.12.8) restores flipped bits without noticing.

  Args:
    directory: made if it is missing, unless `read_only`.
    keep: number of recent checkpoints to keep; the best one is kept too.
    read_only: True if nothing is to be written or cleaned up.

  Attributes:
    directory: path of the directory.
    metrics: metric of each evaluated step.

  Raises ValueError as `check_path`.
  """

  def __init__(self, directory: str | files.Path, keep: int = 1, read_only: bool = False):
    self.directory = files.path(directory)
    check_path(self.directory, read_only)
    self.metrics, self._is_read_back = CheckpointMetrics(self.directory / "scores.json"), False
    if not read_only:
      self._remove_empty()
    self._manager = open_manager(self.directory, self.metrics, keep, read_only)
    self.metrics.read(is_expected=bool(self.steps()), read_only=read_only)

  def _remove_empty(self) -> None:
    """Removes empty folders with the names of steps: Orbax saves nothing before the last step that has a folder."""
    if jax.process_index() == 0 and self.directory.is_dir() and not files.is_remote(self.directory):
      for folder in self.directory.glob("[0-9]*"):
        if folder.name.isdecimal() and folder.is_dir() and not files.is_filled(folder):
          folder.rmdir()
    sharding.all_gather(None)  # No host looks before they are removed.

  def steps(self) -> list[int]:
    """Returns the steps that have a checkpoint, in order; an empty folder is none."""
    return sorted(step for step in self._manager.all_steps() if files.is_filled(self.directory / str(step)))

  def latest(self) -> int | None:
    """Returns the newest step; None if there is no checkpoint."""
    return max(self.steps(), default=None)

  def best(self) -> int | None:
    """Returns the step of highest metric, the later of equals; the newest if none was evaluated."""
    best = self.metrics.best(self.steps())
    return self.latest() if best is None else best

  def save(self, step: int, state: Any, settings: Mapping[str, Any] | None = None) -> None:
    """Starts saving in the background; the first save is waited for, and its structure read back.

    Args:
      step: number of updates.
      state: arrays to save.
      settings: settings of the run, stored with the checkpoint in case that `config.json` is lost.

    Raises:
      OSError: if this checkpoint, or the one before, cannot be written, or the first one not be read back.
      ValueError: if there is a checkpoint of a later step.
    """
    items = ocp.args.Composite(state=ocp.args.PyTreeSave(state), digests=ocp.args.JsonSave(trees.digests(state)))
    with self._saving():
      is_saving = self._manager.save(step, args=items, custom_metadata={"config": settings} if settings else None)
    if not is_saving:
      raise ValueError(
        f"{self.directory} holds a checkpoint of a later step, so that of step {step} is not saved. Move the later one "
        "elsewhere, or use another workdir."
      )
    if not self._is_read_back:
      self._read_back(step)

  def _read_back(self, step: int) -> None:
    """Waits for a save, and looks for its arrays, so that a disk that loses files is noticed before hours of work."""
    self.wait()
    try:
      self.shapes(step)
    except DamagedCheckpoint as error:
      raise OSError(f"{error} It was just saved: this disk does not keep files. Use another --workdir.") from error
    self._is_read_back = True

  def wait(self) -> None:
    """Waits until every save is on disk. Raises OSError as `save`."""
    with self._saving():
      self._manager.wait_until_finished()

  @contextlib.contextmanager
  def _saving(self) -> Iterator[None]:
    try:
      yield
    except (OSError, ValueError) as error:  # TensorStore reports a full disk by a ValueError.
      if isinstance(error, ValueError) and "os_error_code" not in str(error):
        raise
      there = f"the newest whole checkpoint is of step {max(self.steps())}" if self.steps() else "there is none yet"
      raise OSError(
        f"a checkpoint could not be written to {self.directory} ({_reason(error)}); {there}. Make room, or repair "
        "the disk, and repeat the same command."
      ) from error

  def restore(self, step: int, target: Any) -> Any:
    """Restores the checkpoint of a step, and verifies its digests. All hosts must call it.

    Args:
      step: one of `steps()`.
      target: the state as `jax.ShapeDtypeStruct`s with their shardings.

    Raises:
      DamagedCheckpoint: on every host, if one host cannot read it as it was saved.
      OSError: if storage fails, on this host or on another.
      ValueError: if there is no such step, or its leaves are not those of `target`.
    """
    damage, failure = "", None
    try:
      arrays = self._read(step, target)
    except DamagedCheckpoint as error:
      damage = str(error)
    except Exception as error:  # Shared with all hosts before it is raised: they would wait for this one.
      failure = error
    found = sharding.all_gather((damage, repr(failure) if failure else ""))
    if failure:
      raise failure
    for process, (damage, text) in enumerate(found):
      if text:
        raise OSError(f"process {process} cannot read {self.directory}/{step}: {text}")
      if damage:
        raise DamagedCheckpoint(damage)
    return jax.tree.map(_place, target, arrays)

  def _read(self, step: int, target: Any) -> Any:
    """Reads the arrays of a step into NumPy, on this host without the others."""
    saved, noted = self.shapes(step), self._read_or_damaged(step, self._digests)
    differences = trees.compare(saved, trees.shapes(target))
    if differences:
      raise ValueError(f"{self.directory}/{step} is of another network: {'; '.join(differences)}.")
    args = ocp.args.PyTreeRestore(
      item=target,
      restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target),
      partial_restore=True,
    )
    # By the handler, not by the manager, which waits for the other hosts.
    arrays = self._read_or_damaged(step, lambda step: make_reader().restore(self._state_folder(step), args=args))
    if noted is not None:
      changed = [name for name, digest in trees.digests(arrays).items() if noted.get(name) != digest]
      if changed:
        raise DamagedCheckpoint(f"{self.directory}/{step} is damaged: {', '.join(changed[:3])} differ.")
    return arrays

  def _state_folder(self, step: int) -> epath.Path:
    return epath.Path(str(self.directory)) / str(step) / "state"

  def _read_or_damaged(self, step: int, read: Callable[[int], Any]) -> Any:
    """Calls `read`. I/O errors propagate; anything else raises DamagedCheckpoint."""
    if step not in self.steps():
      there = ", ".join(map(str, self.steps())) or "none"
      raise ValueError(f"{self.directory} has no checkpoint of step {step}; there are: {there}.")
    try:
      return read(step)
    except Exception as error:  # JSON, Orbax and TensorStore raise many kinds for a file that is cut or changed.
      unreachable = isinstance(error, MemoryError | OSError) and not isinstance(error, _NO_FILE)
      if unreachable or any(word in str(error) for word in _UNREACHABLE):
        raise
      if step not in self.steps():
        raise ValueError(f"{self.directory}/{step} was removed while it was read. Repeat the command.") from error
      reason = one_line(error)[:200].rstrip(" .")
      raise DamagedCheckpoint(f"{self.directory}/{step} is damaged: {reason or type(error).__name__}.") from error

  def set_aside(self, step: int) -> files.Path:
    """Moves the checkpoint of a step into `damaged`, and returns its new path. All hosts must call it."""
    folder = self.directory / "damaged"
    there = [path.name for path in folder.iterdir()] if folder.exists() else []
    taken = sum(name.startswith(f"{step}.") for name in there)
    if jax.process_index() == 0:
      files.move(self.directory / str(step), folder / f"{step}.{taken}")
    sharding.all_gather(None)  # No host looks before it is moved.
    self._manager.reload()
    return folder / f"{step}.{taken}"

  def restore_weights(self, step: int, target: dict[str, Any]) -> dict[str, Any]:
    """Restores the weights that were evaluated at a step: the moving averages, if it has them.

    Args:
      step: one of `steps()`.
      target: as from `TrainState.weights`, or a part of it.

    Raises ValueError as `restore`.
    """
    saved = self.shapes(step)
    if any(name.startswith("ema/") for name in saved):
      averaged = {name: part for name, part in target.items() if name != "normalization"}
      rest = {name: part for name, part in target.items() if name == "normalization"}
      weights = self.restore(step, {"ema": averaged, **rest})
      return {**weights.pop("ema"), **weights}
    return self.restore(step, target)

  def shapes(self, step: int) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each array of a step's checkpoint. Raises DamagedCheckpoint if one of them is missing."""

    def read(step: int) -> dict[str, tuple[int, ...]]:
      folder = self._state_folder(step)
      if not folder.exists():  # A kill came while it was being removed.
        raise FileNotFoundError("it is incomplete")
      return trees.shapes(make_reader().metadata(folder).tree)

    return self._read_or_damaged(step, read)

  def _digests(self, step: int) -> dict[str, int] | None:
    """Returns the digest of each array as saved; None if an older version wrote the checkpoints, without digests."""
    path = self.directory / str(step) / "digests" / "metadata"
    if not path.exists() and not any((self.directory / str(other) / "digests").exists() for other in self.steps()):
      return None
    return json_files.read(path, {str: int}, fix="")

  def close(self) -> None:
    """Waits for every save and closes the directory. Raises OSError as `save`."""
    with self._saving():
      self._manager.close()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()


def _place(leaf: jax.ShapeDtypeStruct, array: np.ndarray) -> jax.Array:
  return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: array[index].astype(leaf.dtype))


def _reason(error: Exception) -> str:
  """Extracts the operating system's words from TensorStore's long message."""
  text = " ".join(str(error).split())
  found = re.search(r": ([^:]+) \[os_error_code", text)
  return found[1] if found else text[:300]


def open_checkpoints(workdir: str | files.Path) -> Checkpoints:
  """Opens the checkpoints of a workdir for reading. Raises ValueError if there is none."""
  directory = files.path(workdir) / "checkpoints"
  if directory.is_dir():
    checkpoints = Checkpoints(directory, read_only=True)
    if checkpoints.steps():
      return checkpoints
  raise ValueError(f"there is no checkpoint in {str(directory)!r}. Train first, or name another workdir.")
