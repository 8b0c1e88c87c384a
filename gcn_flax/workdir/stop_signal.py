"""A clean stop on Ctrl-C (SIGINT), and on SIGTERM, which schedulers send before they take a machine away."""

import os
import signal
import threading

import jax
from jax.experimental import multihost_utils


class StopSignal:
  """Notes a SIGTERM or SIGINT within its context, so that all hosts stop at the same step.

  After the first SIGINT, the next one has the effect it had outside the context.
  """

  def __init__(self):
    self._requested, self._asked = False, 0
    self._alone = jax.process_count() == 1
    self._previous = {}

  def requested(self) -> bool:
    """Returns True once the run is to stop. All hosts must ask equally often, at the same places."""
    if not self._alone and not self._requested:
      # With several hosts JAX catches SIGTERM, and the hosts agree on how many times each may ask before it stops.
      self._asked += 1
      self._requested = multihost_utils.reached_preemption_sync_point(self._asked)
    return self._requested

  def __enter__(self):
    if threading.current_thread() is threading.main_thread():  # Only there can signals be handled.
      for number in (signal.SIGINT, signal.SIGTERM) if self._alone else (signal.SIGINT,):
        self._previous[number] = signal.signal(number, self._note)
    return self

  def __exit__(self, *_):
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _note(self, number, _):
    if number == signal.SIGINT:
      signal.signal(number, self._previous[number])
    if self._alone:
      self._requested = True
    else:
      os.kill(os.getpid(), signal.SIGTERM)
