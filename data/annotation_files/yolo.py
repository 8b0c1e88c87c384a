"""Reads Ultralytics' annotations for segmentation: one text file per image, with a polygon on each line."""

import functools
import math
import pathlib

from data.annotation_files import outlines
from data.annotation_files.annotations import AnnotatedImage, Annotations, Pictures, Region, split_of_parts
from data.faults import raise_all
from data.folder.class_lists import read_rows
from data.user_files import visible_files

_LABELS, _IMAGES = "labels", "images"


def read(root: pathlib.Path) -> Annotations:
  """Reads the images below a folder and the `*.txt` of each: in `labels` in place of `images`, or beside it.

  `names` in the folder's YAML file lists the classes. An image without a `*.txt` shows no object, and a split `test`
  without any has no ground truth. Where objects overlap, the smaller one counts.

  Raises ValueError if the names are missing; or else listing every line that is no polygon, and every file without its
  image.
  """
  names = _read_names(root)
  images, faults, used = [], [], set()
  for path in Pictures(root).paths:
    label = _label_of(root, path)
    used.add(label)
    try:
      regions = _read_regions(label, names) if label.is_file() else ()
    except ValueError as error:
      faults.append(str(error))
      continue
    images.append(AnnotatedImage(path, split_of_parts(root, path), regions, str(label)))
  others = [
    path for path in visible_files(root, (".txt",)) if _LABELS in path.relative_to(root).parts and path not in used
  ]
  faults += [f"{path} has no image of the same name. Add the image, or remove the file." for path in others]
  faults += [] if images or faults else [f"{root} contains no image. Use the folder with images and labels."]
  images, more = _without_ground_truth(images)
  raise_all(faults or more)
  classes = tuple(names[number] for number in sorted(names))
  return Annotations(classes, tuple(images), smaller_on_top=True)


def _read_names(root: pathlib.Path) -> dict[int, str]:
  """Returns the name of each class by its number."""
  for path in sorted(path for path in root.iterdir() if path.suffix in (".yaml", ".yml")):
    try:
      rows = read_rows(path.read_text(encoding="utf-8-sig"))
      if rows and rows[0].place == "names":
        return {index if row.keys is None else int(row.keys): row.name for index, row in enumerate(rows)}
    except ValueError as error:
      raise ValueError(f"{path}: its names cannot be read ({error})") from error
  raise ValueError(f"{root} contains no YAML file with names: of the classes. Put data.yaml there.")


def _label_of(root: pathlib.Path, image: pathlib.Path) -> pathlib.Path:
  """Returns the label file of an image, by the rule of Ultralytics."""
  parts = list(image.with_suffix(".txt").relative_to(root).parts)
  if _IMAGES in parts:
    parts[len(parts) - 1 - parts[::-1].index(_IMAGES)] = _LABELS
  return root.joinpath(*parts)


def _read_regions(path: pathlib.Path, names: dict[int, str]) -> tuple[Region, ...]:
  regions, faults = [], []
  for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
    if line.strip():
      try:
        name, points = _parse(line.split(), names)
        draw = functools.partial(outlines.relative_polygon, points)
        regions.append(Region(f"{path} line {number} ({name})", name, draw))
      except ValueError as error:
        faults.append(f"{path} line {number} {error}")
  raise_all(faults)
  return tuple(regions)


def _parse(words: list[str], names: dict[int, str]) -> tuple[str, list[tuple[float, float]]]:
  """Returns the class and the corners, as shares of width and height, of one line."""
  try:
    number, numbers = int(words[0]), [float(word) for word in words[1:]]
  except ValueError as error:
    raise ValueError("is not a class number followed by x y x y ... Export it again.") from error
  if number not in names:
    raise ValueError(f"has class {number}, which the YAML file does not name. Add it there, or correct the line.")
  if len(numbers) == 4:
    raise ValueError("is a box, not a polygon. Export the labels for segmentation.")
  if len(numbers) < 6 or len(numbers) % 2 or not all(map(math.isfinite, numbers)):
    raise ValueError("is not a class number followed by x y x y ... of three points or more. Export it again.")
  return names[number], list(zip(numbers[::2], numbers[1::2], strict=True))


def _without_ground_truth(images: list[AnnotatedImage]) -> tuple[list[AnnotatedImage], list[str]]:
  """Removes the ground truth of `test` if it has no label file; returns the images, and other splits without any."""
  faults, found = [], []
  for split in sorted({image.split for image in images}):
    group = [image for image in images if image.split == split]
    if any(pathlib.Path(image.place).is_file() for image in group):
      found += group
    elif split == "test":
      found += [AnnotatedImage(image.path, split, None, image.place) for image in group]
    else:
      faults.append(
        f"none of {len(group)} images like {group[0].path} has a label file like {group[0].place}. Add them."
      )
  return found, faults
