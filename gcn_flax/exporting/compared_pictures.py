"""The pictures that exported files are compared with the network on."""

import dataclasses
import pathlib
from collections.abc import Sequence

import ml_collections
import numpy as np

from gcn_flax.input_pipeline import pictures
from gcn_flax.run_data import RunData
from gcn_flax.workdir.samples import sample_pictures
from gcn_flax.workdir.workdir import Workdir

_COUNT = 6  # Pictures, unless the user chooses others.
_MAX_SIDES = (1024, 1024)  # (H, W) that larger pictures are cut to: whole photos would take gigabytes of memory.
_GENERATED = (192, 256)  # Size of generated pictures.


@dataclasses.dataclass(frozen=True)
class ComparedPictures:
  """Pictures to compare files on.

  Attributes:
    images: RGB uint8 `[H, W, 3]`.
    text: their number and where they come from.
  """

  images: list[np.ndarray]
  text: str


def find(
  config: ml_collections.ConfigDict, workdir: Workdir, chosen: Sequence[pathlib.Path], canvas: Sequence[int] = ()
) -> ComparedPictures:
  """Returns the chosen pictures, else some of the evaluation split, else those that training kept, else noise.

  Args:
    config: config of the run.
    workdir: workdir of the run.
    chosen: pictures of the user.
    canvas: (H, W) that pictures must fit into; larger ones are cut. () for 1024 x 1024.

  Raises ValueError or OSError if one of the chosen pictures, or of those that training kept, cannot be read.
  """
  height, width = canvas or _MAX_SIDES

  def cut(image: np.ndarray) -> np.ndarray:
    return image[:height, :width].copy()  # A view would keep the whole picture in memory.

  def describe(images: list[np.ndarray], source: str) -> ComparedPictures:
    return ComparedPictures(images, f"{len(images)} {source}, at most {height} x {width} pixels of each")

  if chosen:
    return describe([cut(pictures.read_picture(path)) for path in chosen], "pictures of --images")
  try:
    source = RunData(config).eval_source(config.data.eval_split)
    places = np.linspace(0, len(source) - 1, min(_COUNT, len(source))).astype(int)
    images = [cut(source[place]["image"]) for place in places.tolist()]
    return describe(images, f"pictures of {source.dataset} {source.split}")
  except (ValueError, OSError):  # The data set is not here, or damaged.
    kept = sample_pictures(workdir)
  if kept:
    return describe([cut(pictures.as_rgb(path)[0]) for path in kept], "pictures that training kept")
  rng = np.random.default_rng(0)
  images = [cut(rng.integers(0, 256, (*_GENERATED, 3)).astype(np.uint8)) for _ in range(_COUNT)]
  return describe(images, "pictures of noise")
