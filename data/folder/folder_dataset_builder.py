"""TFDS builder of the user's own images and masks."""

import hashlib
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tensorflow_datasets as tfds

from data import pictures
from data.builder import Builder as BaseBuilder
from data.builder import Example, Plan
from data.class_counts import ClassCounts
from data.faults import raise_all
from data.folder.classes import Classes, read_classes
from data.folder.layout import elsewhere, is_flat, split_faults
from data.folder.missing import likely_cause
from data.folder.pairs import find_images, find_pairs
from data.folder.palettes import Palettes
from data.folder.validation import split_off
from data.user_files import digest_of, files_below, folders_in, plain_name, split_of
from gcn_flax.labels import LabelSet

_OR_FRACTION = " Make one, or keep a fifth of train for it with --val_fraction=0.2."
_LIKE_VOID = ("void", "unlabeled", "unlabelled", "ignored", "__void__")


class Builder(BaseBuilder):
  """The user's own images and masks, with the classes in `classes.txt`."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First version."}
  takes_val_fraction = True
  void_cure = (
    "Replace the masks, or list what stands for a class in classes.txt, for instance cell = 255. If the "
    "split has no labels, call it test and remove its masks"
  )

  def classes(self, root: pathlib.Path) -> Classes:
    """Returns the classes and their mask values. Raises ValueError if they cannot be read."""
    return read_classes(root / "classes.txt")

  def folders(self, root: pathlib.Path) -> dict[str, tuple[pathlib.Path, pathlib.Path]]:
    """Returns the folders of images and of masks of each split, which need not exist."""
    if not (root / "images").is_dir():
      raise ValueError(
        f"{root} has no folder images. It must contain images/<split>/ and masks/<split>/.{elsewhere(root)}"
      )
    if is_flat(root / "images"):
      return {"train": (root / "images", root / "masks")}
    return {path.name: (path, root / "masks" / path.name) for path in folders_in(root / "images")}

  def plan(self, root: pathlib.Path) -> Plan:
    folders = self.folders(root)
    self._classes, self._seen, self._palettes = self.classes(root), {}, Palettes()
    faults = split_faults(root, folders, self.val_fraction, _OR_FRACTION if self.takes_val_fraction else "")
    splits = {}
    for name, (images, masks) in folders.items():
      try:
        splits[split_of(name)] = (
          find_pairs(images, masks)
          if name != "test" or masks.is_dir()
          else [(image, None) for image in find_images(images)]
        )
      except ValueError as error:
        faults.append(str(error))
    raise_all(faults)
    if self.val_fraction:
      splits["train"], splits["validation"] = split_off(splits["train"], self.val_fraction)
    self._split_by_image = {str(image): split for split, pairs in splits.items() for image, _ in pairs}
    label_set = self._classes.label_set
    return Plan(
      splits=splits,
      counts={split: len(pairs) for split, pairs in splits.items()},
      published=label_set.split_sizes,
      label_set=label_set,
      unlabelled=tuple(split for split, pairs in splits.items() if pairs[0][1] is None),
      notes=self._split_notes(splits)
      + tuple(
        f"{name!r} is trained like every other class. If its pixels are to be left out, call it ignore in classes.txt"
        for name in label_set.classes
        if name.lower() in _LIKE_VOID
      ),
    )

  def _split_notes(self, splits: Mapping[str, Sequence]) -> tuple[str, ...]:
    if not self.val_fraction:
      return ()
    count, total = len(splits["validation"]), len(splits["train"]) + len(splits["validation"])
    return (f"--val_fraction={self.val_fraction}: {count} of {total} images of train are kept for validation",)

  def load(self, item: tuple[pathlib.Path, pathlib.Path | None]) -> Example:
    image, mask = item
    label = None if mask is None else self._read_mask(mask)
    return Example(plain_name(image.stem), image.read_bytes(), label, image_name=str(image), label_name=str(mask))

  def _read_mask(self, path: pathlib.Path) -> np.ndarray:
    data, name = path.read_bytes(), str(path)
    if self._classes.colours:
      return self._classes.to_train(pictures.decode_colours(data, name), name)
    mask = pictures.decode_mask(data, name)
    palette = pictures.stored_palette(data)
    if palette is not None:
      self._palettes.compare(mask, palette, name)
    return self._classes.to_train(mask, name)

  def digest(self, root: pathlib.Path) -> str:
    """Returns a digest of the names and sizes of all files, and of the content of masks and `classes.txt`."""
    folders = self.folders(root).values()
    images, masks = (_files_of(root, [pair[kind] for pair in folders]) for kind in (0, 1))
    digest = digest_of(root, sorted(images + masks), with_content=masks)
    if (root / "classes.txt").is_file():
      digest.update((root / "classes.txt").read_bytes())
    return digest.hexdigest()

  def missing_cause(self, train_id: int, counts: ClassCounts) -> str:
    return likely_cause(self._classes, train_id, counts)

  def check_example(self, example: Example, label_set: LabelSet) -> np.ndarray:
    image = super().check_example(example, label_set)
    if (image == image[0, 0]).all():  # Of one colour, such as tiles without data: no leak.
      return image
    digest = hashlib.blake2b(image.tobytes(), digest_size=16, key=str(image.shape).encode()).digest()
    first = self._seen.setdefault(digest, example.image_name)
    if self._split_by_image[first] != self._split_by_image[example.image_name]:
      raise ValueError(f"{example.image_name} is the same image as {first} in another split. Remove one of them.")
    return image


def _files_of(root: pathlib.Path, folders: Iterable[pathlib.Path]) -> list[pathlib.Path]:
  """Returns all files of the splits' folders and, if they are in a folder of their own, beside them."""
  tops = {folder if folder.parent == root else folder.parent for folder in folders}
  return [file for top in tops for file in files_below(top)]
