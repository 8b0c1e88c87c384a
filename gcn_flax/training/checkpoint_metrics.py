"""The metric of each evaluated checkpoint, in `scores.json`."""

import json
import logging
import math
from collections.abc import Sequence

import jax

from gcn_flax import files, json_files

_log = logging.getLogger(__name__)


class CheckpointMetrics:
  """The metric of each step, mean IoU or top-1 accuracy.

  They are kept outside the checkpoints, because a run that is stopped before an evaluation gets its metric after the
  restart.

  Args:
    path: path of the file.
  """

  def __init__(self, path: files.Path):
    self._path, self._metrics = path, {}

  def read(self, is_expected: bool, read_only: bool) -> None:
    """Reads the file. If it is damaged, or expected but missing, logs it.

    Args:
      is_expected: True if there are checkpoints.
      read_only: if False, a copy of a damaged file is kept.
    """
    try:
      metrics = json_files.read(self._path, {str: float}, "Without it the newest checkpoint counts as the best.")
      self._metrics = {int(step): metric for step, metric in metrics.items() if step.isdecimal()}
    except FileNotFoundError:
      if is_expected:
        _log.warning("WARNING: %s: missing. The newest checkpoint counts as the best.", self._path)
    except ValueError as error:
      _log.warning("WARNING: %s", error)
      if not read_only and jax.process_index() == 0:
        files.keep_damaged(self._path)

  def get(self, step: int) -> float | None:
    """Returns the metric of a step; None if it was not evaluated."""
    return self._metrics.get(step)

  def set(self, step: int, metric: float) -> None:
    """Stores the metric of a step, before or after it is saved; ignores NaN, the metric of a set that is all void."""
    if not math.isnan(metric):
      self._metrics[step] = metric
      self._write()

  def forget_after(self, step: int) -> None:
    """Drops the metrics of steps that a resumed run has not reached yet."""
    self._metrics = {known: metric for known, metric in self._metrics.items() if known <= step}
    self._write()

  def best(self, steps: Sequence[int]) -> int | None:
    """Returns the step of highest metric among some steps, the later of equals; None if none was evaluated."""
    evaluated = [step for step in steps if step in self._metrics]
    return max(evaluated, key=lambda step: (self._metrics[step], step), default=None)

  def evaluations_since_best(self, step: int) -> int:
    """Returns how many evaluations up to a step have followed the best of them, the first of equals."""
    evaluated = [self._metrics[known] for known in sorted(self._metrics) if known <= step]
    return len(evaluated) - 1 - evaluated.index(max(evaluated)) if evaluated else 0

  def _write(self) -> None:
    if jax.process_index() == 0:
      files.write(self._path, json.dumps(self._metrics) + "\n")
