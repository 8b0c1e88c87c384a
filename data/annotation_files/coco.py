"""Reads COCO's annotations of objects: one JSON file for all images, or one for each split."""

import functools
import pathlib
import re
from collections import defaultdict
from typing import Any

from data.annotation_files import outlines
from data.annotation_files.annotations import AnnotatedImage, Annotations, Pictures, Region, split_of_parts
from data.faults import raise_all
from data.user_files import visible_files
from gcn_flax import json_files

_FORM = {
  "images": [{"id": int, "file_name": str, "height": int, "width": int}],
  "annotations": [{"image_id": int, "category_id": int, "segmentation?": object, "iscrowd?": object}],
  "categories": [{"id": int, "name": str}],
}
_FIX = "Export it again as COCO's instances, or move it away."
_SPLIT = re.compile("(?<![a-z])(train|validation|valid|val|test)(?![a-z])")  # As in instances_train2017.json.


def read(root: pathlib.Path) -> Annotations:
  """Reads every `*.json` below a folder; the images lie anywhere below it.

  The classes are the categories in the order of their ids. Crowds are left out of training. Where objects overlap, the
  smaller one counts.

  Raises ValueError listing every file that cannot be read, image that is missing, object without an outline, and
  category that is not listed.
  """
  files = visible_files(root, (".json",))
  raise_all([] if files else [f"{root} contains no .json file. Use the folder with images and annotations."])
  pictures, images, classes, faults = Pictures(root), [], {}, []
  for path in files:
    try:
      content = json_files.read(path, _FORM, _FIX)
      names = {category["id"]: category["name"] for category in content["categories"]}
      images += _read_images(root, path, content, names, pictures)
      classes |= dict.fromkeys(names[number] for number in sorted(names))
    except ValueError as error:
      faults.append(str(error))
  raise_all(faults)
  return Annotations(tuple(classes), tuple(images), smaller_on_top=True)


def _read_images(
  root: pathlib.Path, path: pathlib.Path, content: dict[str, Any], names: dict[int, str], pictures: Pictures
) -> list[AnnotatedImage]:
  known = {image["id"] for image in content["images"]}
  regions, without, faults = defaultdict(list), [], []
  for number, annotation in enumerate(content["annotations"], 1):
    place = f"{path} annotation {annotation.get('id', number)}"
    if annotation["image_id"] not in known:
      faults.append(f"{place}: image_id {annotation['image_id']} is not among its images. {_FIX}")
    elif annotation["category_id"] not in names:
      faults.append(f"{place}: category_id {annotation['category_id']} is not among its categories. {_FIX}")
    elif not annotation.get("segmentation"):
      without.append(place)
    else:
      name = names[annotation["category_id"]]
      draw = functools.partial(outlines.coco_region, annotation["segmentation"])
      regions[annotation["image_id"]].append(
        Region(f"{place} ({name})", None if annotation.get("iscrowd") else name, draw)
      )
  if without:
    faults.append(
      f"{path}: {len(without)} of {len(content['annotations'])} annotations have no outline ('segmentation'), such as "
      f"{without[0].removeprefix(f'{path} ')}. Boxes are not enough: export it with outlines."
    )
  images = []
  for image in content["images"]:
    try:
      found = pictures.find(image["file_name"], path)
    except ValueError as error:
      faults.append(str(error))
      continue
    size = image["height"], image["width"]
    images.append(AnnotatedImage(found, _split(root, path, found), tuple(regions[image["id"]]), str(path), size))
  raise_all(faults)
  return images


def _split(root: pathlib.Path, path: pathlib.Path, image: pathlib.Path) -> str:
  named = _SPLIT.search(path.relative_to(root).as_posix().lower())
  return named[1] if named else split_of_parts(root, image)
