"""Checkpoints by Orbax: the most recent and the best, saved in the background, restored whole or not at all."""

import contextlib
import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, LatestN

from gcn_flax import files
from gcn_flax.training import sharding, trees

# TensorStore's words for temporary failures.
_UNREACHABLE = ("UNAVAILABLE", "PERMISSION_DENIED", "UNAUTHENTICATED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")


class DamagedCheckpoint(ValueError):
  """Signals a checkpoint that cannot be read, or whose arrays are not those that were saved."""


class _Manager(ocp.CheckpointManager):
  """Orbax's manager without its own preemption check.

  Hosts agree on the step to stop at through a counter, see `workdir.stop_signal`. Orbax's check resets that counter,
  and then one host stops while the others go on.
  """

  def reached_preemption(self, step: int) -> bool:
    del step
    return False


class Checkpoints:
  """The checkpoints in one directory, one folder per step, and their metrics in `scores.json`.

  Each checkpoint holds the digests of its arrays, because Orbax (0.12.8) restores flipped bits without noticing.
  Metrics are kept outside the checkpoints, because a run that is stopped before an evaluation gets its metric after
  the restart.

  Args:
    directory: made if it is missing, unless `read_only`.
    keep: number of recent checkpoints to keep; the best one is kept too.
    read_only: True if nothing is to be written or cleaned up.
  """

  def __init__(self, directory: str | files.Path, keep: int = 1, read_only: bool = False):
    self.directory = files.path(directory)
    self._metrics_file = self.directory / "scores.json"
    self._metrics = {}
    if self._metrics_file.exists():
      self._metrics = {int(step): metric for step, metric in json.loads(self._metrics_file.read_text()).items()}
    options = ocp.CheckpointManagerOptions(
      preservation_policy=None if read_only else AnyPreservationPolicy([LatestN(keep), _KeepBest(self._metrics)]),
      create=not read_only,
      cleanup_tmp_directories=not read_only,  # A save that was cut short takes room.
      read_only=read_only,
    )
    handlers = {"state": ocp.PyTreeCheckpointHandler(), "digests": ocp.JsonCheckpointHandler()}
    self._manager = _Manager(self.directory, options=options, item_handlers=handlers)

  def steps(self) -> list[int]:
    """Returns the steps that have a checkpoint, in order."""
    return sorted(self._manager.all_steps())

  def latest(self) -> int | None:
    """Returns the newest step; None if there is no checkpoint."""
    return max(self.steps(), default=None)

  def best(self) -> int | None:
    """Returns the step of highest metric, the later of equals; the newest if none was evaluated."""
    best = _best(self.steps(), self._metrics)
    return self.latest() if best is None else best

  def metric(self, step: int) -> float | None:
    """Returns the metric of a step, mean IoU or top-1 accuracy; None if it was not evaluated."""
    return self._metrics.get(step)

  def set_metric(self, step: int, metric: float) -> None:
    """Stores the metric of a step, before or after it is saved; ignores NaN, the metric of a set that is all void."""
    if not math.isnan(metric):
      self._metrics[step] = metric
      self._write_metrics()

  def forget_metrics_after(self, step: int) -> None:
    """Drops the metrics of steps that a resumed run has not reached yet."""
    for later in [known for known in self._metrics if known > step]:
      del self._metrics[later]
    self._write_metrics()

  def save(self, step: int, state: Any) -> None:
    """Starts saving in the background. Raises OSError if this checkpoint, or the one before, cannot be written."""
    items = ocp.args.Composite(state=ocp.args.PyTreeSave(state), digests=ocp.args.JsonSave(trees.digests(state)))
    with self._saving():
      self._manager.save(step, args=items)

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
    saved, noted = self._saved(step), self._read_or_damaged(step, self._digests)
    differences = trees.compare(saved, trees.shapes(target))
    if differences:
      raise ValueError(f"{self.directory}/{step} is of another network: {'; '.join(differences)}.")
    args = ocp.args.PyTreeRestore(
      item=target,
      restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target),
      partial_restore=True,
    )
    # By the handler, not by the manager, which waits for the other hosts.
    handler, folder = ocp.PyTreeCheckpointHandler(), epath.Path(str(self.directory)) / str(step) / "state"
    arrays = self._read_or_damaged(step, lambda _: handler.restore(folder, args=args))
    changed = [name for name, digest in trees.digests(arrays).items() if noted and noted[name] != digest]
    if changed:
      raise DamagedCheckpoint(f"{self.directory}/{step} is damaged: {', '.join(changed[:3])} differ.")
    return arrays

  def _read_or_damaged(self, step: int, read: Callable[[int], Any]) -> Any:
    """Calls `read`. I/O errors propagate; anything else raises DamagedCheckpoint."""
    if step not in self.steps():
      there = ", ".join(map(str, self.steps())) or "none"
      raise ValueError(f"{self.directory} has no checkpoint of step {step}; there are: {there}.")
    try:
      return read(step)
    except Exception as error:  # JSON, Orbax and TensorStore raise many kinds for a file that is cut or changed.
      unreachable = isinstance(error, MemoryError | OSError) and not isinstance(error, FileNotFoundError)
      if unreachable or any(word in str(error) for word in _UNREACHABLE):
        raise
      reason = " ".join(str(error).split())[:200]
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
    saved = self._saved(step)
    if any(name.startswith("ema/") for name in saved):
      averaged = {name: part for name, part in target.items() if name != "normalization"}
      rest = {name: part for name, part in target.items() if name == "normalization"}
      weights = self.restore(step, {"ema": averaged, **rest})
      return {**weights.pop("ema"), **weights}
    return self.restore(step, target)

  def _saved(self, step: int) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each array of a step's checkpoint."""

    def read(step: int) -> dict[str, tuple[int, ...]]:
      saved = self._manager.item_metadata(step).get("state")
      if saved is None:  # A kill came while it was being removed.
        raise FileNotFoundError("it is incomplete")
      return trees.shapes(saved.tree)

    return self._read_or_damaged(step, read)

  def _digests(self, step: int) -> dict[str, int]:
    """Returns the digest of each array as saved; {} if an older version wrote the checkpoints, without digests."""
    path = self.directory / str(step) / "digests" / "metadata"
    if not path.exists() and not any((self.directory / str(other) / "digests").exists() for other in self.steps()):
      return {}
    return json.loads(path.read_text())

  def close(self) -> None:
    """Waits for every save and closes the directory. Raises OSError as `save`."""
    with self._saving():
      self._manager.close()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def _write_metrics(self) -> None:
    if jax.process_index() == 0:
      files.write(self._metrics_file, json.dumps(self._metrics) + "\n")


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


class _KeepBest:
  """Preservation policy of Orbax that keeps the checkpoint of highest metric."""

  def __init__(self, metrics: dict[int, float]):
    self._metrics = metrics  # Shared with `Checkpoints`, which fills it.

  def should_preserve(self, checkpoints, *, context) -> list[bool]:
    best = _best([checkpoint.step for checkpoint in checkpoints], self._metrics)
    return [checkpoint.step == best for checkpoint in checkpoints]


def _best(steps: list[int], metrics: dict[int, float]) -> int | None:
  """Returns the step of highest metric, the later of equals; None if no step has one."""
  return max((step for step in steps if step in metrics), key=lambda step: (metrics[step], step), default=None)
