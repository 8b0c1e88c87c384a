"""Recognises the forms in which classes are listed, and rewrites them as rows of names and mask values or colours."""

import csv
import dataclasses
import re

import yaml

FORMS = "Write one name per line, or NAME = VALUES or NAME = R,G,B on every line, see data/README.md"
_HEX = r"#[0-9a-fA-F]{6}\b"
_RGB = r"[\[(]?\s*\d+[\s,]+\d+[\s,]+\d+\s*[\])]?"
_COLOUR = rf"(?:{_HEX}|{_RGB})"
# A name does not start with a number of its own: in `0 128 64 128 road` the numbers end at `road`.
_NAME = r"(?P<name>(?!\d+(?:[\s,;:]|$))[^\s,;:#\[\](][^,;:\t]*)"
_BETWEEN = r"(?:\s*[:;,\t.)]\s*|\s+(?:-\s+)?)"
_LINES = (  # Each describes the lines of one form; CVAT's come first, because they also end in a colour.
  re.compile(rf"(?P<name>[^:]+):\s*(?P<keys>{_RGB})\s*:[^:]*:[^:]*"),
  re.compile(rf"(?P<keys>{_COLOUR}|\d+){_BETWEEN}{_NAME}"),
  re.compile(rf"{_NAME}(?P<keys>\s*[:;,\t]\s*(?:{_COLOUR}|\d+)|\s+{_COLOUR})"),
)
_COLUMNS = {  # Headers of a CSV file, the most telling first.
  "name": ("name", "class_name", "label_name", "class", "category", "label"),
  "red": ("r", "red"),
  "green": ("g", "green"),
  "blue": ("b", "blue"),
  "colour": ("rgb", "color", "colour", "color_rgb", "hex"),
  "value": ("id", "idx", "value", "index", "class_id", "label_id", "pixel_value", "label", "class"),
}


@dataclasses.dataclass(frozen=True)
class Row:
  """One listed class.

  Attributes:
    place: where it is listed, such as "line 3".
    name: its name.
    keys: mask values, such as "7 8", or RGB colours, such as "128,64,128 0,0,70"; None where only a name is given.
  """

  place: str
  name: str
  keys: str | None


def read_rows(text: str) -> list[Row]:
  """Returns the classes listed in a text, in any of these forms; `keys` are None if it lists names only.

  Names alone; `name = keys`; numbers or colours before or after the names (`0: road`, `64 128 64 Animal`,
  `road 128 64 128`); a CSV file with a header; CVAT's labelmap.txt; the `names` of a data.yaml.

  Empty lines, and text after a `#` that does not start a colour, are skipped.

  Raises:
    ValueError: if a data.yaml cannot be read.
  """
  if re.search(r"^names\s*:", text, re.MULTILINE):
    return _yaml_rows(text)
  stripped = ((number, re.sub(rf"(?!{_HEX})#.*", "", line).strip()) for number, line in enumerate(text.splitlines(), 1))
  lines = [(f"line {number}", line) for number, line in stripped if line]
  # Lines with `=` may be added to a list of any form.
  equations = _blanks_in_colours([_equation(place, line) for place, line in lines if "=" in line])
  rest = [(place, line) for place, line in lines if "=" not in line]
  others = _csv_rows(rest) or _matched_rows(rest) or [Row(place, line, None) for place, line in rest]
  places = [place for place, _ in lines]
  return sorted(equations + others, key=lambda row: places.index(row.place))


def _equation(place: str, line: str) -> Row:
  name, _, keys = (part.strip() for part in line.partition("="))
  if re.fullmatch(rf"{_COLOUR}|\d+", name) and re.fullmatch(_NAME, keys):
    name, keys = keys, name
  return Row(place, name, _normalise(keys))


def _normalise(keys: str) -> str:
  """Normalises colours to `r,g,b`, separated by blanks; takes hex digits, brackets and blanks around commas."""
  keys = re.sub(_HEX, lambda match: ",".join(map(str, bytes.fromhex(match[0][1:]))), keys)
  keys = re.sub(rf"[\[(]({_RGB})[\])]\s*,?", lambda match: _colour(match[1]) + " ", keys)
  return " ".join(re.sub(r"\s*,\s*", ",", keys).split())


def _colour(text: str) -> str:
  return ",".join(re.findall(r"\d+", text))


def _blanks_in_colours(rows: list[Row]) -> list[Row]:
  """Reads `r g b` as a colour if every class has three numbers and a number repeats, which no mask value may."""
  numbers = [row.keys.split() if row.keys else [] for row in rows]
  every = [number for three in numbers for number in three]
  if all(len(three) == 3 and all(map(str.isdigit, three)) for three in numbers) and len(set(every)) < len(every):
    return [dataclasses.replace(row, keys=_colour(row.keys)) for row in rows]
  return rows


def _matched_rows(lines: list[tuple[str, str]]) -> list[Row]:
  """Returns the rows of the form that most lines have, [] if they have none; lines of other forms have no keys."""
  for pattern in _LINES:
    found = [pattern.fullmatch(line) for _, line in lines]
    if 2 * sum(match is not None for match in found) > len(lines):
      return [
        Row(place, match["name"].strip(), _colour(_normalise(match["keys"]))) if match else Row(place, line, None)
        for (place, line), match in zip(lines, found, strict=True)
      ]
  return []


def _csv_rows(lines: list[tuple[str, str]]) -> list[Row]:
  """Returns the rows of a CSV file with a header, [] if the first line is none."""
  separator = next((sign for sign in ",;\t" if lines and sign in lines[0][1]), None)
  if separator is None:
    return []
  header, *cells = csv.reader((line for _, line in lines), delimiter=separator, skipinitialspace=True)
  header = [title.strip().lower() for title in header]
  columns = {
    role: next((header.index(title) for title in titles if title in header), None) for role, titles in _COLUMNS.items()
  }
  name, value, colour = columns["name"], columns["value"], columns["colour"]
  channels = [columns[channel] for channel in ("red", "green", "blue")]
  used = channels if None not in channels else [colour] if colour is not None else [value]
  if name is None or None in used or name in used:
    return []
  return [
    Row(place, row[name].strip(), _normalise(",".join(row[index] for index in used)))
    if len(row) == len(header)
    else Row(place, line, None)
    for (place, line), row in zip(lines[1:], cells, strict=True)
  ]


def _yaml_rows(text: str) -> list[Row]:
  try:
    names = yaml.load(text, Loader=yaml.BaseLoader)["names"]  # BaseLoader leaves `no` and `1` as they are written.
  except (yaml.YAMLError, LookupError, TypeError, RecursionError) as error:  # RecursionError: nested too deeply.
    raise ValueError(f"is no YAML file ({' '.join(str(error).split())}). {FORMS}.") from error
  if isinstance(names, dict) and all(isinstance(name, str) for name in names.values()):
    return [Row("names", name, value) for value, name in names.items()]
  if isinstance(names, list) and all(isinstance(name, str) for name in names):
    return [Row("names", name, None) for name in names]
  raise ValueError(f"has `names` that are neither a list of names nor VALUE: NAME. {FORMS}.")
