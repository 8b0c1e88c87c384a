"""What a person and a scheduler see of a running loop: progress, time left, a clean stop."""

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
import ml_collections
import optax
from jax.experimental import multihost_utils

from gcn_flax import files
from gcn_flax.tasks.metrics import Scores
from gcn_flax.training import sharding
from gcn_flax.workdir.writers import Writer

_log = logging.getLogger(__name__)
_TRACED_STEPS = 5


class StopSignal:
  """Notes SIGTERM, as sent before a machine is taken away; all hosts stop at the same place."""

  def __init__(self):
    self._requested, self._asked = False, 0
    self._alone = jax.process_count() == 1
    self._catches = self._alone and threading.current_thread() is threading.main_thread()

  def requested(self) -> bool:
    """Whether to stop now. All hosts must ask equally often, at the same places; once yes, it stays so."""
    if not self._alone and not self._requested:
      # Among several hosts JAX catches the signal, and agrees with the others on how often each may ask before.
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


class Tracer:
  """Records a profiler trace of five steps into `WORKDIR/profile`.

  Args:
    workdir: of the run.
    first_step: the trace starts before the update after this many; 0 = never.
  """

  def __init__(self, workdir: files.Path, first_step: int):
    self._target, self._first_step, self._running = workdir / "profile", first_step, False
    self._folder = self._target

  def before_step(self, step: int) -> None:
    if self._first_step and step == self._first_step:
      if files.is_remote(self._target):
        self._folder = pathlib.Path(tempfile.mkdtemp(prefix="profile"))  # The profiler writes to disks alone.
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
      _log.info("trace from step %d on in %s", self._first_step, self._target)


class Log:
  """Looks at each step's metrics while the next one runs, reports, and stops a run that is no longer finite."""

  def __init__(self, config: ml_collections.ConfigDict, schedule: optax.Schedule, writer: Writer, start: int):
    self._config, self._schedule, self._writer = config, schedule, writer
    self._pending = None
    self._skipped = 0
    self._first_step, self._started_step = start + 1, start
    self._begin_window()

  def push(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
    """Takes the metrics of `step`, still being computed, and looks at those of the step before."""
    self._started_step = step
    self.flush()
    self._pending = (step, metrics)

  def flush(self) -> None:
    """Waits for the newest metrics. Raises FloatingPointError where they are not finite."""
    if self._pending is None:
      return
    (step, metrics), self._pending = self._pending, None
    metrics = jax.device_get(metrics)
    if not metrics.pop("finite"):
      raise FloatingPointError(
        f"at step {step} loss={float(metrics['loss'])}, gradient norm={float(metrics['grad_norm'])}: no longer finite. "
        f"Nothing of this step is saved. In a new workdir, lower config.optimizer.learning_rate="
        f"{self._config.optimizer.learning_rate}, lengthen the warm-up or set config.optimizer.clip_norm; "
        f"config.init_from can start it from this one's best checkpoint."
      )
    if step % self._config.log_every_steps == 0 or step == self._config.total_steps:
      self._report(step, metrics)
    elif step == self._first_step:
      self._measure_speed()  # Of compilation: shown only where no later step was measured.

  def _report(self, step: int, metrics: Mapping[str, float]) -> None:
    self._measure_speed()
    scalars = {
      "loss": float(metrics["loss"]),
      "grad_norm": float(metrics["grad_norm"]),
      "learning_rate": float(self._schedule(step - 1)),
      "images_per_second": self._config.batch_size / self._seconds_per_step,
      "input_wait": self._input_wait,
    }
    if self._config.data.skip_corrupt:
      scalars["skipped"] = sum(sharding.all_gather(self._skipped))
    self._writer.scalars(step, scalars)
    _log.info(
      "step %d/%d  loss %.4f  learning rate %.2e  %.1f images/s  input wait %.0f %%  %s left",
      step, self._config.total_steps, scalars["loss"], scalars["learning_rate"], scalars["images_per_second"],
      100 * self._input_wait, _clock((self._config.total_steps - step) * self._seconds_per_step),
    )  # fmt: skip

  def skip(self, count: int) -> None:
    """Counts damaged examples of this host that others stood in for; `skipped` is of all hosts, since this start."""
    self._skipped += count

  def _measure_speed(self) -> None:
    """Takes the mean over the steps started since the last report; keeps the last figure where there was none."""
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
    """The time within counts as waiting for input."""
    start = time.monotonic()
    yield
    self._wait_seconds += time.monotonic() - start

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """The time within does not count as training."""
    start = time.monotonic()
    yield
    self._pause_seconds += time.monotonic() - start

  def scores(self, step: int, split: str, scores: Scores) -> None:
    values = {f"{split}/{name}": value for name, value in scores.scalars.items()}
    if not self._writer.has(step, next(iter(values))):  # A kill may have come between this line and its score.
      self._writer.scalars(step, values)
    if scores.sample:
      self._writer.pictures(step, {f"{split}/predictions": scores.sheet(scores.sample)})


def _clock(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
