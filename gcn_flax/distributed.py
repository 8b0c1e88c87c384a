"""Makes one run of the processes on several hosts, by JAX's own runtime, and ends it where one of them is gone."""

import glob
import os
import socket
import sys
import threading
import time
import urllib.request

import jax
from jax._src import distributed  # The store of keys that all processes see has no public name.

# Of each kind of cluster, the variable that tells how many processes it started; JAX reads the rest by itself.
_COUNTS = {"SLURM": "SLURM_STEP_NUM_TASKS", "Open MPI": "OMPI_COMM_WORLD_SIZE"}
_GRACE = 60  # Seconds.
_TPU_HOSTS = "TPU_WORKER_HOSTNAMES"  # Of a Cloud TPU slice on GKE. On a TPU VM the metadata server knows:
_TPU_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/worker-network-endpoints"
STOPPED = 75  # Exit status of a run that goes on when started again (sysexits.h: EX_TEMPFAIL).
_PERIOD = 1  # Seconds between two signs of life.
SILENCE = 30  # Seconds without one after which a process is taken for dead.
_ALIVE, _ENDED = "gcn_flax/alive/", "gcn_flax/ended/"


def expected_processes() -> tuple[str, int] | None:
  """(kind of cluster, number of processes) by the environment; None where this process is alone.

  Raises ValueError for a variable that is no number.
  """
  for kind, name in _COUNTS.items():
    value = os.environ.get(name, "1")
    if not value.isdigit() or int(value) < 1:
      raise ValueError(
        f"{name}={value!r}, which {kind} sets, is no number of processes: start it by {kind}'s launcher."
      )
    if int(value) > 1:
      return kind, int(value)
  hosts = [host for host in (os.environ.get(_TPU_HOSTS) or _ask_tpu_metadata()).split(",") if host]
  return ("Cloud TPU", len(hosts)) if len(hosts) > 1 else None


def _ask_tpu_metadata() -> str:
  """The hosts of the slice that this TPU VM is part of, with commas between; '' elsewhere."""
  if os.environ.get("TPU_SKIP_MDS_QUERY") or not (glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")):
    return ""
  request = urllib.request.Request(_TPU_METADATA, headers={"Metadata-Flavor": "Google"})
  try:
    with urllib.request.urlopen(request, timeout=5) as answer:
      return answer.read().decode()
  except OSError:
    return ""


def join(coordinator: str, num_processes: int | None, process_id: int | None, timeout: int) -> int:
  """Waits for all processes of the run; does nothing where this one is alone. Returns which of them this one is.

  To be called before anything that wakes the devices.

  Args:
    coordinator: "host:port" of process 0; '' leaves all to the environment of SLURM, Open MPI, Cloud TPU or GKE.
    num_processes, process_id: of the run, and of this one, with `coordinator`.
    timeout: seconds to wait for the others.

  Where the others do not come in time the process ends with one line on stderr and exit status 1. Where one of them
  fails later, or gives no sign of life for `SILENCE` seconds, this one ends with one line that says so: with status 1,
  or `STOPPED`. (Where process 0 is killed, JAX may be first: it aborts the others at once, with a stack trace.)

  Raises:
    ValueError: where arguments do not fit, or fewer joined than were started: a run never falls apart into several.
  """
  given = (bool(coordinator), num_processes is not None, process_id is not None)
  if any(given) and not all(given):
    raise ValueError(
      f"--coordinator={coordinator!r}, --num_processes={num_processes}, --process_id={process_id}: give all three, or "
      "none where SLURM, Open MPI, Cloud TPU or GKE starts the processes."
    )
  if all(given):
    _check(coordinator, num_processes, process_id)
    kind, count = "--num_processes", num_processes
  else:
    kind, count = expected_processes() or ("", 1)
  if count == 1:
    return 0
  arguments = dict(coordinator_address=coordinator, num_processes=count, process_id=process_id) if all(given) else {}
  failed = (
    f"{kind} asks for {count} processes, but they did not come together within {timeout} s: start the same command on "
    f"every host, and see that they reach {coordinator or 'each other'}."
  )
  # JAX aborts the process with a stack trace when its own time is up: ours is up before.
  watch = threading.Timer(timeout, give_up, [failed])
  watch.daemon = True
  watch.start()
  try:
    jax.distributed.initialize(**arguments, initialization_timeout=timeout + _GRACE)
  except (RuntimeError, ValueError) as error:
    raise ValueError(f"{failed} ({str(error).splitlines()[0]})") from error
  finally:
    watch.cancel()
  if jax.process_count() != count:
    raise ValueError(
      f"{kind} asks for {count} processes, but {jax.process_count()} came together: start all by the same launcher."
    )
  sys.excepthook = _tell_and_leave
  threading.Thread(target=_watch, args=(jax.process_index(), count), daemon=True).start()
  return jax.process_index()


def leave(error: str = "") -> None:
  """Tells the other processes that this one ends, and why, where it failed: then it ends here, with status 1."""
  client = distributed.global_state.client
  if client is None:
    return
  client.key_value_set(f"{_ENDED}{jax.process_index()}", f"on {socket.gethostname()}: {error}" if error else "")
  if error:
    # Without this JAX would wait five minutes for the others; and process 0 keeps the keys, so it stays to be read.
    time.sleep(3 * _PERIOD)
    os._exit(1)


def _tell_and_leave(kind: type, error: BaseException, trace) -> None:
  """What Python does with an error that nobody caught, and then the others are told."""
  sys.__excepthook__(kind, error, trace)
  leave(f"{kind.__name__}: {error}")


def await_verdict() -> None:
  """After an exchange with the others has failed: waits until it is known who is gone, which ends the process."""
  if distributed.global_state.client is not None:
    time.sleep(SILENCE + 5 * _PERIOD)


def _watch(me: int, count: int) -> None:
  """Ends this process where another one has failed or is silent."""
  client, reached = distributed.global_state.client, time.monotonic()
  heard = {process: (None, time.monotonic()) for process in range(count) if process != me}
  for beat in range(1 << 62):
    try:
      client.key_value_set(f"{_ALIVE}{me}", str(beat), allow_overwrite=True)
      signs, ended = (dict(client.key_value_dir_get(folder)) for folder in (_ALIVE, _ENDED))
    except jax.errors.JaxRuntimeError:
      if time.monotonic() - reached > SILENCE:
        return  # This process itself is ending, or process 0 is gone: JAX says so.
      time.sleep(_PERIOD)
      continue
    reached = time.monotonic()
    for process, (sign, since) in heard.items():
      now = signs.get(f"{_ALIVE}{process}")
      end = ended.get(f"{_ENDED}{process}")
      if end:
        if me == 0:
          time.sleep(5 * _PERIOD)  # It keeps the keys: JAX would abort the others if it went before them.
        give_up(f"process {process} failed {end}")
      if now != sign:
        heard[process] = (now, time.monotonic())
      elif end is None and time.monotonic() - since > SILENCE:
        give_up(
          f"process {process} of {count} has given no sign of life for {SILENCE} s: all stop. The same command goes on "
          "from the newest checkpoint.",
          STOPPED,
        )
    time.sleep(_PERIOD)


def give_up(message: str, status: int = 1) -> None:
  """Ends this process from any thread, with one line on stderr."""
  print(f"error: {message}", file=sys.stderr, flush=True)
  os._exit(status)


def _check(coordinator: str, num_processes: int, process_id: int) -> None:
  host, _, port = coordinator.rpartition(":")
  if not host or not port.isdigit():
    raise ValueError(f"--coordinator={coordinator!r} must be HOST:PORT of process 0, for instance 10.0.0.2:8476.")
  if num_processes < 1 or not 0 <= process_id < num_processes:
    raise ValueError(f"--process_id={process_id} must be from 0 to {num_processes - 1}, --num_processes - 1.")
