"""Orbax's manager of checkpoints, which keeps the most recent and the best."""

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, LatestN

from gcn_flax import files, json_files
from gcn_flax.training.checkpoint_metrics import CheckpointMetrics

# A _CHECKPOINT_METADATA, as far as Orbax needs it.
_STEP_METADATA = {
  "init_timestamp_nsecs?": int | None, "commit_timestamp_nsecs?": int | None, "item_handlers?": object,
  "metrics?": object, "performance_metrics?": {}, "custom_metadata?": {},
}  # fmt: skip


def open_manager(
  directory: files.Path, metrics: CheckpointMetrics, keep: int, read_only: bool
) -> ocp.CheckpointManager:
  """Opens a directory of checkpoints, whose items are `state` and `digests`; arguments as for `Checkpoints`.

  Raises ValueError if the description of a step is damaged.
  """
  options = ocp.CheckpointManagerOptions(
    preservation_policy=None if read_only else AnyPreservationPolicy([LatestN(keep), _KeepBest(metrics)]),
    create=not read_only,
    cleanup_tmp_directories=not read_only,  # A save that was cut short takes room.
    read_only=read_only,
  )
  handlers = {"state": _state_handler(), "digests": ocp.JsonCheckpointHandler()}
  try:
    return _Manager(directory, options=options, item_handlers=handlers)
  except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
    for path in directory.glob("[0-9]*/_CHECKPOINT_METADATA"):
      json_files.read(path, _STEP_METADATA, "Move it elsewhere: the checkpoint can be read without it.")
    raise


def _state_handler() -> ocp.PyTreeCheckpointHandler:
  """Returns a handler that saves the first replica of each array.

  Orbax's own (0.12.8) saves a part of each array from each device, and compiles a program for each shape to cut it out.
  """
  arrays = ocp.type_handlers.ArrayHandler(use_replica_parallel=False)
  return ocp.PyTreeCheckpointHandler(
    type_handler_registry=ocp.type_handlers.create_type_handler_registry(
      (jax.Array, arrays), (np.ndarray, ocp.type_handlers.NumpyHandler())
    )
  )


class _Manager(ocp.CheckpointManager):
  """Orbax's manager without its own preemption check.

  Hosts agree on the step to stop at through a counter, see `workdir.stop_signal`. Orbax's check resets that counter,
  and then one host stops while the others go on.
  """

  def reached_preemption(self, step: int) -> bool:
    del step
    return False


class _KeepBest:
  """Preservation policy of Orbax that keeps the checkpoint of highest metric."""

  def __init__(self, metrics: CheckpointMetrics):
    self._metrics = metrics

  def should_preserve(self, checkpoints, *, context) -> list[bool]:
    best = self._metrics.best([checkpoint.step for checkpoint in checkpoints])
    return [checkpoint.step == best for checkpoint in checkpoints]
