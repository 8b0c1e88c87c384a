"""Faults of a data set are collected and told together."""

from collections.abc import Iterable, Sequence


def raise_all(faults: Sequence[str]) -> None:
  """Raises ValueError listing every fault, one a line, if there is any."""
  if faults:
    raise ValueError("\n".join(faults))


def differences(found: dict[str, int], published: dict[str, int]) -> list[str]:
  """What counts differ, each as "train 8 instead of 1464"."""
  return [
    f"{name} {found.get(name, 0)} instead of {size}" for name, size in published.items() if found.get(name, 0) != size
  ]


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
