"""The files of a workdir, on a disk or in a bucket."""

import contextlib
import importlib.util
import os
import pathlib
import uuid
from collections.abc import Iterator
from typing import Any, BinaryIO

# A `pathlib.Path`; or etils' path, which has the same methods, for a workdir in a bucket.
Path = Any


def path(name: str | Path) -> Path:
  """Converts a local path or `gs://BUCKET/...` to a path object.

  Raises ValueError for other URLs, for `~USER` of nobody, and for a bucket if gcsfs is not installed.
  """
  name = str(name)
  if "://" not in name:
    try:
      return pathlib.Path(name).expanduser().absolute()
    except RuntimeError as error:
      raise ValueError(f"{name!r}: there is no such user. Use a path without the tilde.") from error
  if not name.startswith("gs://"):
    raise ValueError(f"{name!r}: unsupported storage. Use a local path or gs://BUCKET/...")
  if importlib.util.find_spec("gcsfs") is None:
    raise ValueError(f"{name!r}: gcsfs is not installed. Run pip install gcsfs.")
  # Use gcsfs, which Orbax needs anyway; TensorFlow's own client has separate credentials.
  os.environ.setdefault("EPATH_USE_TF", "0")
  import fsspec  # Imported here, because local paths do not need it.
  from etils import epath

  for protocol in ("gs", "gcs"):  # Cached listings would hide changes by other hosts.
    fsspec.config.conf.setdefault(protocol, {})["use_listings_cache"] = False
  return epath.Path(name)


def is_remote(where: Path) -> bool:
  """Returns True if a path is in a bucket."""
  return "://" in str(where)


def is_filled(folder: Path) -> bool:
  """Returns True if there is a folder with something in it."""
  try:
    return folder.is_dir() and any(folder.iterdir())
  except FileNotFoundError:  # Another process has just removed it.
    return False


def write(where: Path, content: str | bytes) -> None:
  """Writes a file atomically: after a kill or a power cut it has either the old content or the new one.

  Several processes may write the same file at once; the last one wins. A symbolic link is replaced, not followed.
  """
  content = content.encode() if isinstance(content, str) else content
  if is_remote(where):
    where.write_bytes(content)  # Objects appear only when complete.
    return
  with replacing(where) as file:
    file.write(content)


@contextlib.contextmanager
def replacing(where: pathlib.Path) -> Iterator[BinaryIO]:
  """Opens a new file for bytes, which takes the place of a local one, as by `write`, when the block ends.

  If the block raises, nothing is left of the new file.
  """
  temporary = where.with_name(f".{uuid.uuid4().hex}.tmp")
  try:
    with open(temporary, "xb") as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, where)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise
  _sync_folder(where.parent)


def _sync_folder(folder: pathlib.Path) -> None:
  """Makes the names of new files in a folder survive a power cut, where the file system can."""
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    with contextlib.suppress(OSError):  # Some network file systems reject it.
      os.fsync(descriptor)
  finally:
    os.close(descriptor)


def keep_damaged(where: Path) -> Path:
  """Copies a damaged file to `NAME.damaged`, or `NAME.damaged.1` and so on if taken, and returns the copy's path."""
  copy, number = where.with_name(f"{where.name}.damaged"), 0
  while copy.exists():
    number += 1
    copy = where.with_name(f"{where.name}.damaged.{number}")
  write(copy, where.read_bytes())
  return copy


def check_writable(folder: Path) -> None:
  """Raises ValueError unless files can be written to a local folder, which need not exist yet; ignores buckets."""
  if is_remote(folder):
    return
  there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
  if not there.is_dir():
    raise ValueError(f"{there}: not a folder. Rename it, or use another folder.")
  if not os.access(there, os.W_OK | os.X_OK):
    raise ValueError(f"{there}: not writable. Change its permissions, or use a copy of it elsewhere.")


class Lines:
  """A text file to append lines to.

  Objects in a bucket cannot be appended to, so each line rewrites the file there; runs have a few thousand lines.

  Args:
    where: path of the file.
    lines: initial content.
  """

  def __init__(self, where: Path, lines: list[str]):
    self._where, self._lines, self._file = where, lines, None
    write(where, "".join(f"{line}\n" for line in lines))
    if not is_remote(where):
      self._file = open(where, "a")  # noqa: SIM115, stays open as long as the run.

  def append(self, line: str) -> None:
    """Appends a line and flushes it."""
    if self._file:
      self._file.write(line + "\n")
      self._file.flush()
    else:
      self._lines.append(line)
      write(self._where, "".join(f"{each}\n" for each in self._lines))

  def close(self) -> None:
    """Closes the file."""
    if self._file:
      self._file.close()


def upload(folder: Path, where: Path) -> None:
  """Copies a folder recursively to a path in a bucket."""
  for source in folder.iterdir():
    if source.is_dir():
      upload(source, where / source.name)
    else:
      (where / source.name).write_bytes(source.read_bytes())


def move(folder: Path, where: Path) -> None:
  """Moves a folder to a path that does not exist yet; in a bucket file by file."""
  if not is_remote(folder):
    where.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(where)
    return
  upload(folder, where)
  folder.rmtree()
