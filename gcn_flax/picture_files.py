"""Finds the pictures to predict, and the files that their predictions are written to."""

import collections
import fnmatch
import glob
import itertools
import logging
import os
import pathlib
from collections.abc import Sequence

from gcn_flax.input_pipeline.pictures import SUFFIXES
from gcn_flax.messages import flag
from gcn_flax.visualize import overlay

_log = logging.getLogger(__name__)


def find_pictures(patterns: Sequence[str], output: pathlib.Path) -> dict[pathlib.Path, pathlib.Path]:
  """Returns the pictures to predict, each with the path of its label map, `OUTPUT/NAME.png`.

  Args:
    patterns: files; folders, whose pictures are taken; and patterns such as `a/*.jpg`. Files other than pictures are
      left aside if a pattern matches pictures, too.
    output: folder of the label maps.

  Raises:
    ValueError: if there is no picture; if a file would be written twice, beside its picture, or in place of a file
      that is no prediction.
  """
  targets = {path: output / f"{path.stem}.png" for path in pictures_of(patterns)}
  if output.exists() and not output.is_dir():
    raise ValueError(f"--output={output} is a file. Use a folder.")
  owners = collections.defaultdict(list)
  for path, target in targets.items():
    owners[target].append(path)
    if path.parent.resolve() == output.resolve():
      raise ValueError(f"--output={output} holds the picture {path}, and may hold its mask. Use another folder.")
  for target, paths in owners.items():
    if len(paths) > 1:
      raise ValueError(f"{paths[0]} and {paths[1]} would both become {target}. Predict them into separate folders.")
  _check_replaced(output, targets.values())
  return targets


def pictures_of(patterns: Sequence[str]) -> list[pathlib.Path]:
  """Returns the pictures that values of `--images` stand for, each once. Raises ValueError for a value without any."""
  return list(dict.fromkeys(path for pattern in patterns for path in _matches(pattern)))


def overlay_path(target: pathlib.Path) -> pathlib.Path:
  """Returns the path of the overlay that belongs to a label map."""
  return target.with_name(f"{target.stem}_overlay.jpg")


def _check_replaced(output: pathlib.Path, targets: Sequence[pathlib.Path]) -> None:
  """Raises ValueError if a prediction would overwrite a file that is not a prediction, such as a mask."""
  written = [path for target in targets for path in (target, overlay_path(target))]
  others = [path for path in written if os.path.lexists(path) and not overlay.is_predicted(path)]
  if others:
    rest = f" and {len(others) - 1} more files" if len(others) > 1 else ""
    raise ValueError(
      f"--output={output} holds {others[0].name}{rest}, which would be replaced and {'are' if rest else 'is'} no "
      "prediction. Use another folder."
    )


def _matches(pattern: str) -> list[pathlib.Path]:
  """Returns the pictures that one value of --images stands for. Raises ValueError if there is none."""
  if not pattern:
    raise ValueError("--images='': names nothing. Use a file, a folder or a pattern such as 'a/*.jpg'.")
  path = pathlib.Path(os.path.expanduser(pattern))
  if path.is_file():  # Its name may have brackets, which are special in a pattern.
    return [path]
  if path.is_dir():
    return _in_folder(path)
  found = _glob(path)
  if not found:
    raise ValueError(f"--images={pattern!r} matches no picture. {_advice(path)}")
  return _pictures(found) or found  # A pattern may ask for another suffix.


def _in_folder(folder: pathlib.Path) -> list[pathlib.Path]:
  found = _pictures(_glob(folder / "*"))
  if not found:
    deeper = next(filter(_is_picture, folder.rglob("*")), None)
    fix = (
      f"Use {flag('images', folder / '**' / f'*{deeper.suffix}')} for {deeper}." if deeper else "Use another folder."
    )
    raise ValueError(f"--images={str(folder)!r} holds no file that ends in {', '.join(SUFFIXES)}. {fix}")
  return found


def _pictures(paths: Sequence[pathlib.Path]) -> list[pathlib.Path]:
  """Returns the paths that end as pictures do, and logs how many others there are beside them."""
  others = list(itertools.filterfalse(_is_picture, paths))
  if 0 < len(others) < len(paths):
    _log.info("%d of %d files are left aside, they are no pictures: %s ...", len(others), len(paths), others[0])
  return list(filter(_is_picture, paths))


def _is_picture(path: pathlib.Path) -> bool:
  return path.suffix.lower() in SUFFIXES


def _advice(path: pathlib.Path) -> str:
  """Returns what to use in place of a pattern that matches no file."""
  nearby = _glob(path.parent / "*")
  alike = [found for found in nearby if fnmatch.fnmatchcase(found.name.lower(), path.name.lower())]
  other = next(iter(alike or filter(_is_picture, nearby)), None)
  if other:
    kept = path.with_suffix(other.suffix)
    use = kept if fnmatch.fnmatchcase(other.name, kept.name) else path.with_name(f"*{other.suffix}")
    return f"{other} is there{', in another case' if alike else ''}. Use {flag('images', use)}."
  missing = next((parent for parent in path.parents if not glob.has_magic(str(parent))), path.parent)
  problem = f"There is no picture in {path.parent}" if missing.is_dir() else f"There is no folder {missing}"
  return f"{problem}. Use a file, a folder or a pattern such as 'a/*.jpg'."


def _glob(pattern: pathlib.Path) -> list[pathlib.Path]:
  """Returns the files that match a pattern, sorted; its folders may have brackets in their names."""
  folder = next(parent for parent in pattern.parents if parent.is_dir())
  names = glob.glob(str(pattern.relative_to(folder)), root_dir=folder, recursive=True)
  return [path for path in map(folder.joinpath, sorted(names)) if path.is_file()]
