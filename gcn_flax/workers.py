"""Worker processes: they leave Ctrl-C to their parent, and end when it is gone."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import connection, resource_tracker


@contextlib.contextmanager
def shielded_start() -> Iterator[None]:
  """Keeps SIGINT from the processes that this thread starts within the context, and from their threads.

  In a terminal, Ctrl-C reaches workers as well: they would print tracebacks, and end before their parent has saved.
  A handler in the worker would come too late, because it takes seconds to start.
  """
  resource_tracker.ensure_running()  # Its own start would unblock SIGINT.
  before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # A new process inherits the mask.
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def follow_parent() -> None:
  """Makes this process, started by `multiprocessing`, exit as soon as its parent ends, even if that was killed."""
  parent = multiprocessing.parent_process()

  def watch():
    connection.wait([parent.sentinel])
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()
