"""Explains in one line why a command line cannot be parsed: its recipe, an unknown flag or field, a value."""

import os
import pathlib
import re
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
from absl import flags

from gcn_flax import config as config_lib
from gcn_flax.messages import closest, flag
from gcn_flax.nested import flatten

_CONFIG_FIX = "Let get_config start from gcn_flax.config.get_config() and return it."
_KINDS = {bool: "True or False", int: "a whole number", float: "a number", tuple: "a tuple"}


def split_flag(argv: Sequence[str], flag_name: str) -> tuple[str | None, list[str]]:
  """Returns the last value of a flag, None without one, and the other arguments."""
  found, rest, arguments = None, [], iter(argv)
  for argument in arguments:
    name, equals, value = argument.partition("=")
    if name in (f"--{flag_name}", f"-{flag_name}"):
      found = value if equals else next(arguments, "")
    else:
      rest.append(argument)
  return found, rest


def recipe_problem(recipe: str) -> str:
  """Returns what is wrong with a value of `--config`, `configs/NAME.py[:ARGUMENT]`, and the fix; "" for a file."""
  name, colon, argument = recipe.partition(":")
  path = pathlib.Path(name)
  if path.suffix == ".py" and os.path.isfile(path):  # Not `Path.is_file`, which raises OSError for a name too long.
    return ""
  if os.path.isfile(path / "config.json"):
    return f"{flag('config', recipe)}: is the workdir of a run. Use {flag('config', path / 'config.json')}."
  recipes = {file.stem: file for file in pathlib.Path("configs").glob("[!_]*.py")}
  similar = closest(path.stem, recipes)
  hint = f" Did you mean {flag('config', f'{recipes[similar]}{colon}{argument}')}?" if similar else ""
  listed = f"Use one of {', '.join(sorted(map(str, recipes.values())))}." if recipes else "Use the path of a recipe."
  problem = "is no Python file" if os.path.exists(path) else "not found"
  return f"{flag('config', recipe)}: {problem}. {listed}{hint}"


def config_problem(config: Any) -> str:
  """Returns what is wrong with the result of a recipe, and the fix; "" for a config with every field."""
  if not isinstance(config, ml_collections.ConfigDict):
    return _no_config(type(config).__name__)
  lacking = [field for field in _fields() if field not in flatten(config.to_dict())]
  return f"its config lacks {', '.join(lacking[:3])}{', ...' if lacking[3:] else ''}. {_CONFIG_FIX}" if lacking else ""


def _no_config(kind: str) -> str:
  return f"get_config returns {kind}, not a ConfigDict. {_CONFIG_FIX}"


def explain(error: Exception, argv: Sequence[str], recipe: str, own_flags: Mapping[str, tuple]) -> str:
  """Returns one line about an error of parsing.

  Args:
    error: the error.
    argv: the command line.
    recipe: value of `--config`.
    own_flags: flag -> a tuple whose second item is its metavariable.
  """
  return (
    _explain_recipe(error, recipe)
    or _explain_fields(argv)
    or _explain_result(error, recipe)
    or _explain_flag(error, own_flags)
    or _text(error)
  )


def _explain_recipe(error: BaseException | None, recipe: str) -> str:
  """Returns one line about an exception that the recipe raised; "" for others."""
  path, line, fault = recipe.partition(":")[0], None, None
  while error:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    if isinstance(error, SyntaxError) and error.filename == path:
      lines = [error.lineno]
    if lines or "get_config" in _text(error):
      line, fault = lines[-1] if lines else None, error
    error = error.__cause__ or error.__context__
  if fault is None:
    return ""
  start = flag("config", recipe)
  if line is None:  # It was not called at all.
    is_missing = isinstance(fault, AttributeError)
    return f"{start}: " + (
      "the file has no function get_config. Define one that returns the config."
      if is_missing
      else f"the recipe takes no argument. Use {flag('config', path)}."
      if ":" in recipe
      else "the recipe needs an argument. Append it, --config=PATH:ARGUMENT."
    )
  field = _missing_field(fault)
  if field:
    similar = closest(field, {name for dotted in _fields() for name in dotted.split(".")})
    hint = f" Did you mean {similar}?" if similar else ""
    return f"{start}: line {line}: the config has no field {field!r}.{hint} {config_lib.__file__} lists all fields."
  if type(fault) is ValueError:  # Raised by the recipe itself, whose words say it all.
    return f"{start}: {_text(fault)}"
  return f"{start}: line {line}: {type(fault).__name__}: {_text(fault)}"


def _missing_field(error: BaseException) -> str:
  """Returns the field that a ConfigDict lacks, if that is what the error says; otherwise ''."""
  # A ConfigDict raises a KeyError, or an AttributeError whose argument is one. Its text quotes the field, and may
  # list all other fields or suggest a similar one.
  if isinstance(error, KeyError) and "ml_collections" not in traceback.extract_tb(error.__traceback__)[-1].filename:
    return ""
  reason = error.args[0] if isinstance(error, AttributeError) and error.args else error
  text = str(reason.args[0]) if isinstance(reason, KeyError) and reason.args else ""
  found = re.match(r"""(?:Key )?['"](\w+)['"](?: does not exist|\n|$)""", text)
  return found[1] if found else ""


def _explain_fields(argv: Sequence[str]) -> str:
  """Returns one line about the first flag `--config.FIELD` whose field is none; "" if there is no such flag."""
  fields = _fields()
  for argument in argv:
    found = re.fullmatch(r"--?(?:no)?config\.([^=]+)=?(.*)", argument, re.DOTALL)
    name, value = found.groups() if found else ("", "")
    if not name or name in fields:
      continue
    inside = [field for field in fields if field.startswith(f"{name}.")]
    if inside:
      return f"{argument.partition('=')[0]}: has fields of its own. Set one, {flag(*_example(inside[0]))}."
    outer = next((field for field in fields if name.startswith(f"{field}.")), "")
    if outer:
      return f"{flag(f'config.{name}', value)}: config.{outer} has no fields. Use {flag(*_example(outer))}."
    similar = closest_field(name)
    hint = f" Did you mean {flag(f'config.{similar}', value or fields[similar])}?" if similar else ""
    parts, known = name.split("."), [field.split(".") for field in fields]
    first_wrong = next(part for i, part in enumerate(parts) if not any(f[: i + 1] == parts[: i + 1] for f in known))
    problem = f"the config has no field {first_wrong!r}.{hint}"
    return f"{flag(f'config.{name}', value)}: {problem} {config_lib.__file__} lists all fields."
  return ""


def _explain_result(error: Exception, recipe: str) -> str:
  """Returns one line about a recipe that returns no ConfigDict, if its fields were to be set; "" for other errors."""
  found = re.search(r"Attribute <class '(\w+)'>", _text(error))
  return f"{flag('config', recipe)}: {_no_config(found[1])}" if found else ""


def _explain_flag(error: Exception, own_flags: Mapping[str, tuple]) -> str:
  """Returns one line about an error of absl's parser; "" for other errors."""
  if isinstance(error, flags.UnrecognizedFlagError):
    name, value = error.flagname, str(error.flagvalue).partition("=")[2]
    field = closest_field(name)
    if field.rpartition(".")[2] != name.rpartition(".")[2]:  # Only similar, and then an own flag is meant first.
      field = "" if closest(name, own_flags) else field
    meant = f"config.{field}" if field else closest(name, own_flags)
    hint = f"Did you mean {flag(meant, value or _fields().get(field, ''))}? " if meant else ""
    return f"--{name}: unknown flag. {hint}See --help."
  text = str(error)
  if isinstance(error, flags.CantOpenFlagFileError):
    return f"--flagfile: {text.partition(': ')[2].strip()}. Use a text file with one flag per line."
  if isinstance(error, RecursionError):  # absl compares a long unknown flag with its own recursively.
    return "an argument is too long, or nested too deeply. Shorten it."
  missing = re.match(r"Missing value for flag --(\S+)", text)
  if missing:
    name = missing[1]
    if name in own_flags:
      return f"--{name}: its value is missing. Use --{name}={own_flags[name][1]}."
    field = name.removeprefix("config.")
    return f"--{name}: its value is missing. " + (
      f"Use {flag(*_example(field))}." if field in _fields() else "See --help."
    )
  illegal = re.match(r"flag --([^=]+)=(.*?): ", text, re.DOTALL)
  if not illegal:
    return ""
  name, value = illegal.groups()
  if name in own_flags:
    return f"{flag(name, value)}: must be a whole number{' of at least 1' if name == 'join_timeout' else ''}."
  example = _example(name.removeprefix("config."))
  kind = _KINDS.get(type(example[1]), "of another type")
  return f"{flag(name, value)}: must be {kind}. Use for instance {flag(*example)}."


def closest_field(name: str) -> str:
  """Returns the field of the config that a misspelled or incomplete dotted name most likely means; "" for none."""
  fields, last = list(_fields()), name.rpartition(".")[2]
  by_last = {field.rpartition(".")[2]: field for field in reversed(fields)}
  same = [field for field in fields if field.rpartition(".")[2] == last]
  return (
    closest(name, same) or (same[0] if same else "") or closest(name, fields) or by_last.get(closest(last, by_last), "")
  )


def _fields() -> dict[str, Any]:
  return flatten(config_lib.get_config().to_dict())


def _example(field: str) -> tuple[str, Any]:
  return f"config.{field}", _fields()[field]


def _text(error: BaseException) -> str:
  return " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
