"""The files of a workdir, on a disk or in a bucket."""

import importlib.util
import os
import pathlib
from typing import Any

# A `pathlib.Path`, or etils' path of the same methods where the workdir is in a bucket.
Path = Any


def path(name: str | Path) -> Path:
  """The path of a name: of this machine, or `gs://BUCKET/...`.

  Raises ValueError for another kind of address, and where what reads buckets is not installed.
  """
  name = str(name)
  if "://" not in name:
    return pathlib.Path(name).expanduser().absolute()
  if not name.startswith("gs://"):
    raise ValueError(f"{name!r} must be a local path or gs://BUCKET/...; other stores are not known.")
  if importlib.util.find_spec("gcsfs") is None:
    raise ValueError(f"{name!r} needs gcsfs, which is not installed: pip install gcsfs -c constraints.txt.")
  # By gcsfs, which Orbax needs in any case; TensorFlow's own way is another one, with other credentials.
  os.environ.setdefault("EPATH_USE_TF", "0")
  import fsspec  # Here, because none of it is needed on a disk.
  from etils import epath

  for protocol in ("gs", "gcs"):  # Listings that are kept would hide what other hosts write and move.
    fsspec.config.conf.setdefault(protocol, {})["use_listings_cache"] = False
  return epath.Path(name)


def is_remote(where: Path) -> bool:
  """Whether a path is in a bucket."""
  return "://" in str(where)


def write(where: Path, content: str | bytes) -> None:
  """Replaces a file at once, so that a kill leaves the old one or the new one."""
  content = content.encode() if isinstance(content, str) else content
  if is_remote(where):
    where.write_bytes(content)  # An object appears when it is whole.
    return
  temporary = where.with_name(where.name + ".tmp")
  temporary.write_bytes(content)
  os.replace(temporary, where)


class Lines:
  """A text file that grows by lines.

  Objects of a bucket cannot grow: there each line writes all of them, which is fine for the few thousand of a run.

  Args:
    where: its path.
    lines: what it holds at first.
  """

  def __init__(self, where: Path, lines: list[str]):
    self._where, self._lines, self._file = where, lines, None
    write(where, "".join(f"{line}\n" for line in lines))
    if not is_remote(where):
      self._file = open(where, "a")  # noqa: SIM115, open as long as the run.

  def append(self, line: str) -> None:
    """Adds a line, handed to the system on return."""
    if self._file:
      self._file.write(line + "\n")
      self._file.flush()
    else:
      self._lines.append(line)
      write(self._where, "".join(f"{each}\n" for each in self._lines))

  def close(self) -> None:
    """Lets go of the file."""
    if self._file:
      self._file.close()


def upload(folder: Path, where: Path) -> None:
  """Copies the files of a folder, and of those in it, to a path in a bucket."""
  for source in folder.iterdir():
    if source.is_dir():
      upload(source, where / source.name)
    else:
      (where / source.name).write_bytes(source.read_bytes())


def move(folder: Path, where: Path) -> None:
  """Moves a folder to a path that is not there yet; in a bucket file by file."""
  if not is_remote(folder):
    where.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(where)
    return
  upload(folder, where)
  folder.rmtree()
