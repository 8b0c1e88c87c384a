"""The config of a run, read back from its workdir or from an exported file; needs no JAX."""

import json
import logging
from collections.abc import Mapping
from typing import Any

import ml_collections

from gcn_flax import files, json_files
from gcn_flax.config import get_config
from gcn_flax.models import weights_file
from gcn_flax.nested import flatten
from gcn_flax.printable import one_line
from gcn_flax.workdir.workdir import Workdir, settings_form

_log = logging.getLogger(__name__)


def stored_config(path: files.Path) -> ml_collections.ConfigDict:
  """Returns the config that a network was trained with; fields that later versions added have their defaults.

  Args:
    path: a workdir with a checkpoint; an exported `network.safetensors`, whose weights the config then names in
      `init_from`; or the `config.json` of a workdir.

  Raises ValueError if there is no such record, or if it is damaged.
  """
  if not path.is_file():
    settings = Workdir(path).settings()
    if not settings:
      raise ValueError(f"{path}: has no checkpoint, so there are no settings to read. Train first, or check the path.")
    return config_of(settings)
  if path.suffix == ".json":
    return config_of(json_files.read(path, settings_form(), "Use a recipe, such as configs/quickstart.py."))
  if files.is_remote(path):
    raise ValueError(f"{path}: is in a bucket. Copy it to this machine.")
  settings = exported_entry(path, "config", settings_form())
  if not settings:
    raise ValueError(f"{path}: is no network that --mode=export wrote. Use a workdir, or export one.")
  config = config_of(settings)
  with config.unlocked():
    config.init_from, config.model.pretrained = str(path), ""
  return config


def config_of(settings: Mapping[str, Any]) -> ml_collections.ConfigDict:
  """Returns the config of settings as in `config.json`; fields that this version does not know are left out."""
  config = get_config()
  known = flatten(config.to_dict())
  stored = flatten(settings)
  unknown = sorted(set(stored) - set(known))
  if unknown:
    _log.warning("WARNING: settings of another version are ignored: %s", ", ".join(unknown))
  try:
    config.update_from_flattened_dict({name: _as_tuple(stored[name]) for name in known if name in stored})
  except TypeError as error:
    raise ValueError(f"the stored settings are damaged: {one_line(error)}. Restore them from a backup.") from error
  return config


def exported_entry(path: files.Path, name: str, form: Any) -> dict[str, Any]:
  """Returns a JSON entry of an exported file's metadata, `data` or `config`; {} if the file has none.

  Raises ValueError if it is damaged, or not of the form of `json_files`.
  """
  text = weights_file.read_metadata(path).get(name)
  where = f"{path}, metadata entry {name!r}"
  return json_files.parse(text, form, where, "Export the weights again, or delete it.") if text is not None else {}


def _as_tuple(value: Any) -> Any:
  return tuple(map(_as_tuple, value)) if isinstance(value, list | tuple) else value


def overridden(stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
  """Lists the fields that flags set to other values than stored ones, each as "config.seed=1 (the run: 0)"."""
  before = flatten(json.loads(json.dumps(stored)))
  changed = {name: value for name, value in given.items() if json.loads(json.dumps(value)) != before.get(name)}
  return [f"config.{name}={value!r} (the run: {before.get(name)!r})" for name, value in sorted(changed.items())]
