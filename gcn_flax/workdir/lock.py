"""A lock that keeps a second run out of a workdir."""

import contextlib
import errno
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

from gcn_flax import distributed, file_locks, files, json_files
from gcn_flax.training import sharding
from gcn_flax.workdir.workdir import Workdir

_log = logging.getLogger(__name__)
_BEAT = 15  # Seconds between two heartbeats.
LEASE = 60  # Seconds without a heartbeat after which another run may take the workdir.


@contextlib.contextmanager
def locked(workdir: Workdir) -> Iterator[None]:
  """Locks a workdir for the lifetime of this run. All hosts must enter the context.

  A disk gets a file lock of the operating system, a bucket a lease: there the workdir of a killed run stays locked for
  `LEASE` seconds.

  Raises ValueError if another run holds the lock.
  """
  error = ""
  with contextlib.ExitStack() as stack:
    if jax.process_index() == 0:
      workdir.create()
      who = f"process {os.getpid()} on {socket.gethostname()}, begun {time.strftime('%Y-%m-%d %H:%M:%S%z')}"
      other = stack.enter_context((_lease if workdir.is_remote else _file_lock)(workdir / "lock", who))
      if other:
        error = f"{workdir} is in use by another run ({other}). Wait for it, stop it, or use another workdir."
    error = sharding.all_gather(error)[0]
    if error:
      raise ValueError(error)
    yield


@contextlib.contextmanager
def _file_lock(path: pathlib.Path, who: str) -> Iterator[str]:
  """Yields '' if the lock was taken, else the description of its owner."""
  with open(path, "a+", errors="replace", opener=_open_no_link) as file:
    try:
      file_locks.lock(file.fileno())
    except BlockingIOError:
      file.seek(0)
      yield file.read() or "one that has just begun"
      return
    except OSError as error:  # For instance a network disk that is mounted without locks.
      raise OSError(
        f"{path}: this disk has no locks ({error}). Mount it with locks, or use another workdir."
      ) from error
    file.truncate(0)
    file.write(who)
    file.flush()
    yield ""


def _open_no_link(name: str, flags: int) -> int:
  """Opens a file. Raises ValueError for a symbolic link: the file that it leads to would be overwritten."""
  try:
    return os.open(name, flags | os.O_NOFOLLOW, 0o666)
  except OSError as error:
    if error.errno == errno.ELOOP:
      raise ValueError(f"{name}: is a symbolic link. Remove it.") from error
    raise


@contextlib.contextmanager
def _lease(path: files.Path, who: str) -> Iterator[str]:
  """A lease for object stores: a heartbeat file judged by change, not by wall clock. Yields as `_file_lock`."""
  before = _read(path)
  waited = 0
  if before:
    _log.info("%s: waiting up to %d s for a heartbeat of %s", path, LEASE, before["who"])
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
  if not now or now["token"] != token:  # Another run began at the same moment.
    yield now["who"] if now else "one that is just ending"
    return

  def beat():
    beats, heard = 0, time.monotonic()
    while not ended.wait(_BEAT):
      try:
        now = _read(path)
        if now and now["token"] != token:  # This machine was paused for so long that another run began.
          distributed.give_up(f"{path.parent} was taken over by another run ({now['who']}).")
        beats += 1
        path.write_text(json.dumps({"who": who, "token": token, "beat": beats}))
        heard = time.monotonic()
      except Exception as error:  # Network errors of any library; the next beat may succeed.
        if time.monotonic() - heard > LEASE:
          distributed.give_up(
            f"{path.parent} could not be reached for {LEASE} s, so another run may have begun: {error}"
          )

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
  """Returns the content of a lease; None if there is none, or none that a run wrote."""
  try:
    return json_files.read(path, {"who": str, "token": str}, fix="")
  except (FileNotFoundError, ValueError):
    return None
