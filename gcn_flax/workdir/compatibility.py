"""Whether a workdir may go on: its settings, its data and its classes against those asked for, and room for it."""

import json
import shutil
from collections.abc import Mapping
from typing import Any

import ml_collections

from gcn_flax import build, files
from gcn_flax.config import get_config
from gcn_flax.input_pipeline import datasets
from gcn_flax.models import weights_file
from gcn_flax.training import trees
from gcn_flax.workdir import writers

# What a workdir already begun may change; every other field must stay.
MUTABLE = (
  "total_steps", "log_every_steps", "eval_every_steps", "checkpoint_every_steps", "keep_checkpoints",
  "profile_at_step", "log_image_ids", "data.data_dir", "data.skip_corrupt", "data.num_threads", "data.num_workers",
  "eval", "mesh", "model.remat",
)  # fmt: skip

# What the weights of a checkpoint mean: scored and exported only as they were trained.
ARCHITECTURE_FIELDS = (
  "data.dataset", "model.backbone", "model.head", "model.kernel_size", "model.stack_width", "model.boundary_refine",
  "model.norm", "model.dtype", "model.family",
)  # fmt: skip


def is_begun(workdir: files.Path) -> bool:
  """Whether a workdir holds a checkpoint; one that was being written when the run was killed has a longer name."""
  return any(path.name.isdigit() for path in (workdir / "checkpoints").glob("[0-9]*"))


def check_room(workdir: files.Path, state: Any) -> None:
  """Raises ValueError where the disk has no room for one more checkpoint of `state`, a tree of shapes."""
  if files.is_remote(workdir):
    return
  needed = trees.num_bytes(state)
  free = shutil.disk_usage(workdir).free
  if free < needed:
    raise ValueError(
      f"the disk of {workdir} has {free / 1e6:.0f} MB left, and a checkpoint takes {needed / 1e6:.0f} MB: make room or "
      "take another workdir."
    )


def check_workdir(config: ml_collections.ConfigDict, workdir: files.Path, only: tuple[str, ...] = ()) -> None:
  """Compares the settings with those of a workdir that holds a checkpoint already.

  Args:
    config: the settings asked for.
    workdir: of the run.
    only: names of the fields to compare; all that may not change, unless told.

  Raises ValueError where a setting differs that may not.
  """
  before = _settings(workdir)
  if before:
    check_unchanged(before, json.loads(config.to_json()), only)


def settings_of(config: ml_collections.ConfigDict, workdir: files.Path) -> dict[str, Any]:
  """The settings a workdir was begun with; the config's own, where it was not. Raises ValueError where damaged.

  A field that an older version did not have gets its default.
  """
  return _over(json.loads(get_config().to_json()), _settings(workdir) or json.loads(config.to_json()))


def _over(defaults: Mapping, settings: Mapping) -> dict[str, Any]:
  both = {
    name: _over(defaults[name], value) if isinstance(value, Mapping) and name in defaults else value
    for name, value in settings.items()
  }
  return {**defaults, **both}


def _settings(workdir: files.Path) -> dict[str, Any]:
  path = workdir / "config.json"
  try:
    return json.loads(path.read_text()) if path.exists() and is_begun(workdir) else {}
  except json.JSONDecodeError as error:
    raise ValueError(f"{path} is damaged ({error}): put it back, or take a new workdir.") from error


def check_data(config: ml_collections.ConfigDict, workdir: files.Path) -> None:
  """Compares what is trained on with what a workdir was begun with, and the classes with those of first weights.

  Raises ValueError where they differ: the order of examples, or the meaning of the scores, would be another.
  """
  if is_begun(workdir):
    before = writers.read_run_json(workdir).get("fingerprints", {})
    for name, now in build.fingerprints(config).items():
      changed = [key for key, value in now.items() if before.get(name, now)[key] != value]
      if changed:
        raise ValueError(
          f"{name} in {config.data.data_dir} is not what the workdir was begun with ({', '.join(changed)} differ): "
          "bring that data set back or take a new workdir."
        )
  elif config.init_from:
    check_classes(config, files.path(config.init_from))


def check_classes(config: ml_collections.ConfigDict, trained: files.Path) -> None:
  """Raises ValueError where a workdir, or an exported network, was trained with other classes than the data set has."""
  now = classes(config)
  before = facts(trained).get("classes", now)
  if before != now:
    raise ValueError(
      f"{trained} was trained with the classes {', '.join(before[:30])}, but {config.data.dataset} in "
      f"{config.data.data_dir} has {', '.join(now[:30])}."
    )


def classes(config: ml_collections.ConfigDict) -> list[str]:
  """The classes of the data set of a config, in order."""
  return list(datasets.open_label_set(config.data.dataset, config.data.data_dir).classes)


def facts(trained: files.Path) -> dict[str, Any]:
  """What a workdir's `run.json`, or a file exported here, says of the data it was trained on; {} where nothing is said.

  Raises ValueError where either is damaged.
  """
  if not trained.is_file():
    return writers.read_run_json(trained)
  if trained.suffix != ".safetensors":
    return {}
  return json.loads(weights_file.read_metadata(trained).get("data", "{}"))


def check_unchanged(old: Mapping, new: Mapping, only: tuple[str, ...] = ()) -> None:
  """Compares the settings of a workdir already begun with those asked for.

  Args:
    old, new: nested mappings as `ConfigDict.to_dict` gives, or as read from `config.json`.
      A field that `old` lacks, written by an older version, counts as its default.
    only: names of the fields to compare; all but `MUTABLE`, unless told.

  Raises:
    ValueError: listing every field that differs and may not.
  """
  before, after = {**_flatten(get_config().to_dict()), **_flatten(old)}, _flatten(new)
  changed = [
    f"config.{field} was {before.get(field)!r}, is {value!r}"
    for field, value in sorted(after.items())
    if before.get(field) != value and (_is_under(field, only) if only else not _is_under(field, MUTABLE))
  ]
  if changed:
    raise ValueError(
      f"the workdir was begun with other settings: {'; '.join(changed)}. Restore them or take a new one."
    )


def _is_under(field: str, names: tuple[str, ...]) -> bool:
  return any(field == name or field.startswith(f"{name}.") for name in names)


def _flatten(tree: Mapping, prefix: str = "") -> dict:
  flat = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      flat.update(_flatten(value, f"{prefix}{key}."))
    else:
      flat[prefix + key] = _plain(value)
  return flat


def _plain(value):
  """Tuples as lists, as they come back from JSON."""
  return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
