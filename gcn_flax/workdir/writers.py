"""Metric writers: metrics.jsonl always, TensorBoard through clu where TensorFlow is installed."""

import json
import logging
import math
import os
import pathlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from gcn_flax import files, json_files
from gcn_flax.workdir.wandb_writer import WandbWriter
from gcn_flax.workdir.workdir import Workdir

_log = logging.getLogger(__name__)

# The lines of metrics.jsonl, all of which have a step, and of the files of `ImageIdLog`.
_METRICS, _IMAGE_IDS = {str: float | None}, {"step": int, "image_ids": [str]}


def read_metrics(path: files.Path) -> list[dict[str, Any]]:
  """Returns the whole lines of a metrics.jsonl, those with a step and numbers; [] if there is none."""
  return _parse_lines(path, _METRICS)[0]


def read_image_ids(path: files.Path) -> dict[int, list[str]]:
  """Returns the image ids of each step from a file of `ImageIdLog`; {} if there is none."""
  return {line["step"]: line["image_ids"] for line in _parse_lines(path, _IMAGE_IDS)[0]}


def _parse_lines(path: files.Path, form: Any) -> tuple[list[dict[str, Any]], int]:
  """Returns the whole lines, and the number of damaged ones; a last line that a kill cut short is neither."""
  texts = path.read_bytes().split(b"\n") if path.is_file() else [b""]
  lines = [_parse_line(text, form) for text in texts]
  return [line for line in lines if line], sum(line is None for line in lines[:-1])


def _parse_line(text: bytes, form: Any) -> dict[str, Any] | None:
  try:
    line = json_files.parse(text, form, "line", fix="")
  except ValueError:
    return None
  return line if isinstance(line.get("step"), int) else None


def _json_number(value: Any) -> float | int | None:
  value = value.item() if hasattr(value, "item") else value
  return value if math.isfinite(value) else None


class MetricWriter:
  """Writes a run's scalars and pictures to `metrics.jsonl`, TensorBoard and W&B, on the first host only.

  `metrics.jsonl` has one object per line, `step` first; numbers that are not finite become null.

  Args:
    workdir: workdir of the run.
    last_step: step the run continues from. Lines of later steps, and a line that a kill cut short, are removed from an
      existing `metrics.jsonl`. If others are damaged, a copy of the file is kept.
    wandb: writer of W&B, which is closed with this one; None for none.
  """

  def __init__(self, workdir: Workdir, last_step: int, wandb: WandbWriter | None = None):
    path = workdir / "metrics.jsonl"
    lines, num_damaged = _parse_lines(path, _METRICS)
    lines = [line for line in lines if line["step"] <= last_step]
    self._keys = {(line["step"], key) for line in lines for key in line}
    self._writes = jax.process_index() == 0
    if self._writes:
      if num_damaged:
        copy = files.keep_damaged(path)
        _log.warning("WARNING: %s: %d damaged lines are left out. The file is kept as %s.", path, num_damaged, copy)
      self._file = files.Lines(path, [json.dumps(line) for line in lines])
      self._others = [writer for writer in (_tensorboard(workdir), wandb) if writer]

  def has(self, step: int, key: str) -> bool:
    """Returns True if a line of this step holds `key`."""
    return (step, key) in self._keys

  def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """Appends a line to `metrics.jsonl`, flushed on return, and writes to TensorBoard and W&B."""
    self._keys.update((step, key) for key in scalars)
    if not self._writes:
      return
    line = {"step": step, **{key: _json_number(value) for key, value in scalars.items()}}
    self._file.append(json.dumps(line))
    for writer in self._others:
      writer.write_scalars(step, scalars)

  def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
    """Writes RGB uint8 pictures `[H, W, 3]` to TensorBoard and W&B."""
    for writer in self._others if self._writes else ():
      writer.write_images(step, {name: picture[None] for name, picture in pictures.items()})

  def close(self) -> None:
    """Closes the files."""
    if self._writes:
      self._file.close()
      for writer in self._others:
        writer.close()


class ImageIdLog:
  """Logs the images of each step of this host to `examples/start<number>_host<process>.jsonl`.

  A line is `{"step": ..., "image_ids": [...]}`. Steps that are repeated after a restart appear in the files of both
  starts; the later one counts.

  Args:
    workdir: workdir of the run.
    number: number of the start, from 0.
  """

  def __init__(self, workdir: Workdir, number: int):
    folder = workdir / "examples"
    folder.mkdir(parents=True, exist_ok=True)
    self._file = files.Lines(folder / f"start{number}_host{jax.process_index()}.jsonl", [])

  def note(self, step: int, image_ids: Sequence[str]) -> None:
    """Appends a line, flushed on return."""
    self._file.append(json.dumps({"step": step, "image_ids": list(map(str, image_ids))}))

  def close(self) -> None:
    """Closes the file."""
    self._file.close()


class _TensorBoard:
  """clu's summary writer; for a workdir in a bucket it writes to a local folder, copied with each picture."""

  def __init__(self, workdir: Workdir, metric_writers: Any):
    self._target = workdir / "tensorboard"
    self._folder = tempfile.mkdtemp(prefix="tensorboard") if workdir.is_remote else str(self._target)
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


def _tensorboard(workdir: Workdir) -> _TensorBoard | None:
  """Returns the writer for TensorBoard; None if TensorFlow or TensorBoard is not installed."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # Silences a notice: TensorFlow only writes files here.
  try:
    import tensorflow as tf
    from clu import metric_writers
  except ImportError as error:
    _log.warning("no TensorBoard (%s): scalars only go to metrics.jsonl.", error)
    return None
  tf.config.set_visible_devices([], "GPU")  # TensorFlow would take the memory of every GPU it sees.
  return _TensorBoard(workdir, metric_writers)
