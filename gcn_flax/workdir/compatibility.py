"""Compares a run with the workdir it continues: its settings, its data and its classes."""

import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from gcn_flax import build, files
from gcn_flax.config import get_config
from gcn_flax.messages import flag
from gcn_flax.nested import flatten, merge
from gcn_flax.workdir.record import TrainingData
from gcn_flax.workdir.workdir import Workdir

_log = logging.getLogger(__name__)
# Fields that may change between restarts; any other change is rejected by name.
MUTABLE_FIELDS = (
  "total_steps", "log_every_steps", "eval_every_steps", "early_stop_evaluations", "checkpoint_every_steps",
  "keep_checkpoints", "profile_at_step", "log_image_ids", "data.data_dir", "data.skip_corrupt", "data.num_threads",
  "data.num_workers", "wandb_project", "eval", "mesh", "model.remat", "model.init",
)  # fmt: skip

# Names of classes in a message: longest list to show whole, and differences to show of a longer one.
_MAX_LISTED, _MAX_DIFFERENCES = 30, 5

# Fields that say what the weights of a checkpoint are: they must match for evaluation, prediction and export.
ARCHITECTURE_FIELDS = (
  "data.dataset", "model.backbone", "model.head", "model.kernel_size", "model.stack_width", "model.boundary_refine",
  "model.norm", "model.dtype", "model.family",
)  # fmt: skip


def check_settings(config: ml_collections.ConfigDict, workdir: Workdir, only: Sequence[str] = ()) -> None:
  """Compares the settings with those of a workdir that holds a checkpoint.

  Args:
    config: the settings of this start.
    workdir: workdir of the run.
    only: fields to compare; by default all but `MUTABLE_FIELDS`, for training.

  Raises ValueError listing every field that differs; for training also if `config.json` or `run.json` is missing, which
  is only logged otherwise.
  """
  for path in workdir.missing_records():
    missing = f"{path}: missing, so that settings and data cannot be compared with those of the checkpoints."
    if not only:
      raise ValueError(f"{missing} {workdir.restore_fix}")
    _log.warning("WARNING: %s", missing)
  before = workdir.settings()
  if before:
    check_unchanged(before, json.loads(config.to_json()), only)


def check_unchanged(old: Mapping, new: Mapping, only: Sequence[str] = ()) -> None:
  """Compares two sets of settings.

  Args:
    old, new: nested mappings as from `ConfigDict.to_dict` or `config.json`. A field that `old` lacks, because an older
      version wrote it, has its default value.
    only: fields to compare; by default all but `MUTABLE_FIELDS`.

  Raises ValueError listing every field that differs.
  """
  before, after = {**_flatten(get_config().to_dict()), **_flatten(old)}, _flatten(new)
  changed = [
    field
    for field, value in sorted(after.items())
    if before.get(field) != value and (_is_under(field, only) if only else not _is_under(field, MUTABLE_FIELDS))
  ]
  if changed:
    listed = "; ".join(f"config.{field} was {before.get(field)!r}, is {after[field]!r}" for field in changed)
    flags = " ".join(flag(f"config.{field}", before[field]) for field in changed if field in before)
    raise ValueError(f"the workdir was begun with other settings: {listed}. Use {flags}, or a new workdir.")


def training_settings(config: ml_collections.ConfigDict, workdir: Workdir) -> dict[str, Any]:
  """Returns the settings a workdir was trained with, with defaults for fields that an older version did not have.

  For a workdir without a checkpoint these are the config's own. Raises ValueError for a damaged config.json.
  """
  return merge(json.loads(get_config().to_json()), workdir.settings() or json.loads(config.to_json()))


def log_schedule_change(config: ml_collections.ConfigDict, workdir: Workdir, step: int) -> None:
  """Logs the jump of the learning rate if a run that resumes at `step` was begun with another `total_steps`."""
  total_steps = training_settings(config, workdir)["total_steps"]
  if total_steps == config.total_steps:
    return
  before = config.copy_and_resolve_references()
  before.total_steps = total_steps
  old, new = (float(build.make_schedule(each)(step)) for each in (before, config))
  if old != new:
    _log.info(
      "config.total_steps was %d, is %d: the learning rate at step %d changes from %.3g to %.3g.",
      total_steps, config.total_steps, step, old, new,
    )  # fmt: skip


def check_fingerprints(now: Mapping[str, Mapping[str, Any]], workdir: Workdir, data_dir: str) -> None:
  """Raises ValueError if the training data is not what the workdir was begun with: the order of examples would change.

  Args:
    now: fingerprints by "data set split", as `RunData.fingerprints` returns them.
    workdir: workdir of the run.
    data_dir: folder to name in the message.
  """
  before = workdir.run_record().get("fingerprints", {})
  for name, values in now.items():
    if name not in before:
      raise ValueError(f"{workdir / 'run.json'}: does not record the data {name}. {workdir.restore_fix}")
    old = before[name]
    changed = [key for key, value in values.items() if old.get(key) != value]
    if changed:
      fix = "Bring that data set back, or use a new workdir"
      renamed = _renamed(old.get("classes", ()), values.get("classes", ()))
      if renamed and set(changed) <= {"classes", "digest"} and "digest" in old:
        pairs = {**renamed, old["digest"]: values["digest"]}
        fix += f". If only names of classes were mended, {_replacements(pairs, workdir / 'run.json')}"
      raise ValueError(
        f"{name} in {data_dir} is not what the workdir was begun with ({', '.join(changed)} differ). {fix}."
      )


def check_classes(
  config: ml_collections.ConfigDict,
  classes: Sequence[str],
  trained: files.Path,
  fix: str = "Use a workdir that was trained on these",
) -> None:
  """Raises ValueError, which ends with `fix`, if a workdir or an exported file was trained with other classes."""
  before = TrainingData.read(trained).classes
  if before and tuple(before) != tuple(classes):
    theirs, ours = _contrast(before, classes)
    renamed = _renamed(before, classes)
    if renamed and trained.is_file():
      fix += ". If only names were mended, restore the old ones in the data set, or replace them in the run.json of the"
      fix += " workdir that was exported, and export it again"
    elif renamed:
      fix += f". If only names were mended, {_replacements(renamed, trained / 'run.json')}"
    raise ValueError(
      f"{trained} was trained with the classes {theirs}, but {config.data.dataset} in {config.data.data_dir} has "
      f"{ours}. {fix}."
    )


def _renamed(before: Sequence[str], after: Sequence[str]) -> dict[str, str]:
  """Returns old name -> new name if lists of classes differ only in names that the other lacks; else {}."""
  if len(before) != len(after):
    return {}
  pairs = {old: new for old, new in zip(before, after, strict=True) if old != new}
  return {} if set(pairs) & set(after) or set(pairs.values()) & set(before) else pairs


def _replacements(pairs: Mapping[str, str], path: files.Path) -> str:
  """Returns the advice to replace strings in a JSON file, as they are written there."""
  listed = ", ".join(f"{json.dumps(old)} by {json.dumps(new)}" for old, new in pairs.items() if old != new)
  return f"keep the network and replace {listed} throughout {path}"


def _contrast(before: Sequence[str], after: Sequence[str]) -> tuple[str, str]:
  """Returns the names on both sides; for long lists only the first that differ, with their numbers."""
  if max(len(before), len(after)) <= _MAX_LISTED:
    return ", ".join(before), ", ".join(after)
  pairs = list(itertools.zip_longest(before, after, fillvalue="none"))
  differ = [index for index, (old, new) in enumerate(pairs) if old != new]

  def describe(side: int, total: int) -> str:
    named = ", ".join(f"{index} = {pairs[index][side]}" for index in differ[:_MAX_DIFFERENCES])
    return f"{named} ({len(differ)} differ; {total} in all)"

  return describe(0, len(before)), describe(1, len(after))


def _is_under(field: str, names: Sequence[str]) -> bool:
  return any(field == name or field.startswith(f"{name}.") for name in names)


def _flatten(settings: Mapping) -> dict[str, Any]:
  """Returns settings by dotted name, tuples as lists, as JSON gives them back."""
  return {name: _as_json(value) for name, value in flatten(settings).items()}


def _as_json(value: Any) -> Any:
  return [_as_json(item) for item in value] if isinstance(value, tuple | list) else value
