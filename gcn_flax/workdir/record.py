"""The record of a run, run.json: command, commit, packages, devices and data."""

import dataclasses
import pathlib
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import jax

from gcn_flax import files
from gcn_flax.processor import cpu_model, num_cores
from gcn_flax.workdir.stored_config import exported_entry
from gcn_flax.workdir.workdir import RECORD, Workdir

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")
_CONFIG = {"data?": {"eval_size?": [int]}}  # The settings, as far as they are read.


@dataclasses.dataclass(frozen=True)
class TrainingData:
  """The data that weights were trained on, as a workdir or an exported file records it.

  Attributes:
    classes: names in the order of the train ids; () if nothing is recorded.
    palette: RGB of each class, 0 to 255; () for whole images and for records without colours.
    partial: counts that differed from the published ones, by data set.
    eval_size: `config.data.eval_size` of the training, the canvas of evaluation; None if it is not recorded.
  """

  classes: tuple[str, ...] = ()
  palette: tuple[tuple[int, int, int], ...] = ()
  partial: Mapping[str, list[str]] = dataclasses.field(default_factory=dict)
  eval_size: tuple[int, ...] | None = None

  @classmethod
  def read(cls, trained: files.Path | None) -> "TrainingData":
    """Reads the record of a workdir or of an exported safetensors file; empty for None and for other files.

    Raises ValueError if it is damaged.
    """
    if trained is None:
      return cls()
    if not trained.is_file():
      return cls.from_json(Workdir(trained).run_record(), Workdir(trained).settings())
    return cls.from_json(exported_entry(trained, "data", RECORD), exported_entry(trained, "config", _CONFIG))

  @classmethod
  def from_json(cls, record: Mapping[str, Any], settings: Mapping[str, Any]) -> "TrainingData":
    """Returns the data of a JSON object as from `to_json`, and of settings as in `config.json`.

    Missing entries stay empty.
    """
    palette = tuple(map(tuple, record.get("palette", ())))
    eval_size = settings.get("data", {}).get("eval_size")
    return cls(
      classes=tuple(record.get("classes", ())),
      palette=palette,
      partial=record.get("partial", {}),
      eval_size=None if eval_size is None else tuple(eval_size),
    )

  def to_json(self) -> dict[str, Any]:
    """Returns the data as an object for JSON; {} without classes."""
    return {"classes": self.classes, "palette": self.palette, "partial": self.partial} if self.classes else {}


def write_run_json(workdir: Workdir, step: int, data: Mapping[str, Any]) -> None:
  """Writes `run.json`: the command, commit, packages and devices, the data, and every start of the run.

  Args:
    workdir: workdir of the run.
    step: the step it starts from.
    data: facts about the data, stored as they are.
  """
  starts = workdir.run_record().get("starts", [])
  starts.append({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "step": step, "command": command()})
  workdir.write_json("run.json", {"command": command(), **machine(), **data, "starts": starts})


def command() -> str:
  """Returns the command line of this process."""
  return shlex.join([pathlib.Path(sys.orig_argv[0]).name, *sys.orig_argv[1:]])


def machine() -> dict[str, Any]:
  """Returns the commit of the source, the versions of packages, and the devices and processor of this process."""
  return {
    "commit": _commit(),
    "versions": {"python": platform.python_version(), **_versions()},
    "processor": {"model": cpu_model(), "cores": num_cores()},
    "devices": {"kind": jax.devices()[0].device_kind, "count": jax.device_count(), "hosts": jax.process_count()},
  }


def _commit() -> str | None:
  """Returns the commit of the source tree, with `+` appended for changed files; None outside a checkout."""
  source = pathlib.Path(__file__)
  git = ["git", "-C", str(source.parent)]
  try:
    # A virtual environment may lie in the repository of another project, which does not track the file.
    subprocess.run([*git, "ls-files", "--error-unmatch", source.name], capture_output=True, check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True).stdout
  except (OSError, subprocess.CalledProcessError):
    return None
  return commit + ("+" if changed.strip() else "")


def _versions() -> dict[str, str]:
  found = {}
  for package in _PACKAGES:
    try:
      found[package] = metadata.version(package)
    except metadata.PackageNotFoundError:
      continue
  return found
