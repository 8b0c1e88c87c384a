"""Reads downloaded archives where they lie, file by file, without unpacking them."""

import collections
import errno
import gzip
import pathlib
import shutil
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Mapping

from data.faults import one_line, raise_all

# What the readers raise for a broken file; NotImplementedError is zipfile's, for a compression that it does not know.
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, OSError, NotImplementedError)


class Archive:
  """A zip, tar or tgz file, read by name and from several threads.

  A tgz is decompressed once into a nameless temporary file (in `$TMPDIR`), because it can
  only be read from its beginning.

  Raises ValueError where the file is damaged or holds a name twice, OSError where there
  is no room to decompress it.
  """

  def __init__(self, path: pathlib.Path):
    self.path = path
    self._lock = threading.Lock()
    try:
      self._open()
    except _DAMAGE as error:
      _raise_if_not_damage(error, path)
      raise ValueError(f"{path} is damaged ({one_line(error)}): download it again.") from error
    self.names = frozenset(self._members)

  def _open(self) -> None:
    if self.path.suffix == ".zip":
      self._file = zipfile.ZipFile(self.path)
      members = [(info.filename, info) for info in self._file.infolist() if not info.is_dir()]
    else:
      self._file = tarfile.open(fileobj=self._uncompressed())  # noqa: SIM115, open as long as the archive.
      members = [(info.name.removeprefix("./"), info) for info in self._file.getmembers() if info.isfile()]
    self._members = dict(members)
    twice = [name for name, count in collections.Counter(name for name, _ in members).items() if count > 1]
    if twice:
      raise ValueError(f"{self.path} holds files twice: {', '.join(sorted(twice))}.")

  def _uncompressed(self):
    if self.path.suffix != ".tgz":
      return open(self.path, "rb")
    file = tempfile.TemporaryFile()  # noqa: SIM115, open as long as the archive.
    with gzip.open(self.path) as compressed:
      shutil.copyfileobj(compressed, file, 2**20)
    file.seek(0)
    return file

  def read(self, name: str) -> bytes:
    """The content of one file. Raises ValueError naming it where it is missing or damaged."""
    if name not in self._members:
      raise ValueError(f"{name} is not in {self.path}: is the download whole?")
    try:
      if isinstance(self._file, zipfile.ZipFile):
        return self._file.read(self._members[name])  # Locks by itself.
      with self._lock:
        return self._file.extractfile(self._members[name]).read()
    except _DAMAGE as error:
      _raise_if_not_damage(error, self.path)
      raise ValueError(f"{name} in {self.path} is damaged ({one_line(error)}): download it again.") from error

  def read_lines(self, name: str) -> list[str]:
    """The lines of a text file that are not empty, without spaces around them. Raises ValueError as `read`."""
    return [line.strip() for line in self.read(name).decode(errors="replace").splitlines() if line.strip()]


def _raise_if_not_damage(error: Exception, path: pathlib.Path) -> None:
  """Raises OSError where the machine, not the file, is at fault: its errors have a number, those of readers none."""
  number = getattr(error, "errno", None)
  if number == errno.ENOSPC:
    raise OSError(f"{tempfile.gettempdir()} has no room to decompress {path}: set TMPDIR to a larger one.") from error
  if number is not None:
    raise OSError(f"{path} cannot be read ({one_line(error)}).") from error


def open_archives(root: pathlib.Path, origins: Mapping[str, str]) -> list[Archive]:
  """Opens archives in the order of `origins`.

  Args:
    root: the folder they lie in.
    origins: file name -> where to download it.

  Raises:
    ValueError: listing each one that is missing, with its origin, or that is damaged.
  """
  missing = [f"{name} (from {origin})" for name, origin in origins.items() if not (root / name).is_file()]
  if missing:
    raise ValueError(f"not found in {root}: {', '.join(missing)}. Put the files there as they are, see data/README.md.")
  archives, faults = [], []
  for name in origins:
    try:
      archives.append(Archive(root / name))
    except ValueError as error:
      faults.append(str(error))
  raise_all(faults)
  return archives
