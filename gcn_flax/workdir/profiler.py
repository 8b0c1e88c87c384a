"""A profiler trace of a few training steps."""

import logging
import pathlib
import shutil
import tempfile

import jax

from gcn_flax import files
from gcn_flax.workdir.workdir import Workdir

_log = logging.getLogger(__name__)
_TRACED_STEPS = 5


class Profiler:
  """Records a profiler trace of five steps in `WORKDIR/profile`.

  Args:
    workdir: workdir of the run.
    first_step: number of updates after which the trace starts; 0 = never.
  """

  def __init__(self, workdir: Workdir, first_step: int):
    self._target, self._first_step, self._running = workdir / "profile", first_step, False
    self._folder = self._target

  def before_step(self, step: int) -> None:
    """Starts or stops the trace if it is due; `step` is the number of updates so far."""
    if self._first_step and step == self._first_step:
      if files.is_remote(self._target):
        self._folder = pathlib.Path(tempfile.mkdtemp(prefix="profile"))  # The profiler only writes to disks.
      jax.profiler.start_trace(self._folder)
      self._running = True
    if step == self._first_step + _TRACED_STEPS:
      self.close()

  def close(self) -> None:
    """Stops and stores a trace that is still running."""
    if self._running:
      jax.profiler.stop_trace()
      self._running = False
      if files.is_remote(self._target):
        files.upload(self._folder, self._target)
        shutil.rmtree(self._folder)
      _log.info("profiler trace from step %d: %s", self._first_step, self._target)
