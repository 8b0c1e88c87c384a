"""Signs of life during a compilation."""

import logging
import threading
import time

from gcn_flax import compile_watch
from gcn_flax.compile_watch import compiling


def test_a_long_compilation_is_reported_until_it_ends(monkeypatch, caplog):
  monkeypatch.setattr(compile_watch, "_SECONDS", 0.01)
  threads = threading.active_count()
  with caplog.at_level(logging.INFO, logger="gcn_flax"):
    with compiling("the train step"):
      while len(caplog.records) < 2:
        time.sleep(0.01)
    count = len(caplog.records)
    time.sleep(0.05)
  assert caplog.records[0].message == "compiling the train step, 0 s so far" and len(caplog.records) == count
  assert threading.active_count() == threads
