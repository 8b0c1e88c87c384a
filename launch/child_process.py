"""Locks and signals for runners of commands: one runner at a time in a folder, and signals that reach the command."""

import contextlib
import pathlib
import signal
import subprocess
from collections.abc import Iterator

from gcn_flax import file_locks


class Stopped(Exception):
  """Says that a signal stopped the command of the moment, which has saved its state if it had one."""


@contextlib.contextmanager
def locked(path: pathlib.Path, folder: pathlib.Path) -> Iterator[int]:
  """Waits until no other process works in a folder, including commands whose runner was killed.

  Args:
    path: file of the lock; its folder is made.
    folder: the folder, as it is called in the message.

  Yields the descriptor of the lock, which a command must inherit to hold it.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  with open(path, "w") as file:
    try:
      file_locks.lock(file.fileno())
    except BlockingIOError:
      print(f"waiting for another process to leave {folder}", flush=True)
      file_locks.lock(file.fileno(), wait=True)
    yield file.fileno()


@contextlib.contextmanager
def passing_signals(child: subprocess.Popen) -> Iterator[None]:
  """Passes SIGTERM and SIGINT on to a command as SIGTERM, so that it saves; raises Stopped at the end if one came."""
  stopped = []

  def stop(*_):
    stopped.append(True)
    child.terminate()

  before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
  if stopped:
    raise Stopped
