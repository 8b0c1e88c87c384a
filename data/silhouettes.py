"""Draws small images of 12 classes that only the outline tells apart, to try pretraining without ImageNet.

  python -m data.silhouettes --output=runs/silhouettes
  python -m data.prepare --dataset=class_folder --manual_dir=runs/silhouettes --data_dir=runs/data

Writes 24,000 training and 1,200 validation images of 64 x 64 pixels into one folder per class, the same ones every
time. Figures are brighter than the background; colours, textures, position, size, rotation and stretch are random in
all classes alike.
"""

import pathlib
import shutil
import sys
from collections.abc import Sequence

import cv2
import numpy as np
from tqdm import tqdm

from data.arguments import ArgumentParser
from gcn_flax.input_pipeline.pictures import encode

SIZE = 64  # Side of an image, pixels.
COUNTS = {"train": 2_000, "val": 100}  # Images per class.
_FINE = 4  # Outlines are drawn at this scale and averaged, against aliasing.
_SEED = 2017  # Fixed, so that the images are the same every time.


def _ring(count: int, radii: Sequence[float], start: float = 0.0, end: float = 2 * np.pi) -> np.ndarray:
  """Returns `count` points on an arc around the centre, cycling through `radii`."""
  angles = np.linspace(start, end, count, endpoint=end < 2 * np.pi)
  return np.stack([np.cos(angles), np.sin(angles)], -1) * np.resize(radii, count)[:, None]


def _heart() -> np.ndarray:
  t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
  x, y = 16 * np.sin(t) ** 3, 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
  return np.stack([x, -y], -1) / 17


def _crescent() -> np.ndarray:
  return np.concatenate([_ring(32, [1.0], 0.7, 5.6), _ring(32, [0.75], 5.4, 0.9) + [0.45, 0.0]])


# Outlines within a circle of radius 1; a second outline is cut out of the first.
OUTLINES = {
  "arrow": ([(-1, -0.25), (0.1, -0.25), (0.1, -0.75), (1, 0), (0.1, 0.75), (0.1, 0.25), (-1, 0.25)],),
  "corner": ([(-0.8, -0.9), (-0.3, -0.9), (-0.3, 0.4), (0.8, 0.4), (0.8, 0.9), (-0.8, 0.9)],),
  "crescent": (_crescent(),),
  "disc": (_ring(48, [0.9]),),
  "frame": (_ring(4, [1.0]), _ring(4, [0.5])),
  "half": (_ring(32, [1.0], 0.0, np.pi),),
  "heart": (_heart(),),
  "plus": (
    [(-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3), (0.3, 1), (-0.3, 1), (-0.3, 0.3), (-1, 0.3),
     (-1, -0.3), (-0.3, -0.3)],
  ),
  "ring": (_ring(48, [0.95]), _ring(48, [0.5])),
  "star": (_ring(10, [1.0, 0.42]),),
  "tee": (
    [(-0.9, -0.9), (0.9, -0.9), (0.9, -0.4), (0.25, -0.4), (0.25, 0.9), (-0.25, 0.9), (-0.25, -0.4), (-0.9, -0.4)],
  ),
  "triangle": (_ring(3, [1.0]),),
}  # fmt: skip


def draw(name: str, rng: np.random.Generator) -> np.ndarray:
  """Draws an image of the class `name`, RGB uint8 `[64, 64, 3]`."""
  dark = rng.uniform(20, 110, 3)
  below, above = _texture(dark, rng), _texture(dark + rng.uniform(50, 140, 3), rng)
  covered = _mask(name, rng)[..., None]
  image = below * (1 - covered) + above * covered
  for _ in range(rng.integers(1, 4)):
    start = rng.integers(0, SIZE, 2)
    end = start + rng.integers(-24, 25, 2)
    cv2.line(image, start.tolist(), end.tolist(), rng.uniform(0, 255, 3).tolist(), 1, cv2.LINE_AA)
  return np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


def _mask(name: str, rng: np.random.Generator) -> np.ndarray:
  """Returns the coverage of each pixel, 0 to 1, float32 `[64, 64]`."""
  angle, radius = rng.uniform(0, 2 * np.pi), rng.uniform(14, 26)
  turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
  stretch = np.exp(rng.uniform(-0.2, 0.2))
  matrix = turn @ np.diag([radius * stretch, radius / stretch]) * (1, rng.choice([-1, 1]))
  centre = rng.uniform(radius, SIZE - radius, 2)
  mask = np.zeros((SIZE * _FINE,) * 2, np.float32)
  for value, outline in zip((1.0, 0.0), OUTLINES[name], strict=False):
    points = (np.asarray(outline) @ matrix.T + centre) * _FINE
    cv2.fillPoly(mask, [np.round(points).astype(np.int32)], value)
  return cv2.resize(mask, (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def _texture(colour: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Returns a colour with noise at two scales, float32 `[64, 64, 3]`."""
  image = np.broadcast_to(colour, (SIZE, SIZE, 3)).astype(np.float32)
  for cells in (4, 16):
    grid = rng.normal(0, rng.uniform(2, 16), (cells, cells, 3)).astype(np.float32)
    image = image + cv2.resize(grid, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
  return image


def main(argv: Sequence[str]) -> int:
  """Draws all images; returns the exit status, 1 with one line on stderr if the folder already exists."""
  parser = ArgumentParser("data.silhouettes", __doc__)
  parser.add_argument("--output", required=True, metavar="DIR", help="folder to create")
  output = pathlib.Path(parser.parse_args(argv).output).expanduser()
  if output.exists():
    print(f"error: --output={output}: already exists. Remove it, or use another folder.", file=sys.stderr)
    return 1
  todo = [(split, name, index) for split, count in COUNTS.items() for name in OUTLINES for index in range(count)]
  unfinished = output.with_name(output.name + ".unfinished")
  shutil.rmtree(unfinished, ignore_errors=True)
  for split, name, index in tqdm(todo, desc="drawing", mininterval=1):
    folder = unfinished / split / name
    folder.mkdir(parents=True, exist_ok=True)
    image = draw(name, np.random.default_rng([_SEED, list(COUNTS).index(split), list(OUTLINES).index(name), index]))
    (folder / f"{index:05d}.png").write_bytes(encode(image, ".png"))
  unfinished.rename(output)
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
