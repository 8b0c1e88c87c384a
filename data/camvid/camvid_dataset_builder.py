"""TFDS builder of CamVid with SegNet's 11 classes: a `folder` data set with known classes."""

import pathlib

import tensorflow_datasets as tfds

from data.folder.classes import Classes, known_classes
from data.folder.folder_dataset_builder import Builder as FolderBuilder
from gcn_flax.labels import CAMVID


class Builder(FolderBuilder):
  """CamVid (Brostow et al., 2009): street photos of 360 x 480 pixels; masks contain 0 to 10, and 255 for void."""

  VERSION = tfds.core.Version("1.1.0")
  RELEASE_NOTES = {"1.1.0": "Classes and counts in the metadata.", "1.0.0": "First version."}

  def classes(self, root: pathlib.Path) -> Classes:
    return known_classes(CAMVID)
