"""Where a run's numbers and pictures go: metrics.jsonl, TensorBoard, run.json.

The only file that imports clu, and with it TensorFlow; without them a run keeps
the console and metrics.jsonl.
"""

import json
import logging
import math
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import jax
import numpy as np

from gcn_flax import files

_log = logging.getLogger(__name__)
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")


def read_metrics(path: files.Path) -> list[dict[str, Any]]:
  """The whole lines of a metrics.jsonl; none where it is not there."""
  lines = []
  for text in path.read_text().splitlines() if path.exists() else []:
    try:
      lines.append(json.loads(text))
    except json.JSONDecodeError:  # Cut off by a kill.
      continue
  return lines


def _json_number(value: Any) -> float | int | None:
  value = value.item() if hasattr(value, "item") else value
  return value if math.isfinite(value) else None


class Writer:
  """Writes a run's scalars and pictures to `metrics.jsonl` and TensorBoard; on the first host alone.

  `metrics.jsonl` has one object a line, `step` first; numbers that are not finite are null.

  Args:
    workdir: of the run.
    last_step: the step the run goes on from. Lines of later steps, and a line cut
      off by a kill, are removed from a `metrics.jsonl` that is there already.
  """

  def __init__(self, workdir: files.Path, last_step: int):
    path = workdir / "metrics.jsonl"
    lines = [line for line in read_metrics(path) if line["step"] <= last_step]
    self._keys = {(line["step"], key) for line in lines for key in line}
    self._writes = jax.process_index() == 0
    if self._writes:
      self._file = files.Lines(path, [json.dumps(line) for line in lines])
      self._tensorboard = _tensorboard(workdir)

  def has(self, step: int, key: str) -> bool:
    """Whether a line of this step holds `key`."""
    return (step, key) in self._keys

  def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """Appends a line to `metrics.jsonl`, handed to the system on return, and to TensorBoard."""
    self._keys.update((step, key) for key in scalars)
    if not self._writes:
      return
    line = {"step": step, **{key: _json_number(value) for key, value in scalars.items()}}
    self._file.append(json.dumps(line))
    if self._tensorboard:
      self._tensorboard.write_scalars(step, scalars)

  def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
    """Writes RGB uint8 pictures `[H, W, 3]` to TensorBoard."""
    if self._writes and self._tensorboard:
      self._tensorboard.write_images(step, {name: picture[None] for name, picture in pictures.items()})

  def close(self) -> None:
    """Lets go of the files."""
    if self._writes:
      self._file.close()
      if self._tensorboard:
        self._tensorboard.close()


class ImageIds:
  """Notes which images each step of this host was made of, in `examples/start<number>_host<process>.jsonl`.

  A line is `{"step": ..., "image_ids": [...]}`. What a run that went back to a checkpoint does again stands in
  the file of its later start, too: there it counts.

  Args:
    workdir: of the run.
    number: of the start, from 0.
  """

  def __init__(self, workdir: files.Path, number: int):
    folder = workdir / "examples"
    folder.mkdir(parents=True, exist_ok=True)
    self._file = files.Lines(folder / f"start{number}_host{jax.process_index()}.jsonl", [])

  def note(self, step: int, image_ids: Sequence[str]) -> None:
    """Appends a line, handed to the system on return."""
    self._file.append(json.dumps({"step": step, "image_ids": list(map(str, image_ids))}))

  def close(self) -> None:
    """Lets go of the file."""
    self._file.close()


class _TensorBoard:
  """clu's summary writer; for a workdir in a bucket it writes here, and with each picture its files are copied."""

  def __init__(self, workdir: files.Path, metric_writers: Any):
    self._target = workdir / "tensorboard"
    self._folder = tempfile.mkdtemp(prefix="tensorboard") if files.is_remote(workdir) else str(self._target)
    self._writer = metric_writers.SummaryWriter(self._folder)
    self.write_scalars = self._writer.write_scalars

  def write_images(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
    self._writer.write_images(step, pictures)
    self._copy()

  def close(self) -> None:
    self._writer.close()
    self._copy()
    if files.is_remote(self._target):
      shutil.rmtree(self._folder)

  def _copy(self) -> None:
    if files.is_remote(self._target):
      self._writer.flush()
      files.upload(pathlib.Path(self._folder), self._target)


def _tensorboard(workdir: files.Path) -> _TensorBoard | None:
  """The writer for TensorBoard; None where TensorFlow or TensorBoard is not installed."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # TensorFlow only writes files here; spares its notice.
  try:
    import tensorflow as tf
    from clu import metric_writers
  except ImportError as error:
    _log.warning("no TensorBoard (%s): scalars go to metrics.jsonl alone.", error)
    return None
  tf.config.set_visible_devices([], "GPU")  # TensorFlow would take the memory of every GPU it sees.
  return _TensorBoard(workdir, metric_writers)


def read_run_json(workdir: files.Path) -> dict[str, Any]:
  """What `write_run_json` wrote; {} where there is none. Raises ValueError where it is damaged."""
  path = workdir / "run.json"
  if not path.exists():
    return {}
  try:
    return json.loads(path.read_text())
  except json.JSONDecodeError as error:
    raise ValueError(f"{path} is damaged ({error}): put it back, or take a new workdir.") from error


def write_run_json(workdir: files.Path, step: int, data: Mapping[str, Any]) -> None:
  """Writes `run.json`: how this run was started, on what, and when it was started before.

  Args:
    workdir: of the run.
    step: the step it starts from.
    data: facts of the data, stored as they are.
  """
  path = workdir / "run.json"
  starts = read_run_json(workdir).get("starts", [])
  starts.append({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "step": step, "command": command()})
  run = {
    "command": command(),
    **machine(),
    **data,
    "starts": starts,
  }
  files.write(path, json.dumps(run, indent=2) + "\n")


def command() -> str:
  """The command line of this process."""
  return shlex.join([pathlib.Path(sys.orig_argv[0]).name, *sys.orig_argv[1:]])


def machine() -> dict[str, Any]:
  """What this process runs: the commit of its source, versions of packages, devices."""
  return {
    "commit": _commit(),
    "versions": {"python": platform.python_version(), **_versions()},
    "devices": {"kind": jax.devices()[0].device_kind, "count": jax.device_count(), "hosts": jax.process_count()},
  }


def _commit() -> str | None:
  """The commit of the source tree, with `+` behind it where files were changed; None outside a checkout."""
  git = ["git", "-C", str(pathlib.Path(__file__).parent)]
  try:
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
