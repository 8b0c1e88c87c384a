"""Signs of life while XLA compiles, which takes minutes for large networks on a CPU."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator

_log = logging.getLogger(__name__)
_SECONDS = 10.0  # Between two lines.


@contextlib.contextmanager
def compiling(what: str) -> Iterator[None]:
  """Logs "compiling WHAT, 10 s so far" every ten seconds while the context lasts, from a thread of its own.

  XLA compiles within the first call of a jitted function; the call itself returns before the devices are done.
  """
  ended, started = threading.Event(), time.monotonic()

  def report() -> None:
    while not ended.wait(_SECONDS):
      _log.info("compiling %s, %.0f s so far", what, time.monotonic() - started)

  thread = threading.Thread(target=report, daemon=True)
  thread.start()
  try:
    yield
  finally:
    ended.set()
    thread.join()
