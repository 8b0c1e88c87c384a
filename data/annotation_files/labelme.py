"""Reads labelme's annotations: one JSON file per image."""

import functools
import pathlib

from data.annotation_files import outlines
from data.annotation_files.annotations import AnnotatedImage, Annotations, Pictures, Region, split_of_parts
from data.faults import raise_all
from data.folder.class_lists import read_rows
from data.user_files import visible_files
from gcn_flax import json_files

_FORM = {
  "imagePath": str,
  "imageHeight?": int | None,
  "imageWidth?": int | None,
  "shapes": [{"label": str, "points": [(float, float)], "shape_type?": str | None}],
}
_FIX = "Save it again with labelme, or move it away."
_OUTLINES = {"polygon": outlines.polygon, "rectangle": outlines.rectangle, "circle": outlines.circle}
_IGNORED = "__ignore__"
_BACKGROUND = "_background_"


def read(root: pathlib.Path) -> Annotations:
  """Reads every `*.json` below a folder; its image lies beside it, or anywhere below the folder.

  The classes are those of `labels.txt` in the folder, in its order, or all labels in alphabetical order. `__ignore__`
  is left out of training, `_background_` is the background. Shapes are drawn in their order, the later on top.

  Raises ValueError listing every file that cannot be read, image that is missing, and label that is not listed.
  """
  files = visible_files(root, (".json",))
  raise_all([] if files else [f"{root} contains no .json file. Use the folder in which labelme saved them."])
  listed, pictures = _listed(root / "labels.txt"), Pictures(root)
  images, faults = [], []
  for path in files:
    try:
      images.append(_read_image(root, path, pictures, listed))
    except ValueError as error:
      faults.append(str(error))
  raise_all(faults)
  found = {region.name for image in images for region in image.regions} - {None, _BACKGROUND}
  left_out = sorted(set(pictures.paths) - {image.path for image in images})
  notes = [f"{len(left_out)} images without a .json file are left out, such as {left_out[0]}"] if left_out else []
  return Annotations(listed or tuple(sorted(found)), tuple(images), smaller_on_top=False, notes=tuple(notes))


def _listed(path: pathlib.Path) -> tuple[str, ...]:
  """Returns the classes in labelme's list of labels; () if there is no such file."""
  if not path.is_file():
    return ()
  try:
    return tuple(row.name for row in read_rows(path.read_text(encoding="utf-8-sig")) if row.name != _IGNORED)
  except ValueError as error:
    raise ValueError(f"{path} cannot be read ({error})") from error


def _read_image(root: pathlib.Path, path: pathlib.Path, pictures: Pictures, listed: tuple[str, ...]) -> AnnotatedImage:
  content = json_files.read(path, _FORM, _FIX)
  regions, faults = [], []
  for number, shape in enumerate(content["shapes"], 1):
    place, label, kind = f"{path} shape {number}", shape["label"], shape.get("shape_type") or "polygon"
    if kind not in _OUTLINES:
      faults.append(f"{place} ({label}) is a {kind}, which is not read. Draw a polygon, rectangle or circle instead.")
    elif listed and label not in (*listed, _IGNORED, _BACKGROUND):
      faults.append(f"{place}: {label!r} is not in {root / 'labels.txt'}. Add it there, or correct the label.")
    else:
      draw = functools.partial(_OUTLINES[kind], shape["points"])
      regions.append(Region(f"{place} ({label})", None if label == _IGNORED else label, draw))
  raise_all(faults)
  height, width = content.get("imageHeight"), content.get("imageWidth")
  return AnnotatedImage(
    path=pictures.find(content["imagePath"], path),
    split=split_of_parts(root, path),
    regions=tuple(regions),
    place=str(path),
    size=(height, width) if height and width else None,
  )
