"""Reads JSON files that may be damaged: the state of a run and the descriptions of data sets.

A form says what a value must look like:

- `str`, `int`, `float`, `bool`: a value of this type; `float` takes whole numbers too, and no number may be infinite or
  NaN. `range(256)`: a whole number in this range. `int | None`: a whole number or null. `object`: anything.
- `[form]`: a list of such values. `(form, form)`: a list of exactly these.
- `{str: form}`: an object with any keys and such values.
- `{"name": form, "other?": form}`: an object with these keys, of which those with a `?` may be missing; others are
  ignored.
"""

import json
import math
import types
from typing import Any

_WORDS = {
  dict: "an object", list: "a list", tuple: "a list of the right length", str: "a text", int: "a whole number",
  float: "a finite number", bool: "true or false", range: "a whole number in its range",
}  # fmt: skip


def read(path: Any, form: Any, fix: str) -> Any:
  """Returns the content of a JSON file.

  Args:
    path: a `pathlib.Path`, or an etils path for a file in a bucket.
    form: what the content must look like.
    fix: sentence that ends the error about a damaged file.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: naming the file, what is wrong with it, and `fix`, if it is no JSON file or has another form.
  """
  if path.is_dir():
    raise ValueError(f"{path}: damaged (it is a folder). {fix}")
  return parse(path.read_bytes(), form, str(path), fix)


def parse(content: bytes | str, form: Any, name: str, fix: str) -> Any:
  """Returns the content of JSON text; arguments and errors as for `read`, `name` is that of the file."""
  try:
    value = json.loads(content)
  except (ValueError, RecursionError) as error:  # Among them UnicodeDecodeError.
    reason = "it is nested too deeply" if isinstance(error, RecursionError) else f"it is not JSON: {error}"
    reason = reason if content.strip() else "it is empty"
    raise ValueError(f"{name}: damaged ({reason}). {fix}") from error
  difference = _difference(value, form, "its content")
  if difference:
    raise ValueError(f"{name}: damaged ({difference}). {fix}")
  return value


def _difference(value: Any, form: Any, name: str) -> str:
  """Returns the first difference between a value and a form; '' if there is none."""
  if isinstance(form, types.UnionType):
    return _difference(value, form.__args__[0], name) if value is not None else ""
  kind = type(form) if isinstance(form, dict | list | tuple | range) else form
  if not _is_a(value, kind) or (kind is tuple and len(value) != len(form)) or (kind is range and value not in form):
    return f"{name} is not {_WORDS[kind]}"
  if kind is list or kind is tuple:
    forms = form if kind is tuple else form * len(value)
    parts = [(f"{name}[{index}]", *pair) for index, pair in enumerate(zip(value, forms, strict=True))]
  elif kind is dict and str in form:
    parts = [(repr(key), each, form[str]) for key, each in value.items()]
  elif kind is dict:
    lacking = [key for key in form if not key.endswith("?") and key not in value]
    if lacking:
      return f"{lacking[0]!r} is missing"
    named = {key.removesuffix("?"): part for key, part in form.items()}
    parts = [(repr(key), value[key], part) for key, part in named.items() if key in value]
  else:
    parts = []
  return next(filter(None, (_difference(each, part, label) for label, each, part in parts)), "")


def _is_a(value: Any, kind: type) -> bool:
  if isinstance(value, bool):
    return kind in (bool, object)
  if kind is float:
    return isinstance(value, int | float) and _is_finite(value)
  return isinstance(value, {tuple: list, range: int}.get(kind, kind))


def _is_finite(value: float) -> bool:
  try:
    return math.isfinite(value)
  except OverflowError:  # A whole number beyond the range of floats.
    return False
