"""TFDS builder of images in one folder per class."""

import hashlib
import pathlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data.builder import Example, Plan
from data.class_builder import ClassBuilder
from data.faults import raise_all
from data.user_files import (
  digest_of,
  files_below,
  files_in,
  folders_in,
  name_faults,
  plain_name,
  same_splits,
  split_of,
)
from gcn_flax.input_pipeline.pictures import SUFFIXES
from gcn_flax.labels import LabelSet, image_labels


class Builder(ClassBuilder):
  """The user's own images, `<split>/<class>/*`; the classes are the folders of `train`, sorted by name."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First version."}

  def plan(self, root: pathlib.Path) -> Plan:
    folders = {split_of(path.name): path for path in folders_in(root)}
    faults = [
      f"{root} has no folder {name}. It must contain one folder per class."
      for name, split in (("train", "train"), ("val", "validation"))
      if split not in folders
    ]
    raise_all(faults + same_splits(root, [path.name for path in folders_in(root)]))
    classes = tuple(plain_name(path.name) for path in folders_in(folders["train"]))
    faults = [f"{folders['train']} has {len(classes)} folders. It must contain one per class, at least 2."]
    raise_all(faults if len(classes) < 2 else [])
    splits, faults = {}, []
    for split, folder in folders.items():
      splits[split] = items = []
      faults += name_faults(folders_in(folder))
      for path in folders_in(folder):
        if plain_name(path.name) not in classes:
          faults.append(f"{path} is not a class: {folders['train']} has no folder of this name. Rename or remove it.")
          continue
        found = [(file, classes.index(plain_name(path.name))) for file in files_in(path)]
        faults += [f"{file} is not one of {' '.join(SUFFIXES)}. Remove it." for file, _ in found if not _is_image(file)]
        faults += [] if found else [f"{path} contains no image. Remove it, or add images."]
        faults += name_faults(file for file, _ in found)
        items += found
      faults += [] if items else [f"{folder} contains no class."]
    raise_all(faults)
    self._seen, self._twice = {}, []
    counts = {split: len(items) for split, items in splits.items()}
    return Plan(splits, counts=counts, published={}, label_set=image_labels(classes, {}))

  def load(self, item: tuple[pathlib.Path, int]) -> Example:
    path, label = item
    return Example(plain_name(f"{path.parent.name}/{path.name}"), path.read_bytes(), label, image_name=str(path))

  def check(self, plan: Plan) -> dict[str, Any]:
    facts = super().check(plan)
    if self._twice:
      one, other = self._twice[0]
      print(f"note: {len(self._twice)} images occur in two folders, for instance {one} and {other}", flush=True)
    return facts

  def check_example(self, example: Example, label_set: LabelSet) -> np.ndarray:
    image = super().check_example(example, label_set)
    digest = hashlib.blake2b(image.tobytes(), digest_size=16, key=str(image.shape).encode()).digest()
    first = self._seen.setdefault(digest, example.image_name)
    if pathlib.Path(first).parent != pathlib.Path(example.image_name).parent:
      self._twice.append((first, example.image_name))
    return image

  def digest(self, root: pathlib.Path) -> str:
    """Returns a digest of the names and sizes of all files."""
    return digest_of(root, files_below(root)).hexdigest()


def _is_image(path: pathlib.Path) -> bool:
  return path.is_file() and path.suffix.lower() in SUFFIXES
