"""Joins the processes on one or several hosts into one run, and ends all of them when one fails."""

import atexit
import glob
import itertools
import os
import re
import socket
import sys
import threading
import time
import urllib.request

import jax
from jax._src import distributed  # The key-value store that all processes see has no public name.
from jax.extend.backend import register_backend_factory

# The variable in which each launcher states how many processes it started; JAX itself reads the rest.
_COUNT_VARIABLES = {"SLURM": "SLURM_STEP_NUM_TASKS", "Open MPI": "OMPI_COMM_WORLD_SIZE"}
_TPU_HOSTS = "TPU_WORKER_HOSTNAMES"  # Set for a Cloud TPU slice on GKE. On a TPU VM, the metadata server is asked:
_TPU_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/worker-network-endpoints"
_INITIALIZE_MARGIN = 60  # Seconds that JAX waits longer than we do.
STOPPED = 75  # Exit status of a run that continues when started again (sysexits.h: EX_TEMPFAIL).
_HEARTBEAT_PERIOD = 1  # Seconds.
HEARTBEAT_TIMEOUT = 30  # Seconds without a heartbeat after which a process counts as dead.
_exiting = threading.Event()  # Set when Python exits.
_HEARTBEATS, _ENDED = "gcn_flax/alive/", "gcn_flax/ended/"  # Folders of the key-value store.


def skip_libtpu() -> None:
  """Keeps JAX from loading libtpu on a machine without a TPU, where it prints five lines of errors.

  libtpu may be installed there for `--mode=plan` or for the tests. All other platforms are found as before, and
  platforms set by the user (JAX_PLATFORMS) are respected. Call this before JAX initializes its devices.
  """
  if not jax.config.jax_platforms and not _has_tpu():
    register_backend_factory("tpu", _no_tpu, fail_quietly=True)


def _no_tpu() -> None:
  raise RuntimeError("this machine has neither /dev/accel* nor /dev/vfio/*")


def _has_tpu() -> bool:
  return bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"))


def expected_processes() -> tuple[str, int] | None:
  """Returns (launcher, number of processes) as set in the environment, or None if this process is the only one.

  Raises ValueError if the launcher's variable is not a positive number.
  """
  for launcher, name in _COUNT_VARIABLES.items():
    value = os.environ.get(name, "1")
    if not re.fullmatch("[1-9][0-9]{0,8}", value):
      raise ValueError(f"{name}={value!r}: must be a number of processes. It is set by {launcher}: use its launcher.")
    if int(value) > 1:
      return launcher, int(value)
  hosts = [host for host in (os.environ.get(_TPU_HOSTS) or _query_tpu_metadata()).split(",") if host]
  return ("Cloud TPU", len(hosts)) if len(hosts) > 1 else None


def _query_tpu_metadata() -> str:
  """Returns the hosts of the slice that this TPU VM belongs to, separated by commas; '' on other machines."""
  if os.environ.get("TPU_SKIP_MDS_QUERY") or not _has_tpu():
    return ""
  request = urllib.request.Request(_TPU_METADATA, headers={"Metadata-Flavor": "Google"})
  try:
    with urllib.request.urlopen(request, timeout=5) as answer:
      return answer.read().decode()
  except OSError:
    return ""


def join(coordinator: str, num_processes: int | None, process_id: int | None, timeout: int) -> int:
  """Waits until all processes of the run have connected, and returns the index of this one.

  Does nothing if this process is the only one. Call this before JAX initializes its devices.

  Args:
    coordinator: "host:port" of process 0; '' if SLURM, Open MPI, Cloud TPU or GKE sets all three in the environment.
    num_processes: number of processes of the run; only with `coordinator`.
    process_id: index of this process; only with `coordinator`.
    timeout: seconds to wait for the others.

  If the others do not connect in time, the process ends with one line on stderr and exit status 1. If one of them
  fails later, this process ends with one line and status 1; if one sends no heartbeat for `HEARTBEAT_TIMEOUT` seconds,
  with one line and status `STOPPED`. (If process 0 is killed, JAX may abort the others first, with a stack trace.)

  Raises:
    ValueError: if the arguments do not fit together, or fewer processes connected than were started, so that a run
      never falls apart into several.
  """
  skip_libtpu()
  given = (bool(coordinator), num_processes is not None, process_id is not None)
  if any(given) and not all(given):
    raise ValueError(
      f"--coordinator={coordinator!r}, --num_processes={num_processes}, --process_id={process_id}: incomplete. Give "
      "all three, or none if SLURM, Open MPI, Cloud TPU or GKE starts the processes."
    )
  if all(given):
    _check_arguments(coordinator, num_processes, process_id)
    launcher, count = "--num_processes", num_processes
    arguments = dict(coordinator_address=coordinator, num_processes=count, process_id=process_id)
  else:
    launcher, count = expected_processes() or ("", 1)
    arguments = {}
  if count == 1:
    return 0
  watcher = threading.Thread(target=_watch_others, args=(count,), daemon=True)
  atexit.register(_stop, watcher)
  _initialize(
    arguments,
    timeout,
    f"{launcher} asks for {count} processes, but they did not all connect within {timeout} s: run the same command on "
    f"every host, and check that each host can reach {coordinator or 'the others'}.",
  )
  if jax.process_count() != count:
    raise ValueError(
      f"{launcher} asks for {count} processes, but {jax.process_count()} connected: start all with one launcher."
    )
  sys.excepthook = _report_and_leave
  watcher.start()
  return jax.process_index()


def _check_arguments(coordinator: str, num_processes: int, process_id: int) -> None:
  host, _, port = coordinator.rpartition(":")
  if not host or not re.fullmatch("[0-9]{1,5}", port):
    raise ValueError(f"--coordinator={coordinator!r}: must be HOST:PORT of process 0, for instance 10.0.0.2:8476.")
  if num_processes < 1:
    raise ValueError(f"--num_processes={num_processes}: must be at least 1.")
  if not 0 <= process_id < num_processes:
    raise ValueError(f"--process_id={process_id}: must be from 0 to {num_processes - 1}, --num_processes - 1.")


def _initialize(arguments: dict, timeout: int, failure: str) -> None:
  """Connects to the other processes; ends this one with `failure` after `timeout` seconds."""
  # JAX aborts the process with a stack trace when its own time is up, so ours must be up first.
  timer = threading.Timer(timeout, give_up, [failure])
  timer.daemon = True
  timer.start()
  try:
    jax.distributed.initialize(**arguments, initialization_timeout=timeout + _INITIALIZE_MARGIN)
  except (RuntimeError, ValueError) as error:
    raise ValueError(f"{failure} ({str(error).splitlines()[0]})") from error
  finally:
    timer.cancel()


def leave(error: str = "", status: int = 1) -> None:
  """Tells the other processes that this one ends; with an error message, ends it here with `status`."""
  client = distributed.global_state.client
  if client is None:
    return
  client.key_value_set(f"{_ENDED}{jax.process_index()}", f"on {socket.gethostname()}: {error}" if error else "")
  if error:
    # A normal exit would wait five minutes for the others. Process 0 holds the store, so it stays until they have read.
    time.sleep(3 * _HEARTBEAT_PERIOD)
    os._exit(status)


def _report_and_leave(kind: type, error: BaseException, trace) -> None:
  """Prints an uncaught exception as Python does, then tells the other processes."""
  sys.__excepthook__(kind, error, trace)
  leave(f"{kind.__name__}: {error}")


def await_verdict() -> None:
  """Waits, after a failed exchange with the other processes, until the watching thread has ended this process.

  Returns after twice the time that the thread needs if all processes are alive.
  """
  if distributed.global_state.client is not None:
    time.sleep(2 * HEARTBEAT_TIMEOUT)


def _stop(watcher: threading.Thread) -> None:
  """Lets the watching thread end: C++ would abort the process if Python, as it exits, ended it inside a call of JAX."""
  _exiting.set()
  if watcher.is_alive():
    watcher.join(2 * HEARTBEAT_TIMEOUT)


def _watch_others(count: int) -> None:
  """Sends heartbeats, and ends this process when another one fails or falls silent; returns when all have ended."""
  own_index, client, reached = jax.process_index(), distributed.global_state.client, time.monotonic()
  heard = {process: (None, time.monotonic()) for process in range(count) if process != own_index}
  for beat in itertools.count():
    time.sleep(_HEARTBEAT_PERIOD if beat else 0)
    try:
      client.key_value_set(f"{_HEARTBEATS}{own_index}", str(beat), allow_overwrite=True)
      beats, ended = (dict(client.key_value_dir_get(folder)) for folder in (_HEARTBEATS, _ENDED))
    except jax.errors.JaxRuntimeError:
      if time.monotonic() - reached > HEARTBEAT_TIMEOUT:
        return  # This process itself is ending, or process 0 is gone, which JAX reports.
      continue
    reached = time.monotonic()
    if _exiting.is_set() and all(ended.get(f"{_ENDED}{process}") == "" for process in heard):
      return
    for process, (last, since) in heard.items():
      current = beats.get(f"{_HEARTBEATS}{process}")
      end = ended.get(f"{_ENDED}{process}")
      if end:
        _await_others(own_index)
        give_up(f"process {process} failed {end}")
      if current != last:
        heard[process] = (current, time.monotonic())
      elif end is None and time.monotonic() - since > HEARTBEAT_TIMEOUT:
        _await_others(own_index)
        give_up(
          f"process {process} of {count} has given no sign of life for {HEARTBEAT_TIMEOUT} s: all processes stop. The "
          "same command continues from the newest checkpoint.",
          STOPPED,
        )


def _await_others(own_index: int) -> None:
  """Lets process 0 end last: it holds the store, and JAX would abort the others if it went first."""
  if own_index == 0:
    time.sleep(5 * _HEARTBEAT_PERIOD)


def give_up(message: str, status: int = 1) -> None:
  """Ends this process from any thread, with one line on stderr."""
  print(f"error: {message}", file=sys.stderr, flush=True)
  os._exit(status)
