"""Draws one scene of the data set `shapes`: a long bent bar whose class is shown only by a knob at one end."""

import cv2
import numpy as np

SIZE = 256  # Side of a scene, pixels.
BAR_LENGTH = (140, 220)  # (min, max) from end to end along the bar, pixels.
BAR_WIDTH = (24, 36)  # (min, max), pixels.
VOID_BORDER = 2  # Width of the void border on either side of the bar's outline, pixels.

# RGB of the knobs of classes 1 to 4; 0 is background.
KNOB_COLOURS = ((210, 60, 50), (60, 170, 70), (60, 90, 215), (215, 190, 50))


def draw_scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
  """Returns an image (RGB uint8 `[256, 256, 3]`) and its labels (uint8 `[256, 256]`, 0 to 4, 255 = void).

  Bars of all classes look the same except for the colour of a knob at one end, chosen at random. The class of most of
  a bar's pixels therefore depends on something up to 200 pixels away. The background has texture, thin lines and
  specks in the colours of the knobs.
  """
  image = _texture(rng)
  _add_clutter(image, rng)
  outline, width = _bar_outline(rng)
  label = int(rng.integers(1, len(KNOB_COLOURS) + 1))

  grey = int(rng.integers(120, 160))
  cv2.polylines(image, [outline], False, (grey, grey, grey), width, cv2.LINE_AA)
  knob = outline[0] if rng.random() < 0.5 else outline[-1]
  radius = int(width * 0.75)
  cv2.circle(image, _point(knob), radius, KNOB_COLOURS[label - 1], -1, cv2.LINE_AA)

  mask = np.zeros((SIZE, SIZE), np.uint8)
  cv2.polylines(mask, [outline], False, label, width)
  cv2.circle(mask, _point(knob), radius, label, -1)
  kernel = np.ones((2 * VOID_BORDER + 1,) * 2, np.uint8)
  mask[cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, kernel) > 0] = 255

  noise = 8 * rng.standard_normal(image.shape, np.float32)
  return np.clip(image + noise, 0, 255).astype(np.uint8), mask


def _point(xy: np.ndarray) -> tuple[int, int]:
  return int(xy[0]), int(xy[1])


def _texture(rng: np.random.Generator) -> np.ndarray:
  """Returns dark, nearly grey noise at several scales."""
  image = np.full((SIZE, SIZE, 3), 70, np.float32)
  for cells, amplitude in ((4, 14), (16, 12), (64, 10)):
    grid = rng.normal(0, amplitude, (cells, cells, 1)) + rng.normal(0, amplitude / 3, (cells, cells, 3))
    image += cv2.resize(grid.astype(np.float32), (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
  return np.clip(image, 0, 255).astype(np.uint8)


def _add_clutter(image: np.ndarray, rng: np.random.Generator) -> None:
  """Draws thin lines and specks in the colours of the knobs and the greys of the bars."""
  for _ in range(rng.integers(8, 16)):
    grey = int(rng.integers(120, 160))
    colour = KNOB_COLOURS[rng.integers(len(KNOB_COLOURS))] if rng.random() < 0.7 else (grey,) * 3
    start = rng.integers(0, SIZE, 2)
    if rng.random() < 0.5:
      end = start + rng.integers(-60, 61, 2)
      cv2.line(image, _point(start), _point(end), colour, int(rng.integers(1, 4)), cv2.LINE_AA)
    else:
      cv2.circle(image, _point(start), int(rng.integers(2, 5)), colour, -1, cv2.LINE_AA)


def _bar_outline(rng: np.random.Generator) -> tuple[np.ndarray, int]:
  """Returns the centre line (int32 `[N, 2]`, x y) and the width of a random bar that lies within the scene."""
  width = int(rng.integers(BAR_WIDTH[0], BAR_WIDTH[1] + 1))
  margin = width
  while True:
    centre = rng.uniform(margin, SIZE - margin, 2)
    angle, bend = rng.uniform(0, 2 * np.pi), rng.uniform(-1.6, 1.6)
    length = rng.uniform(*BAR_LENGTH)
    along = np.linspace(-0.5, 0.5, 33)
    heading = angle + bend * along
    steps = np.stack([np.cos(heading), np.sin(heading)], -1) * length / 32
    line = np.cumsum(steps, 0)
    line += centre - line[16]
    if line.min() >= margin and line.max() <= SIZE - 1 - margin:
      return np.round(line).astype(np.int32), width
