"""Random access to the files of downloaded archives, without unpacking them."""

import collections
import errno
import gzip
import pathlib
import shlex
import shutil
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

from data.faults import raise_all
from gcn_flax.printable import one_line

_ENCRYPTED = 1  # The bit in a zip member's flags.
_MAX_BYTES = 2**31  # Of one member; the largest of an official archive, in COCO's annotations, has a quarter of it.
# Raised by the readers for damaged files; NotImplementedError is zipfile's, for unknown compression methods.
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, OSError, NotImplementedError)


class Archive:
  """A zip, tar or tgz file whose members are read by name, from any number of threads.

  Archives that were unpacked and packed again are read like the official ones: with folders above `top` or without
  `top`, with Windows' backslashes, and with the files that a Mac adds.

  A tgz can only be read from its beginning, so it is decompressed once into an unnamed temporary file in `$TMPDIR`.

  Args:
    path: the file.
    top: folder of the official archive that contains everything of use, with which names begin.

  Raises:
    ValueError: if the file is damaged or encrypted, or contains a name twice.
    OSError: if there is not enough space to decompress it.
  """

  def __init__(self, path: pathlib.Path, top: str):
    self.path, self._top = path, top
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
      members = [(info.name, info) for info in self._file.getmembers() if info.isfile()]
    members = [(name.replace("\\", "/").removeprefix("./"), info) for name, info in members]
    members = _from_top([member for member in members if not added_by_mac(member[0])], self._top)
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


def added_by_mac(name: str) -> bool:
  """Returns True for the files that a Mac adds to archives."""
  *folders, file = name.split("/")
  return "__MACOSX" in folders or file.startswith("._") or file == ".DS_Store"


def _from_top(members: list[tuple[str, Any]], top: str) -> list[tuple[str, Any]]:
  """Makes the names of members begin with `top`: cuts off folders above it, or adds those of its parts that lack."""
  parts = top.split("/")
  for lacking in range(len(parts) + 1):
    start = "/".join(["", *parts[lacking:], ""])
    if lacking == len(parts) or any(start in f"/{name}" for name, _ in members):
      break
  added = "/".join([*parts[:lacking], ""]) if lacking else ""
  cut = [(f"/{name}".find(start), name, info) for name, info in members]
  return [(added + name[at:] if at >= 0 else name, info) for at, name, info in cut]


def _raise_if_not_damage(error: Exception, path: pathlib.Path) -> None:
  """Raises OSError for errors of the machine: unlike the readers' own errors they have a number."""
  number = getattr(error, "errno", None)
  if number == errno.ENOSPC:
    raise OSError(f"{tempfile.gettempdir()} has no space to decompress {path}. Set TMPDIR to a larger disk.") from error
  if number is not None:
    raise OSError(f"{path} cannot be read ({one_line(error)}). Check the disk and the file's permissions.") from error


def open_archives(root: pathlib.Path, archives: Mapping[str, tuple[str, str]]) -> list[Archive]:
  """Opens archives in their order.

  Args:
    root: folder of the archives.
    archives: file name -> its top folder, and where to download it.

  Raises:
    ValueError: listing every missing archive with its origin, or every damaged one.
  """
  missing = [name for name in archives if not (root / name).is_file()]
  if missing:
    named = ", ".join(f"{name} (from {archives[name][1]})" for name in missing)
    cures = [cure for name in missing if (cure := _similar(root, name, archives[name][0]))]
    raise ValueError(
      f"not found in {root}: {named}. Download them to this folder and do not unpack them, see data/README.md."
      + "".join(f" {cure}." for cure in dict.fromkeys(cures))
    )
  opened, faults = [], []
  for name, (top, _) in archives.items():
    try:
      opened.append(Archive(root / name, top))
    except ValueError as error:
      faults.append(str(error))
  raise_all(faults)
  return opened


def _similar(root: pathlib.Path, name: str, top: str) -> str:
  """Says what to do with an archive that is there under another name, in a folder below, or unpacked; '' if not."""
  stem, _, kind = name.partition(".")
  endings = {"zip": (".zip",), "tar": (".tar",), "tgz": (".tgz", ".tar.gz")}[kind]
  renamed = [path for path in sorted(root.iterdir()) if path.name.startswith(stem) and path.name.endswith(endings)]
  if renamed:
    return f"If {renamed[0].name} is {name}: {shlex.join(['mv', str(renamed[0]), str(root / name)])}"
  below = sorted(root.glob(f"*/{name}"))
  if below:
    return f"{name} is in {below[0].parent}: use --manual_dir={shlex.quote(str(below[0].parent))}"
  folder = top.split("/")[0]
  if not (root / folder).is_dir():
    return ""
  pack = {"zip": f"python -m zipfile -c {name}", "tar": f"tar -cf {name}", "tgz": f"tar -czf {name}"}[kind]
  return f"Pack the folder {folder} again: (cd {shlex.quote(str(root))} && {pack} {folder})"
