"""Finds the mask of each image by its name, and says what is wrong where there is none."""

import pathlib
import shlex
from collections import Counter
from collections.abc import Sequence

from data.faults import raise_all
from data.folder.affixes import find_affixes
from data.folder.other_files import draw_command, nested_folders, some, unusable
from data.user_files import files_in, folders_in, name_faults, plain_name
from gcn_flax.input_pipeline.pictures import SUFFIXES


def find_pairs(images_dir: pathlib.Path, masks_dir: pathlib.Path) -> list[tuple[pathlib.Path, pathlib.Path]]:
  """Returns (image, mask) for each image, sorted by name; the names without suffix are equal.

  Raises ValueError listing files without a partner, duplicate names and files of other types, with the likely cause.
  """
  images, faults = _files(images_dir, SUFFIXES)
  masks, more = _files(masks_dir, (".png",))
  if not images and not faults:
    faults.append(f"{images_dir} contains no image.")
  unread = faults and not images or more and not masks  # Partners cannot be compared.
  faults += more
  if not unread:
    faults += _partner_faults(images_dir, images, masks_dir, masks)
  raise_all(faults)
  return [(images[name], masks[name]) for name in sorted(images)]


def find_images(images_dir: pathlib.Path) -> list[pathlib.Path]:
  """Returns the images of a split without masks, sorted by name. Raises ValueError listing every fault."""
  images, faults = _files(images_dir, SUFFIXES)
  raise_all(faults if images or faults else [f"{images_dir} contains no image."])
  return [images[name] for name in sorted(images)]


def _files(folder: pathlib.Path, suffixes: Sequence[str]) -> tuple[dict[str, pathlib.Path], list[str]]:
  """Returns the files of a folder by name without suffix, and the faults among them."""
  if not folder.is_dir():
    return {}, []
  paths = files_in(folder)
  nested = [path for path in paths if path.is_dir()]
  if any(file.is_file() for path in nested for file in path.rglob("*")):
    return {}, [nested_folders(folder, nested)]
  paths = [path for path in paths if path not in nested]
  usable = [path for path in paths if path.suffix.lower() in suffixes]
  faults = name_faults(paths)
  faults += [f"{path} is a link to a file that does not exist. Remove it." for path in paths if not path.exists()]
  for suffix in sorted({path.suffix.lower() for path in paths} - set(suffixes)):
    faults += unusable(folder, suffix, [path for path in paths if path.suffix.lower() == suffix], suffixes)
  counts = Counter(plain_name(path.stem) for path in usable)
  faults += [
    f"{path} has the same name as another file, apart from the suffix. Rename one of them."
    for path in usable
    if counts[plain_name(path.stem)] > 1
  ]
  return {plain_name(path.stem): path for path in usable}, faults


def _partner_faults(
  images_dir: pathlib.Path,
  images: dict[str, pathlib.Path],
  masks_dir: pathlib.Path,
  masks: dict[str, pathlib.Path],
) -> list[str]:
  """Lists images without a mask and masks without an image, or says once how their names differ."""
  lonely_images, lonely_masks = images.keys() - masks.keys(), masks.keys() - images.keys()
  if images and not masks:
    return [_missing_masks(masks_dir, len(images), images_dir)]
  affixes, faults = find_affixes(lonely_images, lonely_masks), []
  if affixes:
    renamed = {name: affixes.mask_of(name) for name in lonely_images if affixes.mask_of(name) in lonely_masks}
    image, mask = images[min(renamed)], masks[renamed[min(renamed)]]
    commands = [
      *_rename(image, affixes.image_prefix, affixes.image_suffix),
      *_rename(mask, affixes.mask_prefix, affixes.mask_suffix),
    ]
    faults.append(
      f"{len(renamed)} of {len(images)} images in {images_dir} have masks of other names in {masks_dir}, such as "
      f"{image.name} and {mask.name}. Rename them: {' && '.join(commands)}"
    )
    lonely_images, lonely_masks = lonely_images - renamed.keys(), lonely_masks - set(renamed.values())
  by_case = {name.casefold(): masks[name] for name in lonely_masks}
  faults += [
    f"{images[name]} has no mask in {masks_dir}.{_other_case(by_case.get(name.casefold()), name)}"
    for name in sorted(lonely_images)
  ]
  if affixes and lonely_masks:
    rest = [masks[name] for name in sorted(lonely_masks)]
    faults.append(f"{masks_dir} contains {len(rest)} more files ({some(rest)}). Move them out of the folder.")
    return faults
  return faults + [f"{masks[name]} has no image in {images_dir}." for name in sorted(lonely_masks)]


def _rename(example: pathlib.Path, prefix: str, suffix: str) -> list[str]:
  """Returns the command that removes a prefix and a suffix from all names like that of `example`; [] without any."""
  if not prefix and not suffix:
    return []
  folder, end = shlex.quote(str(example.parent)), shlex.quote(suffix + example.suffix)
  start = shlex.quote(prefix) if prefix else ""
  name = (
    f'g="${{f#{start}}}"; mv -n "$f" "${{g%{end}}}{example.suffix}"'
    if start
    else (f'mv -n "$f" "${{f%{end}}}{example.suffix}"')
  )
  return [f"(cd {folder} && for f in {start}*{end}; do {name}; done)"]


def _other_case(mask: pathlib.Path | None, name: str) -> str:
  return f" Rename {mask.name}: {shlex.join(['mv', '-n', str(mask), str(mask.with_stem(name))])}" if mask else ""


def _missing_masks(masks_dir: pathlib.Path, images: int, images_dir: pathlib.Path) -> str:
  if masks_dir.is_dir():
    return f"{masks_dir} contains no mask for the {images} images of {images_dir}."
  is_flat = masks_dir.name == "masks"  # Without a folder for each split.
  top, split = (masks_dir, "") if is_flat else (masks_dir.parent, masks_dir.name)
  root = top.parent
  others = [path for path in folders_in(root) if path.name != "images" and (path / split).is_dir()]
  there = [path for path in others if any(file.suffix.lower() == ".png" for file in files_in(path / split))]
  if there:
    fix = f"If they are in {there[0]}: {shlex.join(['mv', str(there[0]), str(top)])}"
  else:
    fix = draw_command(root)
  return f"{masks_dir} not found. It must contain the masks of the {images} images in {images_dir}. {fix}".rstrip()
