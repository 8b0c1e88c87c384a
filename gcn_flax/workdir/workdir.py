"""The folder of a run, on a disk or in a bucket."""

import json
import shutil
from typing import Any

from gcn_flax import files


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
    """Returns True if there is a whole checkpoint; a save that a kill cut short has a longer name."""
    return any(path.name.isdigit() for path in self.checkpoints.glob("[0-9]*"))

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
    """Returns the settings the run was begun with; {} before its first checkpoint. Raises ValueError if damaged."""
    return self._read_json("config.json") if self.is_begun else {}

  def run_record(self) -> dict[str, Any]:
    """Returns the content of `run.json`; {} if there is none. Raises ValueError if damaged."""
    return self._read_json("run.json")

  def _read_json(self, name: str) -> dict[str, Any]:
    path = self.path / name
    try:
      return json.loads(path.read_text()) if path.exists() else {}
    except json.JSONDecodeError as error:
      raise ValueError(f"{path} is damaged ({error}). Put it back, or use a new workdir.") from error

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
