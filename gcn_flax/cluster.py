"""Makes one run of the processes on several hosts, by JAX's own runtime."""

import os
import sys
import threading

import jax

# Of each kind of cluster, the variable that tells how many processes it started; JAX reads the rest by itself.
_COUNTS = {"SLURM": "SLURM_STEP_NUM_TASKS", "Open MPI": "OMPI_COMM_WORLD_SIZE"}
_GRACE = 60  # Seconds.
_TPU_HOSTS = "TPU_WORKER_HOSTNAMES"  # Of a Cloud TPU slice, on a TPU VM and on GKE.


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
  hosts = [host for host in os.environ.get(_TPU_HOSTS, "").split(",") if host]
  return ("Cloud TPU", len(hosts)) if len(hosts) > 1 else None


def join(coordinator: str, num_processes: int | None, process_id: int | None, timeout: int) -> None:
  """Waits for all processes of the run; does nothing where this one is alone.

  To be called before anything that wakes the devices.

  Args:
    coordinator: "host:port" of process 0; '' leaves all to the environment of SLURM, Open MPI, Cloud TPU or GKE.
    num_processes, process_id: of the run, and of this one, with `coordinator`.
    timeout: seconds to wait for the others.

  Where the others do not come in time the process ends with one line on stderr and exit status 1.

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
    return
  arguments = dict(coordinator_address=coordinator, num_processes=count, process_id=process_id) if all(given) else {}
  failed = (
    f"{kind} asks for {count} processes, but they did not come together within {timeout} s: start the same command on "
    f"every host, and see that they reach {coordinator or 'each other'}."
  )
  # JAX aborts the process with a stack trace when its own time is up: ours is up before.
  watch = threading.Timer(timeout, _give_up, [failed])
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


def _give_up(message: str) -> None:
  print(f"error: {message}", file=sys.stderr, flush=True)
  os._exit(1)


def _check(coordinator: str, num_processes: int, process_id: int) -> None:
  host, _, port = coordinator.rpartition(":")
  if not host or not port.isdigit():
    raise ValueError(f"--coordinator={coordinator!r} must be HOST:PORT of process 0, for instance 10.0.0.2:8476.")
  if num_processes < 1 or not 0 <= process_id < num_processes:
    raise ValueError(f"--process_id={process_id} must be from 0 to {num_processes - 1}, --num_processes - 1.")
