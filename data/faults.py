"""Faults of a data set are collected and told together."""

from collections.abc import Iterable, Sequence

import numpy as np


def one_line(error: Exception) -> str:
  """The text of an error of a library, on one line and not too long."""
  return " ".join(str(error).split())[:300]


def raise_all(faults: Sequence[str]) -> None:
  """Raises ValueError listing every fault, one a line, if there is any."""
  if faults:
    raise ValueError("\n".join(faults))


def size(array: np.ndarray) -> str:
  """The height and width of a picture."""
  return f"{array.shape[0]} x {array.shape[1]}"


def wrong_values(name: str, wrong: Iterable[int], allowed: Iterable[int]) -> str:
  """That a mask holds values it may not."""
  return f"{name} holds the values {', '.join(map(str, wrong))}; allowed are {_ranges(allowed)}."


def _ranges(values: Iterable[int]) -> str:
  """Whole numbers in words: 0 to 20 and 255."""
  runs = []
  for value in sorted(values):
    if runs and value == runs[-1][1] + 1:
      runs[-1][1] = value
    else:
      runs.append([value, value])
  return " and ".join(str(low) if low == high else f"{low} to {high}" for low, high in runs)
