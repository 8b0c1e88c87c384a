"""Pictures that training keeps in the workdir, to try the network on where the data set is not there."""

import numpy as np

from gcn_flax import files
from gcn_flax.input_pipeline import pictures
from gcn_flax.input_pipeline.examples import Source
from gcn_flax.workdir.workdir import Workdir

FOLDER = "samples"
_COUNT = 6
_MAX_PIXELS = 2**23  # Of a picture that is kept: a photo of 8 megapixels.


def write_samples(workdir: Workdir, source: Source) -> None:
  """Writes up to six pictures of a split, evenly spread, as `samples/1.png` and so on, unless the folder exists."""
  if (workdir / FOLDER).exists():
    return
  small = np.flatnonzero(source.sizes.astype(np.int64).prod(1) <= _MAX_PIXELS)
  chosen = small[np.linspace(0, len(small) - 1, min(_COUNT, len(small))).astype(int)]
  (workdir / FOLDER).mkdir(parents=True, exist_ok=True)
  for number, index in enumerate(chosen.tolist(), 1):
    workdir.write(f"{FOLDER}/{number}.png", pictures.encode(source[index]["image"], ".png"))


def sample_pictures(workdir: Workdir) -> list[files.Path]:
  """Returns the paths of the pictures that training kept, in order; [] if there are none."""
  return sorted((workdir / FOLDER).glob("*.png"))
