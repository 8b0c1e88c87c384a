"""The state a run starts from: its newest whole checkpoint, else the config's initial weights, else random weights."""

import logging
from typing import Any

from gcn_flax import build
from gcn_flax.training.checkpoint import Checkpoints, DamagedCheckpoint
from gcn_flax.training.state import TrainState
from gcn_flax.workdir.workdir import Workdir
from gcn_flax.workdir.writers import read_metrics

_log = logging.getLogger(__name__)


def restore_or_init(
  setup: build.Setup, checkpoints: Checkpoints, init_weights: dict[str, Any] | None, seed: int, total_steps: int
) -> tuple[TrainState, int]:
  """Restores the newest whole checkpoint, or initialises the state. Returns it with its step.

  The order is: newest checkpoint, then older ones where newer ones are damaged (they are set aside), then random
  weights replaced by `init_weights`.

  Args:
    setup: setup of the run.
    checkpoints: checkpoints of the workdir.
    init_weights: weights from `load_init_weights`; None if the workdir must hold a checkpoint.
    seed: seed of the random weights.
    total_steps: number of updates of the run.

  Raises ValueError if a checkpoint is of another network or past `total_steps`, if none is whole, and if there is
  neither a checkpoint nor `init_weights`.
  """
  damaged = {}
  for step in reversed(checkpoints.steps()):
    try:
      if step > total_steps and checkpoints.shapes(step):
        raise ValueError(
          f"config.total_steps={total_steps}: the workdir stands at step {step}. Raise it, or use another workdir."
        )
      state = checkpoints.restore(step, setup.state_shapes)
    except DamagedCheckpoint as error:
      damaged[step] = str(error)
      continue
    for other, error in damaged.items():
      _log.warning("WARNING: %s It is set aside as %s.", error, checkpoints.set_aside(other))
    _log.info("resuming from step %d of %d.", step, total_steps)
    return state, step
  if damaged:
    raise ValueError(f"no checkpoint is whole: {' '.join(damaged.values())} Put one back, or use a new workdir.")
  if init_weights is None:  # A folder has the name of a step, but Orbax finds no checkpoint in it.
    raise ValueError(f"{checkpoints.directory} holds no whole checkpoint. Remove its content, or use a new workdir.")
  return setup.init(seed, init_weights), 0


def recover_metrics(checkpoints: Checkpoints, workdir: Workdir, name: str, start: int) -> None:
  """Sets metrics that scores.json has lost: the best checkpoint stays known, and is not removed; early stopping counts.

  Args:
    checkpoints: checkpoints of the workdir.
    workdir: workdir of the run, whose metrics.jsonl has them too.
    name: name of the metric there.
    start: step the run continues from; its own metric, if lost, is computed again.
  """
  path, lost = workdir / "metrics.jsonl", {}
  for line in read_metrics(path):
    if line.get(name) is not None and line["step"] < start and checkpoints.metrics.get(line["step"]) is None:
      lost[line["step"]] = line[name]
  if lost:
    _log.warning("WARNING: the metrics of steps %s were lost; they are taken from %s.", ", ".join(map(str, lost)), path)
  for step, metric in lost.items():
    checkpoints.metrics.set(step, metric)
