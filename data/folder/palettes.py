"""Notices palettes that differ from mask to mask, so that one index stands for several classes."""

import numpy as np

from data.faults import change_masks
from gcn_flax.labels import IGNORE


class Palettes:
  """The colours that the indices of palette masks have, in all masks that were compared."""

  def __init__(self):
    self._colours: dict[int, tuple[tuple[int, ...], str]] = {}  # Index -> its colour and the first file that has it.
    self._reported = False

  def compare(self, mask: np.ndarray, palette: np.ndarray, name: str) -> None:
    """Compares the palette of a mask, RGB uint8 `[N, 3]`, with those of masks before, where the mask uses it.

    Raises ValueError for the first index whose colour differs, naming two files. Void (255) may have any colour.
    """
    for index in np.flatnonzero(np.bincount(mask.ravel(), minlength=256)[: min(IGNORE, len(palette))]).tolist():
      colour = tuple(palette[index].tolist())
      first, other = self._colours.setdefault(index, (colour, name))
      if first != colour and not self._reported:
        self._reported = True
        raise ValueError(
          f"{name} and {other} have different palettes: index {index} is {_text(colour)} in the one, {_text(first)} in "
          "the other. If the colours tell the classes, list them in classes.txt, for instance road = "
          f"{_text(colour)}; if the indices do, the palettes can go. "
          + change_masks("remove them", "I.frombytes('L', i.size, i.tobytes())", name)
        )


def _text(colour: tuple[int, ...]) -> str:
  return ",".join(map(str, colour))
