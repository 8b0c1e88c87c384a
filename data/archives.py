"""Random access to the files of downloaded archives, without unpacking them."""

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

_ENCRYPTED = 1  # The bit in a zip member's flags.
_MAX_BYTES = 2**31  # Of one member; the largest of an official archive, in COCO's annotations, has a quarter of it.
# Raised by the readers for damaged files; NotImplementedError is zipfile's, for unknown compression methods.
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, OSError, NotImplementedError)


class Archive:
  """A zip, tar or tgz file whose members are read by name, from any number of threads.

  A tgz can only be read from its beginning, so it is decompressed once into an unnamed temporary file in `$TMPDIR`.

  Raises:
    ValueError: if the file is damaged or encrypted, or contains a name twice.
    OSError: if there is not enough space to decompress it.
  """

  def __init__(self, path: pathlib.Path):
    self.path = path
    self._lock = threading.Lock()
    try:
      self._open()
    except _DAMAGE as error:
      _raise_if_not_damage(error, path)
      raise ValueError(f"{path} is damaged ({one_line(error)}). Download it again.") from error
    self.names = frozenset(self._members)

  def _open(self) -> None:
    if self.path.suffix == ".zip":
      self._file = zipfile.ZipFile(self.path)
      members = [(info.filename, info) for info in self._file.infolist() if not info.is_dir()]
      locked = next((name for name, info in members if info.flag_bits & _ENCRYPTED), None)
      if locked:
        raise ValueError(f"{locked} in {self.path} is encrypted. Download it again, or zip it without a password.")
    else:
      self._file = tarfile.open(fileobj=self._uncompressed())  # noqa: SIM115, stays open as long as the archive.
      members = [(info.name.removeprefix("./"), info) for info in self._file.getmembers() if info.isfile()]
    self._members = dict(members)
    twice = [name for name, count in collections.Counter(name for name, _ in members).items() if count > 1]
    if twice:
      raise ValueError(f"{self.path} contains files twice: {', '.join(sorted(twice))}. Download it again.")

  def _uncompressed(self):
    if self.path.suffix != ".tgz":
      return open(self.path, "rb")
    file = tempfile.TemporaryFile()  # noqa: SIM115, stays open as long as the archive.
    with gzip.open(self.path) as compressed:
      shutil.copyfileobj(compressed, file, 2**20)
    file.seek(0)
    return file

  def read(self, name: str) -> bytes:
    """Returns the content of one file. Raises ValueError if it is missing, damaged or larger than 2 GiB."""
    if name not in self._members:
      raise ValueError(f"{name} is not in {self.path}. Check that the download is complete.")
    member = self._members[name]
    num_bytes = member.file_size if isinstance(member, zipfile.ZipInfo) else member.size
    if num_bytes > _MAX_BYTES:
      raise ValueError(f"{name} in {self.path} claims {num_bytes:,} bytes, too many for it. Download it again.")
    try:
      if isinstance(self._file, zipfile.ZipFile):
        return self._file.read(member)  # Has its own lock.
      with self._lock:
        return self._file.extractfile(member).read()
    except _DAMAGE as error:
      _raise_if_not_damage(error, self.path)
      raise ValueError(f"{name} in {self.path} is damaged ({one_line(error)}). Download it again.") from error

  def read_lines(self, name: str) -> list[str]:
    """Returns the non-empty lines of a text file, stripped. Raises ValueError if it is missing or damaged."""
    return [line.strip() for line in self.read(name).decode(errors="replace").splitlines() if line.strip()]


def _raise_if_not_damage(error: Exception, path: pathlib.Path) -> None:
  """Raises OSError for errors of the machine: unlike the readers' own errors they have a number."""
  number = getattr(error, "errno", None)
  if number == errno.ENOSPC:
    raise OSError(f"{tempfile.gettempdir()} has no space to decompress {path}. Set TMPDIR to a larger disk.") from error
  if number is not None:
    raise OSError(f"{path} cannot be read ({one_line(error)}). Check the disk and the file's permissions.") from error


def open_archives(root: pathlib.Path, origins: Mapping[str, str]) -> list[Archive]:
  """Opens archives in the order of `origins`.

  Args:
    root: folder of the archives.
    origins: file name -> where to download it.

  Raises:
    ValueError: listing every missing archive with its origin, or every damaged one.
  """
  missing = [f"{name} (from {origin})" for name, origin in origins.items() if not (root / name).is_file()]
  if missing:
    raise ValueError(
      f"not found in {root}: {', '.join(missing)}. Download them to this folder and do not unpack them, see "
      "data/README.md."
    )
  archives, faults = [], []
  for name in origins:
    try:
      archives.append(Archive(root / name))
    except ValueError as error:
      faults.append(str(error))
  raise_all(faults)
  return archives
