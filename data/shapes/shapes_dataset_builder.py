"""TFDS builder of `shapes`: generated scenes whose classes only a large kernel can tell apart."""

import pathlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data import pictures
from data.builder import Builder as BaseBuilder
from data.builder import Example, Plan
from data.shapes.scene import SIZE, draw_scene
from gcn_flax.labels import SHAPES

_SEED = 2017  # Fixed, so that the data set is the same everywhere.


class Builder(BaseBuilder):
  """Generated scenes of 256 x 256 pixels in which the class of a bar is shown only by a knob at one end."""

  VERSION = tfds.core.Version("1.1.0")
  RELEASE_NOTES = {"1.1.0": "Classes and counts in the metadata.", "1.0.0": "First version."}

  def plan(self, root: pathlib.Path) -> Plan:
    sizes = SHAPES.split_sizes
    items = {split: [(split, index) for index in range(size)] for split, size in sizes.items()}
    return Plan(items, counts=dict(sizes), published=sizes, label_set=SHAPES)

  def check(self, plan: Plan) -> dict[str, Any]:
    """Returns the size of the scenes; generated data needs no check."""
    return {"largest": {split: [SIZE, SIZE] for split in plan.splits}}

  def load(self, item: tuple[str, int]) -> Example:
    split, index = item
    image, label = draw_scene(np.random.default_rng([_SEED, list(SHAPES.split_sizes).index(split), index]))
    return Example(f"{split}_{index:05d}", pictures.encode_jpeg(image), label)
