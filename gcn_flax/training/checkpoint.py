"""Checkpoints by Orbax: the newest few and the best, saved in the background, restored whole."""

import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

BEST_METRIC = "mean_iou"


class Checkpoints:
  """The checkpoints in one directory, one folder per step.

  Args:
    directory: where they are; made where it is missing, unless `read_only`.
    keep: how many of the newest are kept; the best by mean IoU is kept besides.
    read_only: nothing is written or tidied up.
  """

  def __init__(self, directory: str | pathlib.Path, keep: int = 1, read_only: bool = False):
    self.directory = pathlib.Path(directory).absolute() if "://" not in str(directory) else directory
    policies = [LatestN(keep), BestN(get_metric_fn=_mean_iou, n=1, keep_checkpoints_without_metrics=False)]
    options = ocp.CheckpointManagerOptions(
      best_fn=None if read_only else _mean_iou,
      preservation_policy=None if read_only else AnyPreservationPolicy(policies),
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
    """The step of highest mean IoU, the later of equals; the newest where none was scored."""
    scores = {step: score for step in self.steps() if (score := self.score(step)) is not None}
    return max(scores, key=lambda step: (scores[step], step)) if scores else self.latest()

  def score(self, step: int) -> float | None:
    """The mean IoU saved with a checkpoint; None where it was not scored."""
    metrics = self._manager.metrics(step)
    return metrics[BEST_METRIC] if metrics else None

  def save(self, step: int, state: Any, mean_iou: float | None = None) -> None:
    """Starts to save in the background. Anything saved for the same step is replaced."""
    if step in self.steps():
      self.wait()  # It may still be on its way to disk.
      self._manager.delete(step)
    metrics = None if mean_iou is None else {BEST_METRIC: mean_iou}
    self._manager.save(step, args=ocp.args.Composite(state=ocp.args.PyTreeSave(state)), metrics=metrics)

  def restore(self, step: int, target: Any) -> Any:
    """Reads the checkpoint of a step.

    Args:
      step: one of `steps()`.
      target: the state as `jax.ShapeDtypeStruct`s with the shardings wanted.

    Raises:
      ValueError: where there is no such step, or its leaves are not those of `target`.
    """
    return self._restore(step, target)

  def restore_weights(self, step: int, target: Any) -> tuple[Any, Any]:
    """Reads only `params` and `batch_stats` of a step, as in `target`. Raises ValueError as `restore`."""
    weights = self._restore(step, {"params": target.params, "batch_stats": target.batch_stats})
    return weights["params"], weights["batch_stats"]

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

  def _restore(self, step: int, target: Any) -> Any:
    if step not in self.steps():
      there = ", ".join(map(str, self.steps())) or "none"
      raise ValueError(f"{self.directory} has no checkpoint of step {step}; there are: {there}.")
    differences = compare(shapes(self._manager.item_metadata(step)["state"].tree), shapes(target))
    if differences:
      raise ValueError(f"{self.directory}/{step} is of another network: {'; '.join(differences)}.")
    args = ocp.args.PyTreeRestore(
      item=target, restore_args=ocp.checkpoint_utils.construct_restore_args(target), partial_restore=True
    )
    return self._manager.restore(step, args=ocp.args.Composite(state=args))["state"]


def open_checkpoints(workdir: str | pathlib.Path) -> Checkpoints:
  """The checkpoints of a workdir, to read. Raises ValueError where there is none."""
  directory = pathlib.Path(workdir).expanduser() / "checkpoints"
  if directory.is_dir():
    checkpoints = Checkpoints(directory, read_only=True)
    if checkpoints.steps():
      return checkpoints
  raise ValueError(f"there is no checkpoint in {str(directory)!r}: train first, or name another workdir.")


def _mean_iou(metrics: dict[str, float]) -> float:
  return metrics[BEST_METRIC]


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
