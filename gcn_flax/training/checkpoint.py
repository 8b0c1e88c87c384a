"""Checkpoints by Orbax: the newest few and the best, saved in the background, restored whole."""

import json
import math
import os
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, LatestN


class Checkpoints:
  """The checkpoints in one directory, one folder per step, and beside them `scores.json`.

  A score may come later than its checkpoint: of a run stopped before an
  evaluation that was due. So it is not part of the checkpoint.

  Args:
    directory: where they are; made where it is missing, unless `read_only`.
    keep: how many of the newest are kept; the best by score is kept besides.
    read_only: nothing is written or tidied up.
  """

  def __init__(self, directory: str | pathlib.Path, keep: int = 1, read_only: bool = False):
    self.directory = pathlib.Path(directory).absolute()
    self._scores_file = self.directory / "scores.json"
    self._scores = {}
    if self._scores_file.exists():
      self._scores = {int(step): score for step, score in json.loads(self._scores_file.read_text()).items()}
    options = ocp.CheckpointManagerOptions(
      preservation_policy=None if read_only else AnyPreservationPolicy([LatestN(keep), _KeepBest(self._scores)]),
      create=not read_only,
      read_only=read_only,
    )
    handlers = {"state": ocp.PyTreeCheckpointHandler()}
    self._manager = ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)

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
    """Starts to save in the background."""
    self._manager.save(step, args=ocp.args.Composite(state=ocp.args.PyTreeSave(state)))

  def restore(self, step: int, target: Any) -> Any:
    """Reads the checkpoint of a step.

    Args:
      step: one of `steps()`.
      target: the state as `jax.ShapeDtypeStruct`s with the shardings wanted.

    Raises:
      ValueError: where there is no such step, or its leaves are not those of `target`.
    """
    differences = compare(self._saved(step), shapes(target))
    if differences:
      raise ValueError(f"{self.directory}/{step} is of another network: {'; '.join(differences)}.")
    args = ocp.args.PyTreeRestore(
      item=target, restore_args=ocp.checkpoint_utils.construct_restore_args(target), partial_restore=True
    )
    return self._manager.restore(step, args=ocp.args.Composite(state=args))["state"]

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
    if step not in self.steps():
      there = ", ".join(map(str, self.steps())) or "none"
      raise ValueError(f"{self.directory} has no checkpoint of step {step}; there are: {there}.")
    saved = self._manager.item_metadata(step).get("state")
    if saved is None:  # As a kill leaves it that comes while an old checkpoint is removed.
      raise ValueError(f"{self.directory}/{step} is incomplete: remove that folder to take another step.")
    return shapes(saved.tree)

  def wait(self) -> None:
    """Returns when everything started is on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits and lets go of the directory."""
    self._manager.close()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def _write_scores(self) -> None:
    if jax.process_index() == 0:
      temporary = self._scores_file.with_name("scores.json.tmp")
      temporary.write_text(json.dumps(self._scores) + "\n")
      os.replace(temporary, self._scores_file)


def open_checkpoints(workdir: str | pathlib.Path) -> Checkpoints:
  """The checkpoints of a workdir, to read. Raises ValueError where there is none."""
  directory = pathlib.Path(workdir).expanduser() / "checkpoints"
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


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  """The shape of each array of a tree by its path, `params/encoder/conv1/kernel`."""
  leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda leaf: hasattr(leaf, "shape"))[0]
  return {"/".join(_name(key) for key in path): tuple(leaf.shape) for path, leaf in leaves if hasattr(leaf, "shape")}


def _name(key: Any) -> str:
  for attribute in ("key", "name", "idx"):
    if hasattr(key, attribute):
      return str(getattr(key, attribute))
  return str(key)


def compare(saved: dict[str, tuple], wanted: dict[str, tuple], most: int = 12) -> list[str]:
  """The leaves of `wanted` that `saved` lacks or has in another shape, and, for a whole state, those left over."""
  whole = "step" in wanted
  lines = []
  for name in sorted(saved.keys() | wanted.keys()):
    if name not in wanted:
      if whole:
        lines.append(f"{name} {saved[name]} is in the checkpoint alone")
    elif name not in saved:
      lines.append(f"{name} {wanted[name]} is not in the checkpoint")
    elif saved[name] != wanted[name]:
      lines.append(f"{name} is {saved[name]} in the checkpoint, {wanted[name]} here")
  if len(lines) > most:
    lines = [*lines[:most], f"and {len(lines) - most} more"]
  return lines
