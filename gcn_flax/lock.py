"""Keeps two runs out of one workdir."""

import contextlib
import fcntl
import json
import os
import pathlib
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator

import jax

from gcn_flax import files
from gcn_flax.training import partition

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
    error = partition.gather(error)[0]
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
      yield file.read()
      return
    file.truncate(0)
    file.write(who)
    file.flush()
    yield ""


@contextlib.contextmanager
def _leased(path: files.Path, who: str) -> Iterator[str]:
  """The same by signs of life, in which nobody's clock matters: they only have to change."""
  before = _read(path)
  waited = 0
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
    count = 0
    while not ended.wait(_BEAT):
      now = _read(path)
      if now and now["token"] != token:  # This machine stood still for so long that another run has begun.
        print(f"error: {path.parent} was taken over by another run ({now['who']}).", file=sys.stderr, flush=True)
        os._exit(1)
      count += 1
      path.write_text(json.dumps({"who": who, "token": token, "beat": count}))

  thread = threading.Thread(target=beat, daemon=True)
  thread.start()
  try:
    yield ""
  finally:
    ended.set()
    thread.join()
    path.unlink(missing_ok=True)


def _read(path: files.Path) -> dict[str, str] | None:
  return json.loads(path.read_text()) if path.exists() else None
