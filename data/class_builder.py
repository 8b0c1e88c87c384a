"""What builders of whole images with one class each share."""

import numpy as np
import tensorflow_datasets as tfds

from data import pictures
from data.builder import Builder, Example
from gcn_flax.labels import LabelSet


class ClassBuilder(Builder, skip_registration=True):
  """A builder whose labels are numbers of classes."""

  published_pictures = True  # A class does not turn with its picture, and grey is no other class than colour.

  def label_feature(self) -> tfds.features.FeatureConnector:
    return tfds.features.Scalar(np.int32)

  def encode_label(self, label: int) -> int:
    return label

  def check_example(self, example: Example, label_set: LabelSet) -> np.ndarray:
    del label_set  # Labels come from names of folders and lists: the plan has checked them.
    return pictures.decode_rgb(example.image, example.image_name, self.published_pictures)
