"""Base class of the TFDS builders of data sets with one class per image."""

import numpy as np
import tensorflow_datasets as tfds

from data import pictures
from data.builder import Builder, Example
from gcn_flax.labels import LabelSet


class ClassBuilder(Builder, skip_registration=True):
  """A builder whose labels are class numbers."""

  published_pictures = True  # The class of an image depends neither on its orientation nor on its colours.

  def label_feature(self) -> tfds.features.FeatureConnector:
    return tfds.features.Scalar(np.int32)

  def encode_label(self, label: int) -> int:
    return label

  def check_example(self, example: Example, label_set: LabelSet) -> np.ndarray:
    del label_set  # Labels come from folder names and lists, which `plan` has checked.
    return pictures.decode_rgb(example.image, example.image_name, self.published_pictures)
