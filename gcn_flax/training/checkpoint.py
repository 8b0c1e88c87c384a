"""Checkpoints by Orbax: the newest few and the best, saved in the background, restored whole or not at all."""

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

# In TensorStore's messages, of what may be there the next time.
_UNREACHABLE = ("UNAVAILABLE", "PERMISSION_DENIED", "UNAUTHENTICATED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")


class DamagedCheckpoint(ValueError):
  """A checkpoint that cannot be read, or whose arrays are not those that were saved."""


class _Manager(ocp.CheckpointManager):
  """Orbax's, which saves when it is told to.

  Its own question whether to stop would set back the count by which all hosts agree on where to stop, see
  `progress.StopSignal`: with it, one stopped and the other went on.
  """

  def reached_preemption(self, step: int) -> bool:
    del step
    return False


class Checkpoints:
  """The checkpoints in one directory, one folder per step, and beside them `scores.json`.

  Beside the state each checkpoint has the digests of its arrays, because Orbax (0.12.8) restores
  flipped bits without a word. A score may come later than its checkpoint: of a run stopped before an
  evaluation that was due. So it is not part of the checkpoint.

  Args:
    directory: where they are; made where it is missing, unless `read_only`.
    keep: how many of the newest are kept; the best by score is kept besides.
    read_only: nothing is written or tidied up.
  """

  def __init__(self, directory: str | files.Path, keep: int = 1, read_only: bool = False):
    self.directory = files.path(directory)
    self._scores_file = self.directory / "scores.json"
    self._scores = {}
    if self._scores_file.exists():
      self._scores = {int(step): score for step, score in json.loads(self._scores_file.read_text()).items()}
    options = ocp.CheckpointManagerOptions(
      preservation_policy=None if read_only else AnyPreservationPolicy([LatestN(keep), _KeepBest(self._scores)]),
      create=not read_only,
      cleanup_tmp_directories=not read_only,  # Of a save that was broken off: its room is needed.
      read_only=read_only,
    )
    handlers = {"state": ocp.PyTreeCheckpointHandler(), "digests": ocp.JsonCheckpointHandler()}
    self._manager = _Manager(self.directory, options=options, item_handlers=handlers)

  def steps(self) -> list[int]:
    """The steps there are checkpoints of, in order."""
    return sorted(self._manager.all_steps())

  def latest(self) -> int | None:
    """The newest step; None where there is no checkpoint."""
    return max(self.steps(), default=None)

  def best(self) -> int | None:
    """The step of highest score, the later of equals; the newest where none was scored."""
    best = _best(self.steps(), self._scores)
    return self.latest() if best is None else best

  def score(self, step: int) -> float | None:
    """The score of a step, mean IoU or top-1 accuracy; None where it was not scored."""
    return self._scores.get(step)

  def set_score(self, step: int, score: float) -> None:
    """Notes the score of a step, before or after it is saved. NaN, of a set that is all void, is no score."""
    if not math.isnan(score):
      self._scores[step] = score
      self._write_scores()

  def forget_scores_after(self, step: int) -> None:
    """Drops the scores of steps that a resumed run has yet to come to."""
    for later in [known for known in self._scores if known > step]:
      del self._scores[later]
    self._write_scores()

  def save(self, step: int, state: Any) -> None:
    """Starts to save in the background. Raises OSError where this one, or the one before, could not be written."""
    items = ocp.args.Composite(state=ocp.args.PyTreeSave(state), digests=ocp.args.JsonSave(trees.digests(state)))
    with self._saving():
      self._manager.save(step, args=items)

  def wait(self) -> None:
    """Returns when everything started is on disk. Raises OSError as `save`."""
    with self._saving():
      self._manager.wait_until_finished()

  @contextlib.contextmanager
  def _saving(self) -> Iterator[None]:
    try:
      yield
    except (OSError, ValueError) as error:  # TensorStore tells of a full disk by a ValueError.
      if isinstance(error, ValueError) and "os_error_code" not in str(error):
        raise
      there = f"the newest whole checkpoint is of step {max(self.steps())}" if self.steps() else "there is none yet"
      raise OSError(
        f"a checkpoint could not be written to {self.directory} ({_reason(error)}); {there}. Make room, or mend the "
        "disk, and give the same command again."
      ) from error

  def restore(self, step: int, target: Any) -> Any:
    """Reads the checkpoint of a step, and compares it with its digests. All hosts must call it.

    Args:
      step: one of `steps()`.
      target: the state as `jax.ShapeDtypeStruct`s with the shardings wanted.

    Raises:
      DamagedCheckpoint: where it cannot be read whole as it was saved; on every host, where one finds so.
      OSError: where it cannot be read just now, on this host or on another.
      ValueError: where there is no such step, or its leaves are not those of `target`.
    """
    damage, failure = "", None
    try:
      arrays = self._read(step, target)
    except DamagedCheckpoint as error:
      damage = str(error)
    except Exception as error:  # Told to all hosts before it is raised: else they would wait for this one.
      failure = error
    found = sharding.all_gather((damage, str(failure or "")))
    if failure:
      raise failure
    for process, (damage, text) in enumerate(found):
      if text:
        raise OSError(f"process {process} cannot read {self.directory}/{step}: {text}")
      if damage:
        raise DamagedCheckpoint(damage)
    return jax.tree.map(_place, target, arrays)

  def _read(self, step: int, target: Any) -> Any:
    """The arrays of a step as NumPy's, read by this host without the others."""
    saved, noted = self._saved(step), self._understand(step, self._digests)
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
    arrays = self._understand(step, lambda _: handler.restore(folder, args=args))
    changed = [name for name, digest in trees.digests(arrays).items() if noted and noted[name] != digest]
    if changed:
      raise DamagedCheckpoint(f"{self.directory}/{step} is damaged: {', '.join(changed[:3])} differ.")
    return arrays

  def _understand(self, step: int, read: Callable[[int], Any]) -> Any:
    """What `read` reads; what it cannot make sense of is damage, but not what it cannot reach just now."""
    if step not in self.steps():
      there = ", ".join(map(str, self.steps())) or "none"
      raise ValueError(f"{self.directory} has no checkpoint of step {step}; there are: {there}.")
    try:
      return read(step)
    except Exception as error:  # Of a file that is cut or changed: from JSON, Orbax, TensorStore.
      unreachable = isinstance(error, MemoryError | OSError) and not isinstance(error, FileNotFoundError)
      if unreachable or any(word in str(error) for word in _UNREACHABLE):
        raise
      reason = " ".join(str(error).split())[:200]
      raise DamagedCheckpoint(f"{self.directory}/{step} is damaged: {reason or type(error).__name__}.") from error

  def set_aside(self, step: int) -> files.Path:
    """Moves the checkpoint of a step out of the way, into `damaged`, and returns where to. All hosts must call it."""
    folder = self.directory / "damaged"
    there = [path.name for path in folder.iterdir()] if folder.exists() else []
    taken = sum(name.startswith(f"{step}.") for name in there)
    if jax.process_index() == 0:
      files.move(self.directory / str(step), folder / f"{step}.{taken}")
    sharding.all_gather(None)  # Nobody looks before it is moved.
    self._manager.reload()
    return folder / f"{step}.{taken}"

  def restore_weights(self, step: int, target: dict[str, Any]) -> dict[str, Any]:
    """Reads only the weights of a step that were scored: the moving averages, where it has them.

    Args:
      step: one of `steps()`.
      target: as `TrainState.weights` gives, or a part of it.

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
    """The shape of each array of a step's checkpoint."""

    def read(step: int) -> dict[str, tuple[int, ...]]:
      saved = self._manager.item_metadata(step).get("state")
      if saved is None:  # As a kill leaves it that comes while an old checkpoint is removed.
        raise FileNotFoundError("it is incomplete")
      return trees.shapes(saved.tree)

    return self._understand(step, read)

  def _digests(self, step: int) -> dict[str, int]:
    """The digest of each array as saved; {} where no checkpoint has any, because an older version wrote them."""
    path = self.directory / str(step) / "digests" / "metadata"
    if not path.exists() and not any((self.directory / str(other) / "digests").exists() for other in self.steps()):
      return {}
    return json.loads(path.read_text())

  def close(self) -> None:
    """Waits and lets go of the directory. Raises OSError as `save`."""
    with self._saving():
      self._manager.close()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def _write_scores(self) -> None:
    if jax.process_index() == 0:
      files.write(self._scores_file, json.dumps(self._scores) + "\n")


def _place(leaf: jax.ShapeDtypeStruct, array: np.ndarray) -> jax.Array:
  return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: array[index].astype(leaf.dtype))


def _reason(error: Exception) -> str:
  """The system's own words in TensorStore's long message."""
  text = " ".join(str(error).split())
  found = re.search(r": ([^:]+) \[os_error_code", text)
  return found[1] if found else text[:300]


def open_checkpoints(workdir: str | files.Path) -> Checkpoints:
  """The checkpoints of a workdir, to read. Raises ValueError where there is none."""
  directory = files.path(workdir) / "checkpoints"
  if directory.is_dir():
    checkpoints = Checkpoints(directory, read_only=True)
    if checkpoints.steps():
      return checkpoints
  raise ValueError(f"there is no checkpoint in {str(directory)!r}: train first, or name another workdir.")


class _KeepBest:
  """Orbax's `PreservationPolicy` that keeps the checkpoint of highest score."""

  def __init__(self, scores: dict[int, float]):
    self._scores = scores  # Shared with `Checkpoints`, which fills it.

  def should_preserve(self, checkpoints, *, context) -> list[bool]:
    best = _best([checkpoint.step for checkpoint in checkpoints], self._scores)
    return [checkpoint.step == best for checkpoint in checkpoints]


def _best(steps: list[int], scores: dict[int, float]) -> int | None:
  """The step of highest score, the later of equals; None where no step has one."""
  return max((step for step in steps if step in scores), key=lambda step: (scores[step], step), default=None)
