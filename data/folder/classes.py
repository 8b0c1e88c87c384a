"""Reads `classes.txt`: the class names of a folder, and the mask values or colours that stand for them."""

import dataclasses
import pathlib
import re

import numpy as np

from data.faults import raise_all, wrong_values
from gcn_flax.labels import IGNORE, LabelSet, plain_labels, voc_palette

_MAX_CLASSES = 255  # Train ids are 0 to 254; 255 is void.
_COLOUR = re.compile(r"(\d{1,3}),(\d{1,3}),(\d{1,3})")


@dataclasses.dataclass(frozen=True)
class Classes:
  """The classes of a folder.

  Attributes:
    label_set: names and palette; labels are stored as train ids.
    values: mask value -> train id or 255; empty if masks contain colours.
    colours: RGB mask colour -> train id or 255; empty if masks contain values.
  """

  label_set: LabelSet
  values: dict[int, int]
  colours: dict[tuple[int, int, int], int]

  def to_train(self, mask: np.ndarray, name: str) -> np.ndarray:
    """Converts a mask of values `[H, W]` or RGB colours `[H, W, 3]` to train ids, uint8 `[H, W]`.

    Raises ValueError listing the values or colours that are not defined.
    """
    if mask.ndim == 2:
      unknown = np.setdiff1d(np.flatnonzero(np.bincount(mask.ravel(), minlength=256)), list(self.values)).tolist()
      if unknown:
        raise ValueError(wrong_values(name, unknown, self.values))
      table = np.zeros(256, np.uint8)
      table[list(self.values)] = list(self.values.values())
      return table[mask]
    codes = mask.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    known = {red << 16 | green << 8 | blue: to for (red, green, blue), to in self.colours.items()}
    found, places = np.unique(codes, return_inverse=True)
    unknown = [code for code in found.tolist() if code not in known]
    if unknown:
      shown = " ".join(f"{code >> 16},{code >> 8 & 255},{code & 255}" for code in unknown[:20])
      raise ValueError(
        f"{name} contains {len(unknown)} colours that are not in classes.txt: {shown}. Add them there, for instance to "
        "ignore."
      )
    return np.array([known[code] for code in found.tolist()], np.uint8)[places].reshape(codes.shape)


def known_classes(label_set: LabelSet) -> Classes:
  """Returns the classes of masks that contain train ids and 255."""
  return Classes(label_set, {value: value for value in sorted(label_set.raw_values)}, {})


def read_classes(path: pathlib.Path) -> Classes:
  """Reads a `classes.txt` with one class per line, in one of two formats.

  Names only: the first class has mask value 0, the next 1, and so on; 255 is void.

      background
      road

  Or `name = values` or `name = colours`, separated by spaces. Classes are numbered in this order; `ignore` is void.
  The value 255 is void unless it is listed for a class.

      road    = 7 8              road    = 128,64,128
      ignore  = 0 255            ignore  = 0,0,0

  Empty lines, and text after a `#`, are skipped.

  Raises:
    ValueError: listing every invalid line.
  """
  if not path.is_file():
    raise ValueError(f"{path} not found. It lists the classes, one per line, see data/README.md.")
  lines = [(number, line.partition("#")[0].strip()) for number, line in enumerate(_text(path).splitlines(), 1)]
  lines = [(number, line) for number, line in lines if line]
  if not lines:
    raise ValueError(f"{path} lists no classes. Write one per line.")
  if not any("=" in line for _, line in lines):
    return _from_names(path, lines)
  return _from_table(path, lines)


def _text(path: pathlib.Path) -> str:
  try:
    return path.read_text(encoding="utf-8-sig")
  except UnicodeDecodeError as error:
    raise ValueError(f"{path} is not UTF-8 text ({error}). Save it as UTF-8.") from error


def _from_names(path: pathlib.Path, lines: list[tuple[int, str]]) -> Classes:
  names = [name for _, name in lines]
  if "ignore" in (name.lower() for name in names):
    raise ValueError(
      f"{path} lists 'ignore', which is not a class: 255 is void. For another value write name = VALUE on every line."
    )
  _check_names(path, names)
  return known_classes(plain_labels(tuple(names), voc_palette(len(names)), {}))


def _from_table(path: pathlib.Path, lines: list[tuple[int, str]]) -> Classes:
  names, values, colours, faults = [], {}, {}, []
  for number, line in lines:
    name, separator, right = (part.strip() for part in line.partition("="))
    if not separator:
      faults.append(f"{path} line {number}: {line!r} has no '=', unlike other lines.")
      continue
    train_id = IGNORE if name.lower() == "ignore" else len(names)
    if train_id != IGNORE:
      names.append(name)
    for token in right.split():
      try:
        key, table = _key(token), values if token.isdigit() else colours
        if key in table:
          raise ValueError(f"{token} is listed twice")
        table[key] = train_id
      except ValueError as error:
        faults.append(f"{path} line {number}: {error}.")
    if not right:
      faults.append(f"{path} line {number}: {name!r} has no value or colour.")
  if values and colours:
    faults.append(f"{path} mixes values and colours. Use one or the other.")
  raise_all(faults)
  _check_names(path, names)
  if values:
    values.setdefault(IGNORE, IGNORE)
  first = {train_id: colour for colour, train_id in reversed(colours.items())}
  palette = tuple(first[index] for index in range(len(names))) if colours else voc_palette(len(names))
  return Classes(plain_labels(tuple(names), palette, {}), values, colours)


def _key(token: str) -> int | tuple[int, int, int]:
  match = _COLOUR.fullmatch(token)
  numbers = tuple(map(int, match.groups())) if match else (int(token),) if token.isdigit() else (-1,)
  if min(numbers) < 0 or max(numbers) > 255:
    raise ValueError(f"{token!r} is neither a value from 0 to 255 nor a colour like 128,64,128")
  return numbers if match else numbers[0]


def _check_names(path: pathlib.Path, names: list[str]) -> None:
  faults = [f"{path} lists {name!r} twice." for name in sorted({name for name in names if names.count(name) > 1})]
  if not all(names):
    faults.append(f"{path} has a class without a name.")
  if not 2 <= len(names) <= _MAX_CLASSES:
    faults.append(f"{path} lists {len(names)} classes. There must be 2 to {_MAX_CLASSES}.")
  raise_all(faults)
