"""The classes of a folder: what each mask value or colour stands for, as `classes.txt` lists it."""

import dataclasses
import pathlib

import numpy as np

from data.faults import raise_all
from data.folder.class_lists import FORMS, Row, read_rows
from data.folder.unlisted import unlisted_colours, unlisted_values
from gcn_flax.input_pipeline.pictures import SUFFIXES
from gcn_flax.labels import IGNORE, LabelSet, plain_labels, voc_palette

_MAX_CLASSES = 255  # Train ids are 0 to 254; 255 is void.
_VOID_NAMES = ("ignore", "__ignore__")
_NOT_IN_NAMES = set('=:;,{}[]<>|"')
# Files in which annotation tools list classes.
_OTHER_LISTS = ("labelmap.txt", "labels.txt", "data.yaml", "class_dict.csv", "label_colors.txt", "obj.names")


@dataclasses.dataclass(frozen=True)
class Classes:
  """The classes of a folder.

  Attributes:
    label_set: names and palette; labels are stored as train ids.
    values: mask value -> train id or 255; empty if masks contain colours.
    colours: RGB mask colour -> train id or 255; empty if masks contain values.
    listed: "names", whose order gives the values, "values" or "colours" in `classes.txt`; "" for fixed classes.
  """

  label_set: LabelSet
  values: dict[int, int]
  colours: dict[tuple[int, int, int], int]
  listed: str = ""

  def to_train(self, mask: np.ndarray, name: str) -> np.ndarray:
    """Converts a mask of values `[H, W]` or RGB colours `[H, W, 3]` to train ids, uint8 `[H, W]`.

    Raises ValueError listing the values or colours that are not defined, and the likely cause.
    """
    if mask.ndim == 2:
      unknown = np.setdiff1d(np.flatnonzero(np.bincount(mask.ravel(), minlength=256)), list(self.values)).tolist()
      if unknown:
        raise ValueError(unlisted_values(name, unknown, self.values, self.listed))
      table = np.zeros(256, np.uint8)
      table[list(self.values)] = list(self.values.values())
      return table[mask]
    codes = mask.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    known = {red << 16 | green << 8 | blue: to for (red, green, blue), to in self.colours.items()}
    found, places = np.unique(codes, return_inverse=True)
    unknown = [(code >> 16, code >> 8 & 255, code & 255) for code in found.tolist() if code not in known]
    if unknown:
      raise ValueError(unlisted_colours(name, unknown, self.colours))
    return np.array([known[code] for code in found.tolist()], np.uint8)[places].reshape(codes.shape)

  def describe(self, train_id: int) -> str:
    """Returns the mask values or colours that stand for a class, as they are written in `classes.txt`."""
    keys = [",".join(map(str, colour)) for colour, to in self.colours.items() if to == train_id]
    return " ".join(keys or [str(value) for value, to in self.values.items() if to == train_id])


def known_classes(label_set: LabelSet, void: tuple[int, ...] = ()) -> Classes:
  """Returns the classes of masks that contain train ids, and for void 255 or one of the values `void`."""
  values = {value: value for value in sorted(label_set.raw_values)} | dict.fromkeys(void, IGNORE)
  return Classes(label_set, values, {})


def read_classes(path: pathlib.Path) -> Classes:
  """Reads a `classes.txt`, in one of the forms of `class_lists.read_rows`.

  Of names alone, the first has mask value 0, the next 1, and so on; 255 is void. Classes that are listed with values or
  colours are numbered in their order; `ignore` is void, and so is 255 unless it is listed for a class.

      background            road    = 7 8              road    = 128,64,128
      road                  ignore  = 0 255            ignore  = 0,0,0

  labelme's `__ignore__` is void, too.

  Raises:
    ValueError: listing every invalid line.
  """
  if not path.is_file():
    raise ValueError(f"{path} not found. It lists the classes, one per line, see data/README.md.{_other_list(path)}")
  try:
    text = _text(path)
    rows = read_rows(text)
  except ValueError as error:
    raise ValueError(f"{path} {error}") from error
  if not rows:
    raise ValueError(f"{path} lists no classes. Write one per line.")
  if all(row.keys is None for row in rows):
    return _from_names(path, rows)
  return _from_table(path, rows, "'='" if "=" in text else "value or colour")


def _other_list(path: pathlib.Path) -> str:
  found = [path.with_name(name) for name in _OTHER_LISTS if path.with_name(name).is_file()]
  return f" {found[0].name} can be read as such: cp {found[0]} {path}" if found else ""


def _text(path: pathlib.Path) -> str:
  try:
    return path.read_text(encoding="utf-8-sig")
  except UnicodeDecodeError as error:
    raise ValueError(f"is not UTF-8 text ({error}). Save it as UTF-8.") from error


def _from_names(path: pathlib.Path, rows: list[Row]) -> Classes:
  """Reads names alone; labelme's list starts with `__ignore__`, whose masks contain 255, before the class 0."""
  names = [row.name for row in rows]
  names = names[names[0] == _VOID_NAMES[1] :]
  void = next((name for name in names if name.lower() in _VOID_NAMES), None)
  if void:
    raise ValueError(
      f"{path} lists {void.lower()!r}, which is not a class: 255 is void. For another value write name = VALUE on "
      f"every line, here ignore = {names.index(void)}."
    )
  wrong = [row for row in rows if not _is_name(row.name)]
  if wrong:
    raise ValueError(
      f"{path} {wrong[0].place}: {wrong[0].name!r} cannot be the name of a class ({len(wrong)} of {len(rows)} lines "
      f"cannot). {FORMS}."
    )
  _check_names(path, names)
  known = known_classes(plain_labels(tuple(names), voc_palette(len(names)), {}))
  return dataclasses.replace(known, listed="names")


def _is_name(text: str) -> bool:
  numbers = len(text.split()) > 1 and all(part.isdigit() for part in text.split()[:2])
  is_file = text.lower().endswith(SUFFIXES)
  return text.isprintable() and any(map(str.isalnum, text)) and not (_NOT_IN_NAMES & set(text) or numbers or is_file)


def _from_table(path: pathlib.Path, rows: list[Row], missing: str) -> Classes:
  """Reads names with values or colours; rows without any lack what `missing` says."""
  names, values, colours, faults = [], {}, {}, []
  for row in rows:
    if row.keys is None:
      faults.append(f"{path} {row.place}: {row.name!r} has no {missing}, unlike other lines.")
      continue
    train_id = IGNORE if row.name.lower() in _VOID_NAMES else len(names)
    if train_id != IGNORE:
      names.append(row.name)
    for token in row.keys.split():
      try:
        key, table = _key(token), values if token.isdigit() else colours
        if key in table:
          raise ValueError(f"{token} is listed twice")
        table[key] = train_id
      except ValueError as error:
        faults.append(f"{path} {row.place}: {error}.")
    if not row.keys:
      faults.append(f"{path} {row.place}: {row.name!r} has no value or colour.")
  if values and colours:
    faults.append(f"{path} mixes values and colours. Use one or the other.")
  raise_all(faults)
  _check_names(path, names)
  if values:
    values.setdefault(IGNORE, IGNORE)
  first = {train_id: colour for colour, train_id in reversed(colours.items())}
  palette = tuple(first[index] for index in range(len(names))) if colours else voc_palette(len(names))
  return Classes(plain_labels(tuple(names), palette, {}), values, colours, "colours" if colours else "values")


def _key(token: str) -> int | tuple[int, ...]:
  """Returns a mask value, or the channels of a colour."""
  numbers = tuple(int(part) if part.isascii() and part.isdigit() else -1 for part in token.split(","))
  if len(numbers) not in (1, 3) or min(numbers) < 0 or max(numbers) > 255:
    raise ValueError(f"{token!r} is neither a value from 0 to 255 nor a colour like 128,64,128")
  return numbers if len(numbers) == 3 else numbers[0]


def _check_names(path: pathlib.Path, names: list[str]) -> None:
  faults = [f"{path} lists {name!r} twice." for name in sorted({name for name in names if names.count(name) > 1})]
  faults += [
    f"{path} lists {name!r}, which has control characters. Remove them." for name in names if not name.isprintable()
  ]
  if not all(names):
    faults.append(f"{path} has a class without a name.")
  if not 2 <= len(names) <= _MAX_CLASSES:
    faults.append(f"{path} lists {len(names)} classes. There must be 2 to {_MAX_CLASSES}.")
  raise_all(faults)
