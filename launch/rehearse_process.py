"""Runs one command of a rehearsal: its output goes to a file, its progress to the terminal."""

import collections
import os
import pathlib
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

_PROGRESS = re.compile(
  r"step \d+/\d+|resuming from|(encoder|weights) from|evaluated |stopped by|^mean IoU|^top-1|^wrote|^best|^error"
)
_TAIL = 8  # Last lines of the output that an error repeats.


class Stopped(Exception):
  """Says that a signal to the rehearsal stopped its command, which has saved its state if it had one."""


def run_command(
  command: str,
  folder: pathlib.Path,
  environment: Mapping[str, str],
  log: pathlib.Path,
  after_line: Callable[[str], int] = lambda line: 0,
  inherited: Sequence[int] = (),
) -> int:
  """Runs a command in a shell and returns its exit status; negative if a signal ended it.

  Args:
    command: the command, on one line.
    folder: working directory.
    environment: environment variables.
    log: file that the output is appended to.
    after_line: called with each line of the output; returns the number of a signal to send to the command, or 0.
    inherited: file descriptors that stay open in the command, such as that of a lock.

  Raises:
    Stopped: if SIGINT or SIGTERM came to this process, after the command ended.
  """
  prefix = "exec " if command.startswith("python ") else ""  # Signals reach the program, not a shell around it.
  child = subprocess.Popen(
    ["bash", "-ec", prefix + command],
    cwd=folder,
    env=dict(environment),
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    errors="replace",
    pass_fds=inherited,
  )
  stopped = []

  def stop(*_):
    stopped.append(True)
    child.terminate()

  before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
  try:
    with open(log, "a") as file:
      file.write(f"$ {command}\n")
      for line in child.stdout:
        file.write(line)
        file.flush()
        if _PROGRESS.search(line):
          print(f"    {line.rstrip()}", flush=True)
        number = after_line(line)
        if number and child.poll() is None:
          child.send_signal(number)
    status = child.wait()
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
    if child.poll() is None:
      child.kill()
  if stopped:
    raise Stopped
  return status


def last_lines(log: pathlib.Path) -> str:
  """Returns the end of a log, indented, for an error."""
  with open(log, errors="replace") as file:
    return "".join(f"    {line.rstrip()}\n" for line in collections.deque(file, _TAIL))


def environment(root: pathlib.Path, folder: pathlib.Path) -> dict[str, str]:
  """Returns the variables of commands that run in `folder` and import the packages of the clone `root`.

  They compile into one cache, and use the CPU unless JAX_PLATFORMS says otherwise.
  """
  return {
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
    **os.environ,
    "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
    "PYTHONPATH": str(root),
  }
