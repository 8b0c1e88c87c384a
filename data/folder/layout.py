"""Splits of a folder of images and masks: where they are, and the command that helps if they are elsewhere."""

import pathlib
import re
import shlex
from collections.abc import Iterable, Mapping

from data.folder.other_files import draw_command
from data.user_files import files_in, folders_in, same_splits, split_of
from gcn_flax.input_pipeline.pictures import SUFFIXES

_SYNONYMS = {"train": ("train", "training", "trn"), "val": ("validate", "dev", "eval", "evaluation")}


def is_flat(images: pathlib.Path) -> bool:
  """Returns True for a folder of images without a folder for each split."""
  return not folders_in(images) and bool(_pictures_in(images))


def split_faults(
  root: pathlib.Path, folders: Mapping[str, tuple[pathlib.Path, pathlib.Path]], val_fraction: float | None, fix: str
) -> list[str]:
  """Lists splits that are missing, or whose names are invalid.

  Args:
    root: the user's folder.
    folders: folders of images and of masks of each split.
    val_fraction: share of the images of train to keep for validation; None if there must be a split for it.
    fix: sentence that ends the fault of a missing validation split.
  """
  top = root / "images" if (root / "images").is_dir() else root
  names = [split_of(name) for name in folders]
  required = ("train",) if val_fraction else ("train", "val")
  faults = [
    f"{top} has no folder {name}.{_renamed(top, name) or (fix if name == 'val' else '')}"
    for name in required
    if split_of(name) not in names
  ]
  if val_fraction and "validation" in names:
    folder = next(folder for name, (folder, _) in folders.items() if split_of(name) == "validation")
    faults.append(
      f"--val_fraction={val_fraction}: the validation images are in {folder}. Leave out --val_fraction to use them, "
      f"or move images and masks to {top / 'train'} and {root / 'masks' / 'train'}."
    )
  faults += [
    f"{folder} is no valid split name. Use letters, digits and _, start with a letter, and not 'all'."
    for name, (folder, _) in folders.items()
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) or name == "all"
  ]
  return faults + same_splits(top, folders)


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
  loose = _pictures_in(top)
  return (
    f" Its {len(loose)} files must be in folders: train, and for evaluation val." if loose and name == "train" else ""
  )


def _pictures_in(folder: pathlib.Path) -> list[pathlib.Path]:
  return [path for path in files_in(folder) if path.suffix.lower() in SUFFIXES]


def elsewhere(root: pathlib.Path) -> str:
  """Names the folder that has what `root` lacks, or what `root` contains."""
  if not any(root.glob("*/masks")) and (draw := draw_command(root)):
    return f" {draw}"
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
