"""Draws 26 pictures of a village from above, with colour masks: the data set of docs/OWN_DATA.md.

  python docs/figures/village.py --output=MY_DATA

Writes MY_DATA/images/*.jpg, MY_DATA/masks/*.png and MY_DATA/classes.txt, the same ones every time.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

import cv2
import numpy as np

COUNT = 26
SIZE = (360, 480)  # Height, width, pixels.
# Class: (RGB in the picture, RGB in the mask).
COLORS = {
  "meadow": ((122, 142, 84), (124, 179, 66)),
  "water": ((72, 98, 110), (30, 100, 200)),
  "road": ((150, 146, 138), (128, 128, 128)),
  "tree": ((58, 84, 50), (20, 90, 30)),
  "roof": ((152, 88, 66), (200, 60, 40)),
}


class Scene:
  """A picture, RGB float32 `[H, W, 3]`, and its mask, RGB uint8 `[H, W, 3]`, drawn shape by shape."""

  def __init__(self, rng: np.random.Generator):
    self.rng = rng
    self.image = np.empty((*SIZE, 3), np.float32)
    self.mask = np.empty((*SIZE, 3), np.uint8)
    self.fill("meadow", np.ones(SIZE, np.uint8), roughness=14)

  def fill(self, name: str, where: np.ndarray, roughness: float, shade: float = 1.0) -> None:
    """Fills the pixels where `where`, `[H, W]`, is not 0 with the class's colours and a texture."""
    color, label = COLORS[name]
    texture = sum(cv2.resize(self.rng.normal(0, roughness, size).astype(np.float32), SIZE[::-1])
                  for size in ((6, 8), (45, 60), SIZE))  # fmt: skip
    tint = self.rng.normal(0, 6, 3)
    here = where > 0
    self.image[here] = (shade * np.array(color) + tint + texture[..., None])[here]
    self.mask[here] = label

  def path(self, name: str, width: int, roughness: float) -> None:
    """Draws a bent stripe from one edge to another."""
    height, length = SIZE
    x = np.linspace(-20, length + 20, 40)
    bend = self.rng.uniform(20, 60) * np.sin(x / self.rng.uniform(60, 140) + self.rng.uniform(0, 6))
    points = np.stack([x, self.rng.uniform(0.2, 0.8) * height + bend], -1)
    if self.rng.random() < 0.5:
      points = points[:, ::-1] * (length / height, height / length)
    self.fill(name, cv2.polylines(np.zeros(SIZE, np.uint8), [points.astype(np.int32)], False, 1, width), roughness)

  def tree(self) -> None:
    """Draws a tree and its shadow."""
    x, y, radius = (int(value) for value in self.rng.uniform((0, 0, 9), (SIZE[1], SIZE[0], 22)))
    shadow = cv2.circle(np.zeros(SIZE, np.uint8), (x + radius // 2, y + radius // 2), radius, 1, -1)
    self.image[shadow > 0] *= 0.65
    self.fill("tree", cv2.circle(np.zeros(SIZE, np.uint8), (x, y), radius, 1, -1), 16)

  def house(self) -> None:
    """Draws a roof with a light and a dark half, and its shadow."""
    centre = self.rng.uniform((30, 30), (SIZE[1] - 30, SIZE[0] - 30))
    sides, angle = self.rng.uniform((44, 28), (76, 44)), self.rng.uniform(0, 180)
    corners = cv2.boxPoints((centre, sides, angle))
    ridge = (corners[[0, 1]] + corners[[3, 2]]) / 2
    shadow = cv2.fillPoly(np.zeros(SIZE, np.uint8), [(corners + 7).astype(np.int32)], 1)
    self.image[shadow > 0] *= 0.6
    for shade, half in ((1.15, [*corners[[0, 1]], *ridge[::-1]]), (0.85, [*ridge, *corners[[2, 3]]])):
      self.fill("roof", cv2.fillPoly(np.zeros(SIZE, np.uint8), [np.int32(half)], 1), 6, shade)


def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns a picture and its mask, RGB uint8 `[H, W, 3]`."""
  scene = Scene(np.random.default_rng(seed))
  if scene.rng.random() < 0.7:
    scene.path("water", int(scene.rng.integers(24, 60)), 5)
  for _ in range(scene.rng.integers(1, 3)):
    scene.path("road", int(scene.rng.integers(14, 26)), 7)
  for _ in range(scene.rng.integers(2, 7)):
    scene.house()
  for _ in range(scene.rng.integers(6, 20)):
    scene.tree()
  light = scene.rng.uniform(0.85, 1.15)
  return np.clip(cv2.GaussianBlur(scene.image, (0, 0), 0.8) * light, 0, 255).astype(np.uint8), scene.mask


def main(argv: Sequence[str]) -> int:
  """Draws all pictures and masks; returns the exit status."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--output", required=True, metavar="DIR", type=pathlib.Path, help="folder to write to")
  output = parser.parse_args(argv).output
  for folder in ("images", "masks"):
    (output / folder).mkdir(parents=True, exist_ok=True)
  for number in range(COUNT):
    image, mask = draw(number)
    cv2.imwrite(str(output / "images" / f"village_{number + 1:02d}.jpg"), image[..., ::-1])
    cv2.imwrite(str(output / "masks" / f"village_{number + 1:02d}.png"), mask[..., ::-1])
  lines = [f"{name} = {','.join(map(str, label))}\n" for name, (_, label) in COLORS.items()]
  (output / "classes.txt").write_text("".join(lines))
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
