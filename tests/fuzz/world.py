"""A small world of a user, a folder with data, pictures and a trained run, that is put back after each command."""

import os
import pathlib
import shutil


class World:
  """A folder that commands may damage, beside an untouched copy of it.

  Args:
    root: folder of both; `root / "world"` is the one for commands.
  """

  def __init__(self, root: pathlib.Path):
    self.path, self._pristine = root / "world", root / "pristine"
    self.path.mkdir(parents=True)
    self._signatures = {}

  def keep(self) -> None:
    """Declares the state of now to be the one to put back."""
    shutil.copytree(self.path, self._pristine, symlinks=True)
    self._signatures = signatures(self.path)

  def copy(self, target: pathlib.Path) -> pathlib.Path:
    """Copies the world as it was kept to a new folder, and returns this."""
    return shutil.copytree(self._pristine, target, symlinks=True)

  def content(self, name: str) -> bytes:
    """Returns the content that a file had when it was kept."""
    return (self._pristine / name).read_bytes()

  def put_back(self) -> None:
    """Undoes every change since `keep`."""
    now = signatures(self.path)
    changed = {name for name in now.keys() | self._signatures.keys() if now.get(name) != self._signatures.get(name)}
    for name in sorted(changed & now.keys(), reverse=True):
      _remove(self.path / name)
    for name in sorted(changed & self._signatures.keys()):
      source, target = self._pristine / name, self.path / name
      if source.is_dir() and not source.is_symlink():
        target.mkdir(exist_ok=True)
      else:
        shutil.copy2(source, target, follow_symlinks=False)


def signatures(root: pathlib.Path) -> dict[str, tuple]:
  """Returns a signature of each file, folder and link below a folder, which changes with its content."""
  found, folders = {}, [""]
  while folders:
    folder = folders.pop()
    with os.scandir(root / folder) as entries:
      for entry in entries:
        name = os.path.join(folder, entry.name)
        if entry.is_symlink():
          found[name] = ("link", os.readlink(entry.path))
        elif entry.is_dir():
          found[name] = ("folder",)
          folders.append(name)
        else:
          status = entry.stat()
          found[name] = ("file", status.st_mode, status.st_size, status.st_mtime_ns)
  return found


def _remove(path: pathlib.Path) -> None:
  if path.is_dir() and not path.is_symlink():
    shutil.rmtree(path)
  else:
    path.unlink(missing_ok=True)
