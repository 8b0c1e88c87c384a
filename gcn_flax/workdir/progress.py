"""Progress of training: speed and time left, a clean stop on SIGTERM, a profiler trace."""

import contextlib
import logging
import pathlib
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping

import jax
import optax
from jax.experimental import multihost_utils

from gcn_flax import files
from gcn_flax.tasks.metrics import Metrics
from gcn_flax.training import sharding
from gcn_flax.workdir.workdir import Workdir
from gcn_flax.workdir.writers import MetricWriter

_log = logging.getLogger(__name__)
_TRACED_STEPS = 5


class StopSignal:
  """Notes a SIGTERM, which schedulers send before they take a machine away; all hosts stop at the same step."""

  def __init__(self):
    self._requested, self._asked = False, 0
    self._alone = jax.process_count() == 1
    self._catches = self._alone and threading.current_thread() is threading.main_thread()

  def requested(self) -> bool:
    """Returns True if the run is to stop. All hosts must ask equally often, at the same places; a yes stays a yes."""
    if not self._alone and not self._requested:
      # With several hosts JAX catches the signal; the hosts agree on the number of the question that is answered yes.
      self._asked += 1
      self._requested = multihost_utils.reached_preemption_sync_point(self._asked)
    return self._requested

  def __enter__(self):
    if self._catches:
      self._previous = signal.signal(signal.SIGTERM, self._note)
    return self

  def __exit__(self, *_):
    if self._catches:
      signal.signal(signal.SIGTERM, self._previous)

  def _note(self, *_):
    self._requested = True


class Profiler:
  """Records a profiler trace of five steps in `WORKDIR/profile`.

  Args:
    workdir: of the run.
    first_step: number of updates after which the trace starts; 0 = never.
  """

  def __init__(self, workdir: Workdir, first_step: int):
    self._target, self._first_step, self._running = workdir / "profile", first_step, False
    self._folder = self._target

  def before_step(self, step: int) -> None:
    if self._first_step and step == self._first_step:
      if files.is_remote(self._target):
        self._folder = pathlib.Path(tempfile.mkdtemp(prefix="profile"))  # The profiler only writes to disks.
      jax.profiler.start_trace(self._folder)
      self._running = True
    if step == self._first_step + _TRACED_STEPS:
      self.close()

  def close(self) -> None:
    if self._running:
      jax.profiler.stop_trace()
      self._running = False
      if files.is_remote(self._target):
        files.upload(self._folder, self._target)
        shutil.rmtree(self._folder)
      _log.info("profiler trace from step %d: %s", self._first_step, self._target)


class TrainingLog:
  """Logs the metrics of each step while the next one runs, and stops a run whose numbers are no longer finite.

  Args:
    writer: of metrics.jsonl and TensorBoard.
    schedule: step -> learning rate.
    start: step the run starts from.
    total_steps: of the run.
    every_steps: steps between two lines of the log.
    batch_size: examples of a step, over all devices.
    counts_skipped: True if damaged examples are skipped, so that their number is logged.
  """

  def __init__(
    self, writer: MetricWriter, schedule: optax.Schedule, start: int, *, total_steps: int, every_steps: int,
    batch_size: int, counts_skipped: bool = False,
  ):  # fmt: skip
    self._writer, self._schedule = writer, schedule
    self._total_steps, self._every_steps, self._batch_size = total_steps, every_steps, batch_size
    self._skipped = 0 if counts_skipped else None
    self._pending = None
    self._first_step, self._started_step = start + 1, start
    self._begin_window()

  def push(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
    """Takes the metrics of `step`, which are still being computed, and logs those of the step before."""
    self._started_step = step
    self.flush()
    self._pending = (step, metrics)

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
    if step % self._every_steps == 0 or step == self._total_steps:
      self._report(step, metrics)
    elif step == self._first_step:
      self._measure_speed()  # Includes compilation: only shown if no later step is measured.

  def _report(self, step: int, metrics: Mapping[str, float]) -> None:
    self._measure_speed()
    scalars = {
      "loss": float(metrics["loss"]),
      "grad_norm": float(metrics["grad_norm"]),
      "learning_rate": float(self._schedule(step - 1)),
      "images_per_second": self._batch_size / self._seconds_per_step,
      "input_wait": self._input_wait,
    }
    if self._skipped is not None:
      scalars["skipped"] = sum(sharding.all_gather(self._skipped))
    self._writer.scalars(step, scalars)
    _log.info(
      "step %d/%d  loss %.4f  learning rate %.2e  %.1f images/s  input wait %.0f %%  %s left",
      step, self._total_steps, scalars["loss"], scalars["learning_rate"], scalars["images_per_second"],
      100 * self._input_wait, _clock((self._total_steps - step) * self._seconds_per_step),
    )  # fmt: skip

  def skip(self, count: int) -> None:
    """Counts damaged examples of this host that were replaced; `skipped` is their sum over hosts since the start."""
    if self._skipped is not None:
      self._skipped += count

  def _measure_speed(self) -> None:
    """Takes the mean over the steps since the last line; keeps the last value if there was no step."""
    steps = self._started_step - self._window_step
    if steps:
      seconds = max(time.monotonic() - self._window_start - self._pause_seconds, 1e-9)
      self._seconds_per_step, self._input_wait = seconds / steps, self._wait_seconds / seconds
      self._begin_window()

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

  def evaluation(self, step: int, split: str, metrics: Metrics) -> None:
    """Writes the metrics and the contact sheet of an evaluation."""
    values = {f"{split}/{name}": value for name, value in metrics.scalars.items()}
    # After a kill between this line and the checkpoint's metric, the evaluation is repeated but not written twice.
    if not self._writer.has(step, next(iter(values))):
      self._writer.scalars(step, values)
    if metrics.sample:
      self._writer.pictures(step, {f"{split}/predictions": metrics.sheet(metrics.sample)})


def _clock(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
