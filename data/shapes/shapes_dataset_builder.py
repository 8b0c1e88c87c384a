"""TFDS builder of `shapes`: generated scenes whose classes only a large kernel can tell."""

import concurrent.futures
import io
import os

import cv2
import numpy as np
import tensorflow_datasets as tfds

from data.shapes.scene import draw_scene
from gcn_flax.labels import SHAPES

_SEED = 2017  # Fixed: the data set is the same everywhere.
_JPEG_QUALITY = 95


class Builder(tfds.core.GeneratorBasedBuilder):
  """Scenes of 256 x 256 pixels with one long bar each, see `data/shapes/scene.py`."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First version."}

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          "image_id": tfds.features.Text(),
          "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
          "label": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
        }
      ),
      description="Generated scenes in which a bar's class is told only by a knob at one of its far ends.",
    )

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(split, size) for split, size in SHAPES.split_sizes.items()}

  def _generate_examples(self, split, size):
    # OpenCV and NumPy let go of the interpreter's lock, so threads draw in parallel.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
      for example in pool.map(lambda index: _example(split, index), range(size)):
        yield example["image_id"], example


def _example(split: str, index: int) -> dict:
  split_number = list(SHAPES.split_sizes).index(split)
  image, label = draw_scene(np.random.default_rng([_SEED, split_number, index]))
  quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
  jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)[1]
  return {
    "image_id": f"{split}_{index:05d}",
    "image": io.BytesIO(jpeg.tobytes()),
    "label": io.BytesIO(cv2.imencode(".png", label)[1].tobytes()),
  }
