"""TFDS builder of images in one folder per class."""

import hashlib
import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from data.builder import Example, Plan
from data.class_builder import ClassBuilder
from data.faults import raise_all
from data.folder.folder_dataset_builder import SPLITS, SUFFIXES
from gcn_flax.labels import LabelSet, image_labels


class Builder(ClassBuilder):
  """The user's own images, `<split>/<class>/*`; the classes are the folders of `train`, sorted by name."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First version."}

  def plan(self, root: pathlib.Path) -> Plan:
    folders = {SPLITS.get(path.name, path.name): path for path in _folders(root)}
    faults = [
      f"{root} has no folder {name}. It must contain one folder per class."
      for name, split in (("train", "train"), ("val", "validation"))
      if split not in folders
    ]
    if len(folders) < len(_folders(root)):
      faults.append(f"{root} has both val and validation, which are the same split. Merge the folders.")
    raise_all(faults)
    classes = tuple(path.name for path in _folders(folders["train"]))
    faults = [f"{folders['train']} has {len(classes)} folders. It must contain one per class, at least 2."]
    raise_all(faults if len(classes) < 2 else [])
    splits, faults = {}, []
    for split, folder in folders.items():
      splits[split] = items = []
      for path in _folders(folder):
        if path.name not in classes:
          faults.append(f"{path} is not a class: {folders['train']} has no folder of this name. Rename or remove it.")
          continue
        found = [(file, classes.index(path.name)) for file in _files(path)]
        faults += [f"{file} is not one of {' '.join(SUFFIXES)}. Remove it." for file, _ in found if not _is_image(file)]
        faults += [] if found else [f"{path} contains no image. Remove it, or add images."]
        items += found
      faults += [] if items else [f"{folder} contains no class."]
    raise_all(faults)
    self._seen, self._twice = {}, []
    counts = {split: len(items) for split, items in splits.items()}
    return Plan(splits, counts=counts, published={}, label_set=image_labels(classes, {}))

  def load(self, item: tuple[pathlib.Path, int]) -> Example:
    path, label = item
    return Example(f"{path.parent.name}/{path.name}", path.read_bytes(), label, image_name=str(path))

  def check(self, plan: Plan) -> dict[str, list[int]]:
    largest = super().check(plan)
    if self._twice:
      one, other = self._twice[0]
      print(f"note: {len(self._twice)} images occur in two folders, for instance {one} and {other}", flush=True)
    return largest

  def check_example(self, example: Example, label_set: LabelSet) -> np.ndarray:
    image = super().check_example(example, label_set)
    digest = hashlib.blake2b(image.tobytes(), digest_size=16, key=str(image.shape).encode()).digest()
    first = self._seen.setdefault(digest, example.image_name)
    if pathlib.Path(first).parent != pathlib.Path(example.image_name).parent:
      self._twice.append((first, example.image_name))
    return image

  def digest(self, root: pathlib.Path) -> str:
    """Returns a digest of the names and sizes of all files."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
      digest.update(f"{path.relative_to(root)} {path.stat().st_size}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _folders(root: pathlib.Path) -> list[pathlib.Path]:
  return sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")


def _files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  yield from sorted(path for path in folder.iterdir() if path.name[0] != "." and path.name != "Thumbs.db")


def _is_image(path: pathlib.Path) -> bool:
  return path.is_file() and path.suffix.lower() in SUFFIXES
