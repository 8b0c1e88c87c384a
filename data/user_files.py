"""Files in the user's own folders: how they are found, named, and noticed when they change."""

import hashlib
import os
import pathlib
import unicodedata
from collections.abc import Iterable

from gcn_flax.printable import printable

_ADDED = {"Thumbs.db", "desktop.ini", "__MACOSX", "@eaDir"}  # By Windows, Macs and network disks.
_SPLITS = {"val": "validation", "valid": "validation"}  # Any other folder is a split of the same name.


def split_of(folder: str) -> str:
  """Returns the split that a folder's name stands for."""
  return _SPLITS.get(folder, folder)


def same_splits(top: pathlib.Path, folders: Iterable[str]) -> list[str]:
  """Returns the fault of folders whose names stand for the same split, [] if there are none."""
  names = [name for name in folders if split_of(name) == "validation"]
  if len(names) < 2:
    return []
  return [f"{top} has both {' and '.join(names)}, which are the same split. Merge the folders."]


def folders_in(root: pathlib.Path) -> list[pathlib.Path]:
  """Returns the folders in `root`, sorted by name, without hidden ones; links are followed."""
  return [path for path in files_in(root) if path.is_dir()]


def files_in(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns everything in `folder`, sorted by name, without what is hidden and what operating systems add."""
  return sorted(path for path in folder.iterdir() if path.name[0] != "." and path.name not in _ADDED)


def files_below(root: pathlib.Path) -> list[pathlib.Path]:
  """Returns all files below `root`, sorted, also those in linked folders, but not in links to a folder above."""
  found = []
  for folder, subfolders, names in os.walk(root, followlinks=True):
    real = pathlib.Path(folder).resolve()
    subfolders[:] = [name for name in subfolders if not real.is_relative_to(pathlib.Path(folder, name).resolve())]
    found += [pathlib.Path(folder, name) for name in names]
  return sorted(path for path in found if path.is_file())


def visible_files(root: pathlib.Path, suffixes: Iterable[str]) -> list[pathlib.Path]:
  """Returns the files below a folder with one of some suffixes, sorted, without hidden ones."""
  return [
    path
    for path in files_below(root)
    if path.suffix.lower() in suffixes and not any(part[0] == "." for part in path.relative_to(root).parts)
  ]


def digest_of(root: pathlib.Path, files: Iterable[pathlib.Path], with_content: Iterable[pathlib.Path] = ()):
  """Returns a running digest of the names and sizes of files, and of the content of those in `with_content`."""
  digest, read = hashlib.blake2b(digest_size=16), set(with_content)
  for path in files:
    digest.update(os.fsencode(f"{path.relative_to(root)} {path.stat().st_size}\n"))
    if path in read:
      digest.update(path.read_bytes())
  return digest


def plain_name(name: str) -> str:
  """Returns a file name in the composed form of Unicode (NFC); Macs write the decomposed one."""
  return unicodedata.normalize("NFC", name)


def name_faults(paths: Iterable[pathlib.Path]) -> list[str]:
  """Lists the paths whose names have control characters or are not UTF-8, and how to rename them."""
  return [fault for path in paths if (fault := _name_fault(path))]


def _name_fault(path: pathlib.Path) -> str:
  if any("\ud800" <= letter <= "\udfff" for letter in path.name):  # Bytes that Python could not decode.
    command = f"convmv -f latin1 -t utf8 -r --notest {printable(path.parent)}"
    return f"{printable(path)}: its name is not UTF-8. Rename it, or all names: {command}"
  if path.name != printable(path.name):
    return f"{printable(path)}: its name has control characters. Rename it."
  return ""
