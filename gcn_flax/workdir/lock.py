"""Keeps two runs out of one workdir."""

import contextlib
import fcntl
import json
import logging
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Iterator

import jax

from gcn_flax import distributed, files
from gcn_flax.training import sharding

_log = logging.getLogger(__name__)
_BEAT = 15  # Seconds between two signs of life of a run whose workdir is in a bucket.
LEASE = 60  # Seconds without one after which another run may take the workdir.


@contextlib.contextmanager
def owned(workdir: files.Path) -> Iterator[None]:
  """Keeps every other run out of a workdir for as long as this one lasts, however it ends.

  On a disk by the system's own lock, in a bucket by a file that is written again and again: there
  a run that is killed leaves the workdir closed for `LEASE` seconds. All hosts must enter it.

  Raises ValueError where another run is in it.
  """
  error = ""
  with contextlib.ExitStack() as stack:
    if jax.process_index() == 0:
      workdir.mkdir(parents=True, exist_ok=True)
      who = f"process {os.getpid()} on {socket.gethostname()}, begun {time.strftime('%Y-%m-%d %H:%M:%S%z')}"
      other = stack.enter_context((_leased if files.is_remote(workdir) else _locked)(workdir / "lock", who))
      if other:
        error = f"{workdir} is in use by another run ({other}): wait for it, stop it, or take another workdir."
    error = sharding.all_gather(error)[0]
    if error:
      raise ValueError(error)
    yield


@contextlib.contextmanager
def _locked(path: pathlib.Path, who: str) -> Iterator[str]:
  """Gives '' to who has the lock, and who has it to everybody else."""
  with open(path, "a+") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # The system lets go of it when the process is gone.
    except BlockingIOError:
      file.seek(0)
      yield file.read() or "one that has just begun"
      return
    except OSError as error:  # As of a network disk that is mounted without.
      raise OSError(
        f"{path}: this disk has no locks ({error}): mount it with them, or take another workdir."
      ) from error
    file.truncate(0)
    file.write(who)
    file.flush()
    yield ""


@contextlib.contextmanager
def _leased(path: files.Path, who: str) -> Iterator[str]:
  """The same by signs of life, in which nobody's clock matters: they only have to change."""
  before = _read(path)
  waited = 0
  if before:
    _log.info("%s: waiting up to %d s for a sign of life of %s", path, LEASE, before["who"])
  while before and waited < LEASE:
    time.sleep(_BEAT / 3)
    waited += _BEAT / 3
    now = _read(path)
    if now and now != before:
      yield now["who"]
      return
    before = now
  token, ended = uuid.uuid4().hex, threading.Event()
  path.write_text(json.dumps({"who": who, "token": token, "beat": 0}))
  time.sleep(_BEAT / 3)
  now = _read(path)
  if not now or now["token"] != token:  # Another one came at the same moment.
    yield now["who"] if now else "which has just ended"
    return

  def beat():
    beats, heard = 0, time.monotonic()
    while not ended.wait(_BEAT):
      try:
        now = _read(path)
        if now and now["token"] != token:  # This machine stood still for so long that another run has begun.
          distributed.give_up(f"{path.parent} was taken over by another run ({now['who']}).")
        beats += 1
        path.write_text(json.dumps({"who": who, "token": token, "beat": beats}))
        heard = time.monotonic()
      except Exception as error:  # Of the network, in any library's words: the next time may be better.
        if time.monotonic() - heard > LEASE:
          distributed.give_up(f"{path.parent} could not be reached for {LEASE} s, another run may have begun: {error}")

  thread = threading.Thread(target=beat, daemon=True)
  thread.start()
  try:
    yield ""
  finally:
    ended.set()
    thread.join()
    now = _read(path)
    if now and now["token"] == token:
      path.unlink()


def _read(path: files.Path) -> dict[str, str] | None:
  try:
    return json.loads(path.read_text())
  except FileNotFoundError:
    return None
