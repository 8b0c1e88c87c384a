"""The log of training: the lines of metrics.jsonl and of the console, with speed, input wait and time left."""

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping

import jax
import optax

from gcn_flax.printable import one_line
from gcn_flax.tasks.metrics import Metrics
from gcn_flax.training import sharding
from gcn_flax.workdir.time_left import TimeLeft
from gcn_flax.workdir.writers import MetricWriter

_log = logging.getLogger(__name__)
_TIMED_STEPS = 3  # Steps after the first one, which compiles, that the first estimate of the time left is based on.


@contextlib.contextmanager
def not_vital(what: str) -> Iterator[None]:
  """Logs an error within the context as a warning: no training ends because `what` cannot be drawn or written."""
  try:
    yield
  except Exception as error:  # Of whichever library draws or writes.
    _log.warning("WARNING: %s could not be written, the training goes on: %s", what, one_line(error))


class TrainingLog:
  """Logs the metrics of each step while the next one runs, and stops a run whose numbers are no longer finite.

  The loss of a line is the mean over the steps since the line before, or since the start if that was later; gradient
  norm and learning rate are those of the step itself.

  Args:
    writer: writer of metrics.jsonl and TensorBoard.
    schedule: step -> learning rate.
    start: step the run starts from.
    total_steps: number of updates of the run.
    every_steps: steps between two lines of the log.
    eval_every_steps: steps between two evaluations.
    batch_size: examples of a step, over all devices.
    counts_skipped: True if damaged examples are skipped, so that their number is logged.
  """

  def __init__(
    self, writer: MetricWriter, schedule: optax.Schedule, start: int, *, total_steps: int, every_steps: int,
    eval_every_steps: int, batch_size: int, counts_skipped: bool = False,
  ):  # fmt: skip
    self._writer, self._schedule = writer, schedule
    self._total_steps, self._every_steps, self._batch_size = total_steps, every_steps, batch_size
    self._counts_skipped, self._skipped = counts_skipped, 0
    self._pending, self._losses = None, []
    self._first_step, self._started_step = start + 1, start
    self._time_left, self._seconds_per_step = TimeLeft(total_steps, eval_every_steps), None
    self._begin_window()

  def push(self, step: int, metrics: Mapping[str, jax.Array], skipped: int = 0) -> None:
    """Takes the metrics of `step`, which are still being computed, and logs those of the step before.

    `skipped` is the number of damaged examples of this host that were replaced; logged is their sum over steps and
    hosts since the start.
    """
    self._started_step = step
    self.flush()
    self._pending = (step, metrics)
    self._skipped += skipped

  def flush(self) -> None:
    """Waits for the newest metrics. Raises FloatingPointError if they are not finite."""
    if self._pending is None:
      return
    (step, metrics), self._pending = self._pending, None
    metrics = jax.device_get(metrics)
    if not metrics.pop("finite"):
      raise FloatingPointError(
        f"step {step}: loss={float(metrics['loss'])}, gradient norm={float(metrics['grad_norm'])} are no longer "
        "finite. Nothing of this step is saved. In a new workdir, lower config.optimizer.learning_rate, lengthen the "
        "warm-up or set config.optimizer.clip_norm; config.init_from can start it from the best checkpoint of this one."
      )
    self._losses.append(float(metrics["loss"]))
    is_first = step == self._first_step
    if is_first:
      _log.info("first step after %.1f s, compilation included", self._window_seconds())
    if step % self._every_steps == 0 or step == self._total_steps:
      self._report(step, metrics)
    elif is_first:
      self._measure_speed()  # Includes compilation: only shown if no later step is measured.
    elif step == self._first_step + _TIMED_STEPS:
      self._measure_speed()
      left = self._time_left.describe(step, self._seconds_per_step)
      _log.info("about %.3g s per step, %s left", self._seconds_per_step, left)

  def _report(self, step: int, metrics: Mapping[str, float]) -> None:
    self._measure_speed()
    losses, self._losses = self._losses, []
    scalars = {
      "loss": math.fsum(losses) / len(losses),
      "grad_norm": float(metrics["grad_norm"]),
      "learning_rate": float(self._schedule(step - 1)),
      "images_per_second": self._batch_size / self._seconds_per_step,
      "input_wait": self._input_wait,
    }
    if self._counts_skipped:
      scalars["skipped"] = sum(sharding.all_gather(self._skipped))
    self._writer.scalars(step, scalars)
    _log.info(
      "step %d/%d  loss %.4f  learning rate %.2e  %.1f images/s  input wait %.0f %%  %s left",
      step, self._total_steps, scalars["loss"], scalars["learning_rate"], scalars["images_per_second"],
      100 * self._input_wait, self._time_left.describe(step, self._seconds_per_step),
    )  # fmt: skip

  def _measure_speed(self) -> None:
    """Takes the mean over the steps since the last line; keeps the last value if there was no step."""
    steps = self._started_step - self._window_step
    if steps:
      seconds = self._window_seconds()
      self._seconds_per_step, self._input_wait = seconds / steps, self._wait_seconds / seconds
      self._begin_window()

  def _window_seconds(self) -> float:
    return max(time.monotonic() - self._window_start - self._pause_seconds, 1e-9)

  def _begin_window(self) -> None:
    self._window_step, self._window_start = self._started_step, time.monotonic()
    self._pause_seconds = self._wait_seconds = 0.0

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """Counts the time within the context as waiting for input."""
    start = time.monotonic()
    yield
    self._wait_seconds += time.monotonic() - start

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Leaves the time within the context out of the speed."""
    start = time.monotonic()
    yield
    self._pause_seconds += time.monotonic() - start

  def evaluation(self, step: int, split: str, metrics: Metrics, seconds: float) -> None:
    """Writes the metrics and the contact sheet of an evaluation that took `seconds`."""
    values = {f"{split}/{name}": value for name, value in metrics.logged.items()}
    # After a kill between this line and the checkpoint's metric, the evaluation is repeated but not written twice.
    if not self._writer.has(step, next(iter(values))):
      self._writer.scalars(step, values)
    if metrics.sample:
      with not_vital("the contact sheet"):
        self._writer.pictures(step, {f"{split}/predictions": metrics.sheet(metrics.sample)})
    self._time_left.evaluated(seconds)
    left = f", {self._time_left.describe(step, self._seconds_per_step)} left" if self._seconds_per_step else ""
    _log.info("evaluated %s in %.1f s%s", split, seconds, left)
