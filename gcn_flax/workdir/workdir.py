"""The folder of a run, on a disk or in a bucket."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from gcn_flax import files, json_files
from gcn_flax.config import get_config

# Names that a training writes besides those of its evaluations; those of folders end in a slash.
TRAINING_FILES = (
  "config.json", "run.json", "metrics.jsonl", "lock", "checkpoints/", "checkpoints/scores.json", "tensorboard/",
  "samples/",
)  # fmt: skip

# run.json, as far as it is read again.
RECORD = {
  "classes?": [str],
  "palette?": [(range(256),) * 3],
  "partial?": {str: [str]},
  "fingerprints?": {str: {"classes?": [str], "digest?": str}},
  "data?": {str: {str: int}},
  "starts?": [{"time": str}],
  "command?": str,
  "commit?": str | None,
  "versions?": {str: str},
  "devices?": {"kind": str, "count": int, "hosts": int},
  "processor?": {"model": str, "cores": int},
}
# Fields of config.json that every version wrote; if all were missing, a run would pass for one of default settings.
_ALWAYS_WRITTEN = ("seed", "total_steps", "batch_size", "data", "model", "optimizer")


class Workdir:
  """The folder of a run: its settings, checkpoints, metrics and results.

  Args:
    path: local, or `gs://BUCKET/...`.

  Raises ValueError for another kind of address.
  """

  def __init__(self, path: "str | files.Path | Workdir"):
    self.path = path.path if isinstance(path, Workdir) else files.path(path)

  def __str__(self) -> str:
    return str(self.path)

  def __truediv__(self, name: str) -> files.Path:
    return self.path / name

  @property
  def is_remote(self) -> bool:
    """Returns True if the workdir is in a bucket."""
    return files.is_remote(self.path)

  @property
  def checkpoints(self) -> files.Path:
    """Directory of the checkpoints, one folder per step."""
    return self.path / "checkpoints"

  @property
  def is_begun(self) -> bool:
    """Returns True if there is a checkpoint."""
    return any(True for _ in self._checkpoint_folders())

  def _checkpoint_folders(self) -> Iterator[files.Path]:
    """Yields the folders of all checkpoints; a save that a kill cut short has a longer name."""
    for folder in self.checkpoints.glob("[0-9]*"):
      if re.fullmatch("[0-9]+", folder.name) and files.is_filled(folder):
        yield folder

  def create(self) -> None:
    """Makes the folder if it is missing."""
    self.path.mkdir(parents=True, exist_ok=True)

  def write(self, name: str, content: str | bytes) -> None:
    """Replaces a file atomically, and makes the folder if it is missing."""
    self.create()
    files.write(self.path / name, content)

  def write_json(self, name: str, content: Any, indent: int = 2) -> None:
    """Replaces a JSON file atomically."""
    self.write(name, json.dumps(content, indent=indent) + "\n")

  def settings(self) -> dict[str, Any]:
    """Returns the settings the run was begun with; {} before its first checkpoint.

    If `config.json` is missing, they are those stored with the newest checkpoint. Raises ValueError if damaged.
    """
    if not self.is_begun:
      return {}
    form = settings_form()
    return self._read("config.json", form) or self._settings_of_checkpoint(form)

  def _settings_of_checkpoint(self, form: Any) -> dict[str, Any]:
    path = max(self._checkpoint_folders(), key=lambda folder: int(folder.name)) / "_CHECKPOINT_METADATA"
    if not path.exists():
      return {}
    stored = json_files.read(path, {"custom_metadata?": {"config?": form}}, self.restore_fix)
    return stored.get("custom_metadata", {}).get("config", {})

  def run_record(self) -> dict[str, Any]:
    """Returns the content of `run.json`; {} if there is none. Raises ValueError if damaged."""
    return self._read("run.json", RECORD)

  def missing_records(self) -> list[files.Path]:
    """Returns the files that belong to the checkpoints but are missing; [] before the first checkpoint.

    A `config.json` whose content is stored with the newest checkpoint is not missing.
    """
    missing = [self / name for name in ("config.json", "run.json") if self.is_begun and not (self / name).exists()]
    return [path for path in missing if path.name != "config.json" or not self.settings()]

  @property
  def restore_fix(self) -> str:
    """The fix for a missing or damaged `config.json` or `run.json`, a sentence for errors."""
    return (
      f"Put it back. Without it evaluation and export still work, and a new workdir with --config.init_from={self} can "
      "train on from these weights."
    )

  def _read(self, name: str, form: Any) -> dict[str, Any]:
    path = self / name
    return json_files.read(path, form, self.restore_fix) if path.exists() else {}

  def check_writable(self, *names: str) -> None:
    """Checks that results can be written; a workdir in a bucket is not checked.

    Args:
      *names: files in the workdir, or folders, whose names end in a slash.

    Raises ValueError if the workdir or one of the folders is a file or not writable, or one of the files is a folder.
    """
    for name in ("", *names):
      if name.endswith("/") or not name:
        files.check_writable(self / name)
      elif not self.is_remote and (self / name).is_dir():
        raise ValueError(f"{self / name}: is a folder, but a file of this name is to be written. Rename it.")

  def check_room(self, num_bytes: int, free_bytes: int | None = None) -> None:
    """Raises ValueError if the disk has no room for `num_bytes` more; by default, `free_bytes` comes from the disk."""
    if self.is_remote:
      return
    free = shutil.disk_usage(self.path).free if free_bytes is None else free_bytes
    if free < num_bytes:
      raise ValueError(
        f"the disk of {self} has {free / 1e6:.0f} MB left, and a checkpoint takes {num_bytes / 1e6:.0f} MB. Make room, "
        "or use another workdir."
      )


def evaluation_files(split: str) -> tuple[str, ...]:
  """Returns the names of the files that the evaluation of a split writes."""
  return f"eval_{split}.json", f"eval_{split}.png", "report.json", "report.html"


def settings_form() -> dict[str, Any]:
  """Returns the form of config.json for `json_files`; fields added by later versions may be missing."""
  return _form_of(get_config().to_dict())


def _form_of(defaults: Mapping[str, Any]) -> dict[str, Any]:
  form = {}
  for name, value in defaults.items():
    key = name if name in _ALWAYS_WRITTEN else f"{name}?"
    if isinstance(value, Mapping):
      form[key] = _form_of(value)
    else:
      form[key] = {int: float, tuple: [object]}.get(type(value), type(value))  # A float may have a whole value.
  return form
