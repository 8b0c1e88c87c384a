"""Regions of a mask that a confident network contradicts: labels that may be wrong."""

import dataclasses
from collections.abc import Iterator

import cv2
import numpy as np

from gcn_flax.labels import IGNORE

MAX_LABEL_PROBABILITY = 0.1  # A pixel is suspicious if its labelled class is less probable than this.
EDGE = 3  # Width of the edge of a region, pixels, that counts less: masks and predictions differ along boundaries.
_MIN_PIXELS = 9  # Of a region; smaller ones are outline alone.
_MIN_PROBABILITY = 1e-4  # Labelled classes that are less probable count as this, so that no pixel decides alone.


@dataclasses.dataclass(frozen=True)
class Region:
  """A connected region of one labelled and one predicted class.

  Attributes:
    labelled, predicted: the two classes, train ids.
    score: suspicion, see `find_regions`.
    mask: bool `[h, w]`, the pixels of the region in its box.
    top, left: first row and column of the box in the image.
    labelled_probability, predicted_probability: mean probability of the two classes over the region.
  """

  labelled: int
  predicted: int
  score: float
  mask: np.ndarray
  top: int
  left: int
  labelled_probability: float
  predicted_probability: float

  @property
  def num_pixels(self) -> int:
    """Number of pixels of the region."""
    return int(self.mask.sum())

  @property
  def box(self) -> tuple[slice, slice]:
    """Rows and columns of the image that the region takes."""
    height, width = self.mask.shape
    return slice(self.top, self.top + height), slice(self.left, self.left + width)


def find_regions(label: np.ndarray, probabilities: np.ndarray) -> list[Region]:
  """Finds the regions of an image whose labels may be wrong, the most suspicious one first.

  A pixel is suspicious if another class than the labelled one is predicted and the labelled one has a probability below
  `MAX_LABEL_PROBABILITY`; void never is. Judging a pixel by the probability of its labelled class, and the limit of
  0.1, are those of cleanlab's `segmentation.rank` (Lad and Mueller, arXiv 2307.05080), which ranks images. Judging
  connected regions is the approach of Rottmann and Reese (arXiv 2207.06104), who train a model to do it. The score is
  ours: the sum of p * log(p / q) over the region, where p is the probability of the predicted class and q that of the
  labelled one; pixels count from 0 on the region's outline to 1 beyond its edge of `EDGE` pixels.

  Args:
    label: train ids uint8 `[H, W]`.
    probabilities: float32 `[H, W, C]`.

  Returns:
    The regions with a score above 0.
  """
  predicted, p = probabilities.argmax(-1).astype(np.uint8), probabilities.max(-1)
  labelled = np.where(label == IGNORE, 0, label)
  q = np.take_along_axis(probabilities, labelled[..., None], -1)[..., 0]
  suspicious = (label != IGNORE) & (predicted != label) & (q < MAX_LABEL_PROBABILITY)
  pairs = np.where(suspicious, labelled.astype(np.int32) * 256 + predicted, -1)
  evidence = p * np.log(p / np.maximum(q, _MIN_PROBABILITY))
  found = []
  for pair, mask, top, left in _components(pairs):
    box = slice(top, top + mask.shape[0]), slice(left, left + mask.shape[1])
    score = float((_weights(mask, box, label.shape) * evidence[box]).sum(dtype=np.float64))
    if score > 0:
      means = (float(each[box][mask].mean()) for each in (q, p))
      found.append(Region(pair // 256, pair % 256, score, mask, top, left, *means))
  return sorted(found, key=lambda region: -region.score)


def _components(pairs: np.ndarray) -> Iterator[tuple[int, np.ndarray, int, int]]:
  """Yields (pair, mask, top, left) of each connected region of one pair of classes but specks; -1 is no pair."""
  for pair in np.unique(pairs[pairs >= 0]).tolist():
    _, regions, stats, _ = cv2.connectedComponentsWithStats((pairs == pair).astype(np.uint8), connectivity=4)
    for index, (left, top, width, height, num_pixels) in enumerate(stats[1:].tolist(), 1):
      if num_pixels >= _MIN_PIXELS:
        yield pair, regions[top : top + height, left : left + width] == index, top, left


def _weights(mask: np.ndarray, box: tuple[slice, slice], shape: tuple[int, int]) -> np.ndarray:
  """Returns how much each pixel of a region counts, 0 on its outline to 1 inside; the image's edge is no outline."""
  margins = [(int(part.start > 0), int(part.stop < side)) for part, side in zip(box, shape, strict=True)]
  depth = cv2.distanceTransform(np.pad(mask, margins).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
  (above, _), (before, _) = margins
  depth = depth[above : above + mask.shape[0], before : before + mask.shape[1]]
  return np.clip((np.minimum(depth, EDGE + 1) - 1) / EDGE, 0, 1)
