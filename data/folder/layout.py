"""Splits of a folder of images and masks: where they are, and the command that helps if they are elsewhere."""

import pathlib
import re
import shlex
from collections.abc import Iterable, Mapping

from data.user_files import SPLITS, files_in, folders_in
from gcn_flax.input_pipeline.pictures import SUFFIXES

_SYNONYMS = {"train": ("train", "training", "trn"), "val": ("val", "valid", "validate", "dev", "eval", "evaluation")}


def split_faults(root: pathlib.Path, folders: Mapping[str, tuple[pathlib.Path, pathlib.Path]]) -> list[str]:
  """Lists splits that are missing, or whose names are invalid."""
  top = root / "images" if (root / "images").is_dir() else root
  names = [SPLITS.get(name, name) for name in folders]
  faults = [
    f"{top} has no folder {name}.{_renamed(top, name)}"
    for name in ("train", "val")
    if SPLITS.get(name, name) not in names
  ]
  faults += [
    f"{folder} is no valid split name. Use letters, digits and _, start with a letter, and not 'all'."
    for name, (folder, _) in folders.items()
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) or name == "all"
  ]
  if len(set(names)) < len(names):
    faults.append(f"{top} has both val and validation, which are the same split. Merge the folders.")
  return faults


def _renamed(top: pathlib.Path, name: str) -> str:
  """Returns the command that gives a split its name, if there is a folder of a similar one."""
  for folder in folders_in(top):
    if folder.name.lower() in _SYNONYMS[name]:
      masks = top.parent / "masks"
      commands = [
        shlex.join(["mv", str(path / folder.name), str(path / name)])
        for path in (top, masks)
        if (path / folder.name).is_dir()
      ]
      return f" Rename {folder.name}: {' && '.join(commands)}"
  loose = [path for path in files_in(top) if path.suffix.lower() in SUFFIXES]
  return f" Its {len(loose)} files must be in folders: train, and for evaluation val." if loose else ""


def elsewhere(root: pathlib.Path) -> str:
  """Names the folder that has what `root` lacks, or what `root` contains."""
  folders = [folder for folder in folders_in(root) if folder.name != "masks"]
  for folder in folders:
    if (folder / "images").is_dir():
      if folder.name.lower() in _SYNONYMS["train"]:
        return f" Move the splits below images and masks: (cd {shlex.quote(str(root))} && {_swapped(folders)})"
      return f" Use --manual_dir={shlex.quote(str(folder))}."
  return f" It contains the folders {', '.join(path.name for path in folders)}." if folders else ""


def _swapped(splits: Iterable[pathlib.Path]) -> str:
  """Returns the commands that turn `train/images` and `train/masks` into `images/train` and `masks/train`."""
  tops = {"images": "images", "masks": "masks", "labels": "masks", "annotations": "masks"}
  moves = [
    shlex.join(["mv", f"{split.name}/{folder.name}", f"{tops[folder.name]}/{split.name}"])
    for split in splits
    for folder in folders_in(split)
    if folder.name in tops
  ]
  return " && ".join(["mkdir -p images masks", *moves])
