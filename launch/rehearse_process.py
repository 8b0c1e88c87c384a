"""Runs one command of a rehearsal: its output goes to a file, its progress to the terminal."""

import collections
import os
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TextIO

from launch.child_process import passing_signals

_PROGRESS = re.compile(
  r"step \d+/\d+|resuming from|(encoder|weights) from|evaluated |stopped by|^mean IoU|^top-1|^wrote|^best|^error"
)
_PAUSE = 0.1  # Seconds between two looks at the output.
_TAIL = 8  # Last lines of the output that an error repeats.


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
  with open(log, "a") as output, open(log, errors="replace") as lines:
    output.write(f"$ {command}\n")
    output.flush()
    lines.seek(0, os.SEEK_END)
    # Into the file, not a pipe: the command can end in good order even if this process is killed.
    child = subprocess.Popen(
      ["bash", "-ec", prefix + command],
      cwd=folder,
      env=dict(environment),
      stdout=output,
      stderr=output,
      pass_fds=inherited,
    )
    with passing_signals(child):
      try:
        for line in _follow(lines, child):
          if _PROGRESS.search(line):
            print(f"    {line}", flush=True)
          number = after_line(line)
          if number and child.poll() is None:
            child.send_signal(number)
      finally:
        if child.poll() is None:
          child.kill()
  return child.returncode


def _follow(lines: TextIO, child: subprocess.Popen) -> Iterator[str]:
  """Yields the lines that a process appends to a file, without their ends, until the process ends."""
  begun = ""
  while True:
    has_ended = child.poll() is not None  # Asked first, so that its last lines are read.
    *whole, begun = (begun + lines.read()).split("\n")
    yield from whole
    if has_ended:
      break
    time.sleep(_PAUSE)


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
