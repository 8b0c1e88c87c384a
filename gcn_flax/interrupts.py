"""Ctrl-C (SIGINT): ends a command with one line and an exit status; a second one ends the process at once.

A training stops cleanly instead, see `workdir/stop_signal.py`.
"""

import contextlib
import functools
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator

INTERRUPTED = 128 + signal.SIGINT  # Exit status of a command that Ctrl-C ended, as shells give it.
MESSAGE = "stopped by Ctrl-C."


def interruptible(command: Callable[..., int]) -> Callable[..., int]:
  """Decorates a command-line entry point: Ctrl-C prints one line, and the command returns `INTERRUPTED`.

  A second Ctrl-C ends the process at once, even while it runs compiled code, which Python's own handler waits for.
  """

  @functools.wraps(command)
  def run(*args, **kwargs) -> int:
    with contextlib.ExitStack() as stack:
      if threading.current_thread() is threading.main_thread():  # Only there can signals be handled.
        stack.enter_context(_watching())
      try:
        status = command(*args, **kwargs)
      except KeyboardInterrupt:
        print(f"error: {MESSAGE}", file=sys.stderr, flush=True)
        status = INTERRUPTED
      if status == INTERRUPTED:
        stack.callback(signal.signal, signal.SIGINT, signal.SIG_DFL)  # While Python exits, too.
      return status

  return run


@contextlib.contextmanager
def _watching() -> Iterator[None]:
  """Runs a thread that is told of each signal at once, whatever the main thread does."""
  told, tell = socket.socketpair()
  tell.setblocking(False)  # As `set_wakeup_fd` demands.
  handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # Shells make background jobs ignore it.
  wakeup = signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)
  threading.Thread(target=_exit_at_the_second, args=(told,), daemon=True).start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(wakeup)
    signal.signal(signal.SIGINT, handler)
    tell.close()


def _exit_at_the_second(told: socket.socket) -> None:
  """Ends the process at the second SIGINT; says after the first how to, if the process goes on for two seconds."""
  count, announced = 0, False
  with told:
    while True:
      if count and not announced and not select.select([told], [], [], 2)[0]:
        _say("stopping; press Ctrl-C again to stop at once.")
        announced = True
      numbers = told.recv(64)
      if not numbers:
        return
      count += numbers.count(signal.SIGINT)
      if count > 1:
        _say("error: stopped at once by a second Ctrl-C.")
        os._exit(INTERRUPTED)


def _say(line: str) -> None:
  os.write(2, f"{line}\n".encode())  # Unlike print, it needs no lock that the main thread may hold.
