"""Writes generated scenes as a folder of pictures and masks, three of whose training masks are wrong.

  python docs/figures/planted_errors.py --output=runs/planted

An example for `--mode=label_errors`, see docs/EXPLAIN.md. The wrong masks are those of scene 100, whose bar has another
class, 200, whose bar is missing, and 300, whose bar is 24 pixels to the right.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

import cv2
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from data.shapes.scene import draw_scene  # noqa: E402
from gcn_flax.labels import IGNORE, SHAPES  # noqa: E402

COUNTS = {"train": 800, "val": 40}
SWAPPED, REMOVED, SHIFTED = "scene_100", "scene_200", "scene_300"
_SHIFT = 24  # Pixels.


def main(argv: Sequence[str] | None = None) -> None:
  """Writes the scenes."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--output", required=True, metavar="DIR", help="folder to write to")
  write(pathlib.Path(parser.parse_args(argv).output), COUNTS)


def write(root: pathlib.Path, counts: dict[str, int]) -> None:
  """Writes `counts` scenes of each split, with the three wrong masks in `train`."""
  for split, count in counts.items():
    for kind in ("images", "masks"):
      (root / kind / split).mkdir(parents=True, exist_ok=True)
    for index in range(count):
      image, label = draw_scene(np.random.default_rng([list(counts).index(split), index]))
      name = f"scene_{index}"
      if split == "train":
        label = spoil(name, label)
      cv2.imwrite(str(root / "images" / split / f"{name}.png"), image[..., ::-1])
      cv2.imwrite(str(root / "masks" / split / f"{name}.png"), label)
  (root / "classes.txt").write_text("\n".join(SHAPES.classes) + "\n")


def spoil(name: str, label: np.ndarray) -> np.ndarray:
  """Returns the mask of a scene, uint8 `[H, W]`, wrong for three of them."""
  if name == SWAPPED:
    is_bar = (label > 0) & (label != IGNORE)
    return np.where(is_bar, label % (SHAPES.num_classes - 1) + 1, label).astype(np.uint8)
  if name == REMOVED:
    return np.zeros_like(label)
  if name == SHIFTED:
    return np.roll(label, _SHIFT, 1)
  return label


if __name__ == "__main__":
  main()
