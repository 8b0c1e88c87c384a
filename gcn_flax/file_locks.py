"""File locks of the operating system, which end with the process that holds them. Windows has none."""

try:
  import fcntl
except ImportError:
  fcntl = None


def check_system() -> None:
  """Raises ValueError on a system without these locks."""
  if fcntl is None:
    raise ValueError("gcn_flax needs Linux or macOS; on Windows use WSL.")


def lock(descriptor: int, wait: bool = False) -> None:
  """Locks an open file or folder until it is closed in every process that inherited it.

  Raises:
    BlockingIOError: if another process holds the lock, unless `wait`.
    OSError: if the disk has no locks.
  """
  check_system()
  fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
