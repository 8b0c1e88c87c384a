"""Runs a command in this process, and finds what is wrong with its end."""

import contextlib
import dataclasses
import io
import os
import re
import shlex
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence

from data import browse, prepare
from gcn_flax import main

MAX_SECONDS = 30  # A command with stubs takes less than a second.
MODULES = {"gcn_flax": main.main, "data.browse": browse.main, "data.prepare": prepare.main}
_LOG = re.compile(r"ERROR:absl:|\d\d:\d\d:\d\d |.*\bWARNING\b|note: |\s*$|\w+ing\b.*(\d+%\||\.\.\.$)")
_INTERNAL = re.compile(
  r"has no attribute|not subscriptable|index out of range|'NoneType'|positional argument|invalid literal|unhashable"
  r"|must be str, not|must be int|expected string|argument of type|unsupported operand|not iterable|object is not"
  r"|not supported between|JSONDecodeError|list indices|too many values to unpack|<class '"
  r"|codec can't encode|Traceback|malformed node|object at 0x|Exceeds the limit|RecursionError|maximum recursion"
  r"|error: '[^']*'\.?$|error: \S+$"
)
_CAUSE = re.compile(r"damaged( \(|: ).*")  # In the words of the library that could not read a file.


@dataclasses.dataclass(frozen=True)
class Outcome:
  """The end of a command: exit status, stdout, stderr, and the traceback of an exception that it did not catch."""

  status: int | None
  stdout: str
  stderr: str
  trace: str = ""

  @property
  def error(self) -> str:
    """The line on stderr that begins with `error: `; the first one if there are several."""
    return next((line for line in self.stderr.splitlines() if line.startswith("error: ")), "")

  def faults(self, statuses: Sequence[int] = (0, 1), lines: bool = False) -> list[str]:
    """Returns what a user should not see; `lines` allows several lines of errors."""
    if self.trace:
      return [f"traceback: {self.trace}"]
    found = [] if self.status in statuses else [f"status {self.status}"]
    errors = [line for line in self.stderr.splitlines() if line.startswith("error: ")]
    others = [line for line in self.stderr.splitlines() if not line.startswith("error: ") and not _LOG.match(line)]
    if others:
      found.append(f"on stderr: {' / '.join(others)[:300]}")
    if self.status == 1 and (not errors or (len(errors) > 1 and not lines)):
      found.append(f"{len(errors)} lines of errors: {' / '.join(errors)[:300]}")
    if self.status == 0 and errors:
      found.append(f"status 0 with {errors[0]}")
    found += [f"words of Python: {line[:300]}" for line in errors if _INTERNAL.search(_CAUSE.sub("", line))]
    return found


def run(argv: Sequence[str]) -> Outcome:
  """Runs `gcn_flax`, `data.browse` or `data.prepare`, the first argument, in this process."""
  module, *arguments = argv
  stdout, stderr = _stream("strict"), _stream("backslashreplace")
  status, trace, orphans = None, "", []
  with _redirected(stdout, stderr, orphans), _time_limit():
    try:
      status = MODULES[module](argv if module == "gcn_flax" else arguments)
    except SystemExit as end:  # As argparse ends a process.
      status = end.code
    except BaseException as error:
      trace = _shorten(error)
  trace = trace or "".join(orphans)
  return Outcome(status, *(stream.buffer.getvalue().decode() for stream in (stdout, stderr)), trace)


def touched_by(argv: Sequence[str]) -> set[str]:
  """Runs a command and returns the absolute paths that Python code opened, listed, moved or removed."""
  sys.addaudithook(_audit)  # Hooks cannot be removed; this one does nothing outside this function.
  _touched.clear()
  _touched.add("")
  run(argv)
  found = {os.path.abspath(path) for path in _touched if path}
  _touched.clear()
  return found


_touched: set[str] = set()


def _audit(event: str, arguments: tuple) -> None:
  if _touched and (event == "open" or event.startswith(("os.", "shutil."))):
    _touched.update(os.fsdecode(path) for path in arguments if isinstance(path, str | bytes | os.PathLike))


def as_command(argv: Sequence[str]) -> str:
  """Returns a command line to copy into a shell."""
  return shlex.join(["python", "-m", *argv])


def _stream(errors: str) -> io.TextIOWrapper:
  return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=errors, write_through=True)


@contextlib.contextmanager
def _redirected(stdout: io.TextIOWrapper, stderr: io.TextIOWrapper, orphans: list[str]):
  """Sends output to streams, and notes exceptions in threads and destructors."""
  hooks = threading.excepthook, sys.unraisablehook
  threading.excepthook = lambda given: orphans.append(f"in a thread: {_shorten(given.exc_value)}")
  sys.unraisablehook = lambda given: orphans.append(f"ignored: {_shorten(given.exc_value)}")
  try:
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr), warnings.catch_warnings():
      warnings.simplefilter("default")
      warnings.simplefilter("ignore", DeprecationWarning)  # As Python does for code of others.
      yield
  finally:
    threading.excepthook, sys.unraisablehook = hooks


@contextlib.contextmanager
def _time_limit():
  def give_up(*_):
    raise TimeoutError(f"the command took longer than {MAX_SECONDS} s")

  before = signal.signal(signal.SIGALRM, give_up)
  signal.alarm(MAX_SECONDS)
  try:
    yield
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def _shorten(error: BaseException) -> str:
  """Returns the error with the last lines of this project that led to it."""
  frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/site-packages/" not in frame.filename]
  places = [f"{'/'.join(frame.filename.split('/')[-2:])}:{frame.lineno} {frame.name}" for frame in frames[-3:]]
  return f"{type(error).__name__}: {str(error)[:300]} at {' < '.join(reversed(places))}"
