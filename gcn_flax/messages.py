"""Parts of error messages: fixes as they are typed in a shell, and the closest of several choices."""

import difflib
import pathlib
import shlex
from collections.abc import Iterable
from typing import Any


def flag(name: str, value: Any) -> str:
  """Returns `--name=value`, quoted for a shell: `--config.data.crop_size='(512, 512)'`; lists become tuples."""
  text = str(value)
  if isinstance(value, list | tuple):
    text = repr(_as_tuple(value))
    text = text if '"' in text else text.replace("'", '"')  # Saves a shell's quoting of single quotes.
  return f"--{name}={shlex.quote(text)}"


def _as_tuple(value: Any) -> Any:
  return tuple(map(_as_tuple, value)) if isinstance(value, list | tuple) else value


def python_command(script: str) -> str:
  """Returns the shell command that runs a line of Python."""
  quoted = shlex.quote(script) if any(character in script for character in '"$`\\!') else f'"{script}"'
  return f"python -c {quoted}"


def in_clone() -> bool:
  """Returns True if this package lies in a clone of the repository, beside `data/`; False if pip installed it."""
  return (pathlib.Path(__file__).parents[1] / "data" / "prepare.py").is_file()


def run_in_clone(command: str) -> str:
  """Returns "run: COMMAND" for a script of the repository, and says where if this package lies outside of a clone."""
  return f"run: {command}" if in_clone() else f"run in a clone of gcn_flax: {command}"


def closest(value: Any, choices: Iterable[str]) -> str:
  """Returns the choice that is spelled most like `value`; "" if none is."""
  return next(iter(difflib.get_close_matches(str(value), list(choices), n=1, cutoff=0.6)), "")


def use_one_of(value: Any, choices: Iterable[str], name: str = "") -> str:
  """Returns the fix for a value that is none of the choices, without its full stop.

  Args:
    value: the value.
    choices: valid values.
    name: name of the flag to suggest the closest choice for; by default the choice stands alone.
  """
  choices = list(choices)
  similar = closest(value, choices)
  hint = f" (did you mean {flag(name, similar) if name else similar}?)" if similar else ""
  return f"Use one of {', '.join(choices)}{hint}"
