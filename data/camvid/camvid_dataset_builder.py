"""TFDS builder of CamVid with SegNet's 11 classes: a `folder` data set with known classes."""

import pathlib

import tensorflow_datasets as tfds

from data.builder import Builder as BaseBuilder
from data.class_counts import ClassCounts
from data.folder.classes import Classes, known_classes
from data.folder.folder_dataset_builder import Builder as FolderBuilder
from gcn_flax.labels import CAMVID

_SEGNET_VOID = 11


class Builder(FolderBuilder):
  """CamVid (Brostow et al., 2009): street photos of 360 x 480 pixels; masks contain 0 to 10, and 11 or 255 for void.

  SegNet's own folders, `<split>` and `<split>annot`, are read as they are.
  """

  VERSION = tfds.core.Version("1.1.0")
  RELEASE_NOTES = {"1.1.0": "Classes and counts in the metadata.", "1.0.0": "First version."}

  takes_val_fraction = False  # Its splits are the published ones.

  def classes(self, root: pathlib.Path) -> Classes:
    return known_classes(CAMVID, void=(_SEGNET_VOID,))

  def folders(self, root: pathlib.Path) -> dict[str, tuple[pathlib.Path, pathlib.Path]]:
    segnet = {name: (root / name, root / f"{name}annot") for name in ("train", "val", "test")}
    found = {name: folders for name, folders in segnet.items() if folders[1].is_dir()}
    return found or super().folders(root)

  def missing_cause(self, train_id: int, counts: ClassCounts) -> str:
    return BaseBuilder.missing_cause(self, train_id, counts)
