"""The time that a training run still takes, for its log."""


class TimeLeft:
  """Estimates the time until the end of a run from the seconds of a step and of the latest evaluation.

  Args:
    total_steps: number of updates of the run.
    eval_every_steps: steps between two evaluations; the last step is evaluated, too.
  """

  def __init__(self, total_steps: int, eval_every_steps: int):
    self._total_steps, self._every = total_steps, eval_every_steps
    self._eval_seconds = None

  def evaluated(self, seconds: float) -> None:
    """Takes the seconds of an evaluation. Those of the first one include its compilation."""
    self._eval_seconds = seconds

  def describe(self, step: int, seconds_per_step: float) -> str:
    """Returns the time left after `step`: "0:12:30", or "0:12:30 and 4 evaluations" until one of them was timed."""
    evaluations = self._evaluations_after(step)
    seconds = (self._total_steps - step) * seconds_per_step
    if self._eval_seconds is None and evaluations:
      return f"{clock(seconds)} and {evaluations} evaluation{'s' if evaluations > 1 else ''}"
    return clock(seconds + evaluations * (self._eval_seconds or 0.0))

  def _evaluations_after(self, step: int) -> int:
    total, every = self._total_steps, self._every
    return total // every - step // every + (total % every > 0) if step < total else 0


def clock(seconds: float) -> str:
  """Formats a duration as hours:minutes:seconds."""
  minutes, seconds = divmod(round(seconds), 60)
  return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
