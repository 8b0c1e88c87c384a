"""A clean stop on SIGTERM, which schedulers send before they take a machine away."""

import signal
import threading

import jax
from jax.experimental import multihost_utils


class StopSignal:
  """Notes a SIGTERM within its context, so that all hosts stop at the same step."""

  def __init__(self):
    self._requested, self._asked = False, 0
    self._alone = jax.process_count() == 1
    self._catches = self._alone and threading.current_thread() is threading.main_thread()

  def requested(self) -> bool:
    """Returns True once the run is to stop. All hosts must ask equally often, at the same places."""
    if not self._alone and not self._requested:
      # With several hosts JAX catches the signal, and the hosts agree on how many times each may ask before it stops.
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
