"""TFDS builder of the user's own images and masks."""

import hashlib
import pathlib
import re
from collections import Counter

import numpy as np
import tensorflow_datasets as tfds

from data import pictures
from data.builder import Builder as BaseBuilder
from data.builder import Example, Plan
from data.faults import raise_all
from data.folder.classes import Classes, read_classes
from gcn_flax.labels import LabelSet

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
SPLITS = {"val": "validation"}  # Any other folder is a split of the same name.


class Builder(BaseBuilder):
  """The user's own images and masks, with the classes in `classes.txt`."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First version."}

  def classes(self, root: pathlib.Path) -> Classes:
    """Returns the classes and their mask values. Raises ValueError if they cannot be read."""
    return read_classes(root / "classes.txt")

  def plan(self, root: pathlib.Path) -> Plan:
    if not (root / "images").is_dir():
      raise ValueError(f"{root} has no folder images. It must contain images/<split>/ and masks/<split>/.")
    self._root, self._classes, self._seen = root, self.classes(root), {}
    folders = sorted(path.name for path in (root / "images").iterdir() if path.is_dir() and path.name[0] != ".")
    names = [SPLITS.get(folder, folder) for folder in folders]
    faults = [f"{root / 'images'} has no folder {name}." for name in ("train", "val") if not _has(folders, name)]
    faults += [
      f"{root / 'images' / name} is no valid split name. Use letters, digits and _, start with a letter, and not 'all'."
      for name in folders
      if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) or name == "all"
    ]
    if len(set(names)) < len(names):
      faults.append(f"{root / 'images'} has both val and validation, which are the same split. Merge the folders.")
    splits = {}
    for folder in folders:
      try:
        splits[SPLITS.get(folder, folder)] = _pairs(root, folder)
      except ValueError as error:
        faults.append(str(error))
    raise_all(faults)
    label_set = self._classes.label_set
    return Plan(
      splits=splits,
      counts={split: len(pairs) for split, pairs in splits.items()},
      published=label_set.split_sizes,
      label_set=label_set,
      unlabelled=tuple(split for split, pairs in splits.items() if pairs[0][2] is None),
    )

  def load(self, item: tuple[str, pathlib.Path, pathlib.Path | None]) -> Example:
    _, image, mask = item
    label = None
    if mask is not None:
      decode = pictures.decode_colours if self._classes.colours else pictures.decode_mask
      label = self._classes.to_train(decode(mask.read_bytes(), str(mask)), str(mask))
    return Example(image.stem, image.read_bytes(), label, image_name=str(image), label_name=str(mask))

  def digest(self, root: pathlib.Path) -> str:
    """Returns a digest of the names and sizes of all files, and of the content of masks and `classes.txt`."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(path for folder in ("images", "masks") for path in (root / folder).rglob("*") if path.is_file()):
      digest.update(f"{path.relative_to(root)} {path.stat().st_size}\n".encode(errors="surrogateescape"))
      if path.relative_to(root).parts[0] == "masks":
        digest.update(path.read_bytes())
    if (root / "classes.txt").is_file():
      digest.update((root / "classes.txt").read_bytes())
    return digest.hexdigest()

  def check_example(self, example: Example, label_set: LabelSet) -> np.ndarray:
    image = super().check_example(example, label_set)
    digest = hashlib.blake2b(image.tobytes(), digest_size=16, key=str(image.shape).encode()).digest()
    first = self._seen.setdefault(digest, example.image_name)
    if first != example.image_name and pathlib.Path(first).parent != pathlib.Path(example.image_name).parent:
      raise ValueError(f"{example.image_name} is the same image as {first} in another split. Remove one of them.")
    return image


def _has(folders: list[str], name: str) -> bool:
  return name in folders or SPLITS.get(name, name) in folders


def _pairs(root: pathlib.Path, folder: str) -> list[tuple[str, pathlib.Path, pathlib.Path | None]]:
  """Returns (folder, image, mask) for each image, sorted by name; masks are None for a `test` folder without masks.

  Raises ValueError listing files without a partner, duplicate names and files of other types.
  """
  images, faults = _files(root / "images" / folder, SUFFIXES)
  if not images and not faults:
    faults.append(f"{root / 'images' / folder} contains no image.")
  if folder == "test" and not (root / "masks" / folder).is_dir():
    raise_all(faults)
    return [(folder, image, None) for _, image in sorted(images.items())]
  masks, more = _files(root / "masks" / folder, (".png",))
  faults += more
  faults += [
    f"{images[name]} has no mask in {root / 'masks' / folder}." for name in sorted(images.keys() - masks.keys())
  ]
  faults += [
    f"{masks[name]} has no image in {root / 'images' / folder}." for name in sorted(masks.keys() - images.keys())
  ]
  raise_all(faults)
  return [(folder, images[name], masks[name]) for name in sorted(images)]


def _files(folder: pathlib.Path, suffixes: tuple[str, ...]) -> tuple[dict[str, pathlib.Path], list[str]]:
  """Returns the files of a folder by name without suffix, and the faults among them."""
  if not folder.is_dir():
    return {}, []
  paths = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.name != "Thumbs.db")
  faults = [
    f"{path} is not one of {' '.join(suffixes)}. Remove it." for path in paths if path.suffix.lower() not in suffixes
  ]
  counts = Counter(path.stem for path in paths)
  faults += [
    f"{path} has the same name as another file, apart from the suffix. Rename one of them."
    for path in paths
    if counts[path.stem] > 1
  ]
  return {path.stem: path for path in paths}, faults
