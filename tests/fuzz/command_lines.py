"""Random command lines: valid ones with a few valid, nearly valid and absurd changes."""

import os
import pathlib
import random
from typing import Any

from gcn_flax import config as config_lib
from gcn_flax.config_fields import CHOICES
from gcn_flax.labels import DATASETS
from gcn_flax.nested import flatten
from tests.fuzz import values
from tests.fuzz.commands import COMMANDS, ROOT

_FIELDS = flatten(config_lib.get_config().to_dict())
_CONFIGS_AT_ROOT = "configs"
_BY_NAME = {
  "data.train_mix": values.MIXES,
  "data.data_dir": values.PATHS,
  "init_from": values.PATHS,
  "model.pretrained": values.PATHS,
  "data.eval_split": values.SPLITS,
}  # fmt: skip
_NO_WORKERS = "data.num_workers"  # Starts processes; left to the tests of the loader.


def random_line(rng: random.Random) -> list[str]:
  """Returns a command line whose paths are in the current directory, a world of `tests.fuzz.commands`."""
  while True:
    line = _random_line(rng)
    if all(map(_stays_here, line)):
      return line


def _stays_here(argument: str) -> bool:
  """Returns False for a path outside of the current directory, which a command might write to."""
  path = os.path.normpath(argument.partition("=")[2].strip() or argument.strip())
  harmless = ("/dev/null", "/proc/nothing", *([f"{ROOT}/configs"] if argument.startswith("--config=") else []))
  return not path.startswith(("/", "..")) or path.startswith(harmless)


def _random_line(rng: random.Random) -> list[str]:
  draw = rng.random()
  if draw < 0.04:
    return _of_data(rng, "data.browse", ("train", "validation", "test", "nothing", ""))
  if draw < 0.08:
    return _of_data(rng, "data.prepare", ())
  names = [name for name, command in COMMANDS.items() if command.arguments[0] == "gcn_flax"]
  weights = [1 if name in ("train", "fine-tune") else 3 for name in names]  # Training takes the longest.
  line = list(COMMANDS[rng.choices(names, weights)[0]].arguments)
  for _ in range(rng.choice((1, 1, 1, 1, 1, 2, 2, 3, 5, 9))):
    _change(rng, line)
  return line


def _change(rng: random.Random, line: list[str]) -> None:
  """Changes a line: sets a field or a flag, or damages an argument."""
  draw = rng.random()
  if draw < 0.45:
    field = rng.choice([name for name in _FIELDS if name != _NO_WORKERS])
    _set(rng, line, f"--config.{field}", field_value(rng, field))
  elif draw < 0.75:
    flag = rng.choice(list(values.FLAGS))
    value = rng.choice(values.ODD) if rng.random() < 0.1 else rng.choice(values.FLAGS[flag])
    _set(rng, line, f"--{flag}", f"{ROOT}/{value}" if value.startswith(_CONFIGS_AT_ROOT) else value)
  elif draw < 0.85:
    line.insert(rng.randint(1, len(line)), rng.choice(values.ODD_ARGUMENTS))
  elif len(line) > 2:
    place = rng.randrange(1, len(line))
    line[place : place + 1] = _damaged(rng, line[place])


def _set(rng: random.Random, line: list[str], name: str, value: str) -> None:
  """Sets a flag in place of an earlier value, or beside it, as `--flag=value` or as two arguments."""
  given = [place for place, argument in enumerate(line) if argument.startswith(f"{name}=")]
  place = given[0] if given and rng.random() < 0.8 else len(line)
  line[place : place + 1] = [f"{name}={value}"] if rng.random() < 0.93 else [name, value]


def _damaged(rng: random.Random, argument: str) -> list[str]:
  """Returns what becomes of an argument: gone, doubled, cut, with a wrong character, or in another spelling."""
  place = rng.randrange(len(argument) + 1)
  name, _, value = argument.partition("=")
  odd = rng.choice(values.ODD)
  damages = (
    [], [argument, argument], [name], [f"{name}="], [name, value], [f"{name}={odd}"], [argument[:place]],
    [argument[place:]], [argument[:place] + odd + argument[place:]], [argument.lstrip("-")], [argument[1:]],
    [f"-{argument}"], [f" {argument}"], [f"{argument} "], [argument.replace("=", " ")], [argument.replace("_", "-")],
    [argument.upper()],
  )  # fmt: skip
  return rng.choice(damages)


def field_value(rng: random.Random, field: str) -> str:
  """Returns a value for a field of a config: mostly of its type, sometimes absurd."""
  if rng.random() < 0.12:
    return rng.choice(values.ODD)
  default = _FIELDS[field]
  if field in CHOICES and rng.random() < 0.8:
    return rng.choice(CHOICES[field])
  return rng.choice(_BY_NAME.get(field) or _pool(field, default))


def _pool(field: str, default: Any) -> tuple[str, ...]:
  if isinstance(default, bool):
    return values.BOOLEANS
  if isinstance(default, int):
    return values.INTEGERS
  if isinstance(default, float):
    return values.FLOATS
  if isinstance(default, str):
    return values.ODD
  return values.SIZES if "size" in field or field == "eval.tile" else values.TUPLES


def _of_data(rng: random.Random, module: str, splits: tuple[str, ...]) -> list[str]:
  flags = {
    "dataset": ("voc_segmentation", *(name for name in DATASETS if name != "shapes"), "", "VOC", "../data", "\udcff"),
    "data_dir": ("data", "data", "data", *values.PATHS),
    "split": splits,
    "count": values.INTEGERS,
    "output": ("new/sheet.png", "sheet.png", "sheet.xyz", "sheet", *values.PATHS),
    "manual_dir": ("archives", "archives", "archives", *values.PATHS),
    "image_format": ("original", "jpeg", "png", ""),
  }
  wanted = (
    ("dataset", "split", "data_dir", "count", "output")
    if splits
    else ("dataset", "manual_dir", "data_dir", "image_format")
  )
  line = [module, "--dataset=voc_segmentation", "--data_dir=data", "--output=sheet.png" if splits else "--partial"]
  for name in rng.sample(wanted, rng.randint(0, len(wanted))):
    _set(rng, line, f"--{name}", rng.choice(flags[name]))
  if rng.random() < 0.2:
    line.append(rng.choice(values.ODD_ARGUMENTS + values.ODD))
  return line


def make_targets() -> None:
  """Makes the odd files that random lines name, in the current directory."""
  contents = {
    "notes.txt": "--mode=eval\nnotes\n",
    "empty": "",
    "broken.safetensors": "no weights",
    "broken.pth": "no weights",
    "broken.png": "no picture",
    "raises.py": "1 / 0\n",
    "returns_none.py": "def get_config(): pass\n",
    "no_function.py": "x = 1\n",
    "syntax.py": "def (:\n",
    "prints.py": "def get_config():\n  print('hello')\n  return 5\n",
  }
  for name, content in contents.items():
    pathlib.Path(name).write_text(content)
  pathlib.Path("loop").symlink_to("loop")
  pathlib.Path("dangling").symlink_to("nowhere")
  pathlib.Path("home").mkdir()
