"""Error messages about files: faults are collected and reported together."""

import os
import shlex
from collections.abc import Iterable, Sequence

import numpy as np


def raise_all(faults: Sequence[str]) -> None:
  """Raises ValueError with every fault on a line of its own, if there is any."""
  if faults:
    raise ValueError("\n".join(faults))


def size(array: np.ndarray) -> str:
  """Returns the height and width of an image as text."""
  return f"{array.shape[0]} x {array.shape[1]}"


def wrong_values(name: str, wrong: Iterable[int], allowed: Iterable[int]) -> str:
  """Returns the message that a mask contains values that are not allowed."""
  return f"{name} contains the values {', '.join(map(str, wrong))}. Allowed are {_ranges(allowed)}."


def _ranges(values: Iterable[int]) -> str:
  """Formats integers as ranges: 0 to 20 and 255."""
  runs = []
  for value in sorted(values):
    if runs and value == runs[-1][1] + 1:
      runs[-1][1] = value
    else:
      runs.append([value, value])
  return " and ".join(str(low) if low == high else f"{low} to {high}" for low, high in runs)


def change_masks(purpose: str, expression: str, name: str) -> str:
  """Returns a command that replaces each mask `i` in the folder of `name` by a Pillow expression, and its purpose."""
  return (
    f"To {purpose}, in all masks of the folder (keep a copy): "
    f'python -c "import sys, PIL.Image as I; [{expression}.save(p) for p in sys.argv[1:] for i in [I.open(p)]]" '
    f"{shlex.quote(os.path.dirname(name))}/*.png"
  )
