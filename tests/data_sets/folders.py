"""Small folders of the user's own images and masks."""

import pathlib

import numpy as np

from tests.data_sets.archives import blocks, picture, png

SHAPE = (42, 56)
NAMES = tuple(f"class {number}" for number in range(19))
_CLASSES = "\n".join(NAMES)


def write_files(root: pathlib.Path, files: dict[str, bytes]) -> pathlib.Path:
  for name, data in files.items():
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
  return root


def write_folder(root: pathlib.Path, values=(*range(19), 255), classes=_CLASSES, seed=3) -> pathlib.Path:
  """Writes three training images (a, b, c) and two for validation (d, e), PNG, with masks of the given values."""
  rng = np.random.default_rng(seed)
  files = {"classes.txt": classes.encode()}
  for split, names in (("train", "abc"), ("val", "de")):
    for name in names:
      files[f"images/{split}/{name}.png"] = png(picture(rng, SHAPE))
      files[f"masks/{split}/{name}.png"] = png(blocks(rng, SHAPE, values))
  return write_files(root, files)
