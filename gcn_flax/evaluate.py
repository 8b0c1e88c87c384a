"""Scores a network on a whole split: every image once, at its own size."""

import dataclasses
import json
import logging
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np

from gcn_flax import build
from gcn_flax.evaluation import confusion
from gcn_flax.input_pipeline import loader
from gcn_flax.input_pipeline.sources import Source
from gcn_flax.labels import LabelSet
from gcn_flax.training import partition
from gcn_flax.visualize import overlay
from gcn_flax.writers import read_run_json, write_text

_log = logging.getLogger(__name__)
_PROGRESS_SECONDS = 15


@dataclasses.dataclass(frozen=True)
class Scores:
  """The result of an evaluation.

  Attributes:
    matrix: int64 `[C, C]`, rows = ground truth, over all valid pixels of the split.
    num_images: that were scored.
    label_set: the classes.
    sheet: contact sheet, RGB uint8 `[H, W, 3]`; None where no picture was asked for.
  """

  matrix: np.ndarray
  num_images: int
  label_set: LabelSet
  sheet: np.ndarray | None

  @property
  def mean_iou(self) -> float:
    return confusion.mean_iou(self.matrix)

  @property
  def pixel_accuracy(self) -> float:
    return confusion.pixel_accuracy(self.matrix)


def evaluate(
  config: ml_collections.ConfigDict,
  setup: build.Setup,
  state: Any,
  split: str,
  should_stop: Callable[[], bool] = lambda: False,
) -> Scores | None:
  """Scores the weights of `state` on a split; None where `should_stop` broke it off.

  Images are padded, never resized, and padding is void: what is counted is each
  valid pixel of each image, once, in one confusion matrix over the set.

  Raises:
    ValueError: where the split is not prepared, is empty or has no labels, and where an
      image is larger than `config.data.eval_size`.
  """
  source = build.open_split(config, config.data.dataset, split)
  pictures = _Pictures(source, config.eval.num_pictures)
  matrix = np.zeros((source.label_set.num_classes,) * 2, np.int64)
  num_steps = loader.num_eval_steps(len(source), config.eval.batch_size)
  num_images, started, reported = 0, time.monotonic(), time.monotonic()
  for step, batch in enumerate(build.eval_batches(config, source), 1):
    if should_stop():
      return None
    counts, predictions = setup.eval_step(state.params, state.batch_stats, partition.to_device(batch, setup.mesh))
    pictures.add(batch, predictions)
    matrix += np.asarray(jax.device_get(counts), np.int64)
    num_images += int((batch["index"] >= 0).sum())
    now = time.monotonic()
    if now - reported > _PROGRESS_SECONDS:
      left = (now - started) / step * (num_steps - step)
      _log.info("evaluating %s: batch %d of %d, %.0f s left", split, step, num_steps, left)
      reported = now
  if jax.process_count() > 1:
    num_images = len(source)
  return Scores(matrix, num_images, source.label_set, pictures.sheet())


class _Pictures:
  """Collects evenly spaced examples of a split, as far as this host sees them, for the contact sheet."""

  def __init__(self, source: Source, count: int):
    self._source = source
    self._wanted = set(np.linspace(0, len(source) - 1, min(count, len(source))).astype(int).tolist())
    self._rows = []

  def add(self, batch: loader.Batch, predictions: jax.Array) -> None:
    rows = [row for row, index in enumerate(batch["index"]) if int(index) in self._wanted]
    if not rows:
      return
    local = _this_hosts_part(predictions)
    for row in rows:
      height, width = batch["size"][row]
      name = self._source[batch["index"][row]]["image_id"]
      maps = (batch["image"][row], batch["label"][row], local[row])
      self._rows.append((*(array[:height, :width] for array in maps), name))

  def sheet(self) -> np.ndarray | None:
    if not self._rows:
      return None
    return overlay.contact_sheet(*zip(*self._rows, strict=True), self._source.label_set)


def _this_hosts_part(array: jax.Array) -> np.ndarray:
  """The examples that this host's devices hold, in order."""
  shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
  return np.concatenate([np.asarray(shard.data) for shard in shards])


def write_scores(
  workdir: pathlib.Path, config: ml_collections.ConfigDict, split: str, step: int, scores: Scores
) -> None:
  """Prints the table by class; writes `eval_<split>.json` and `eval_<split>.png`, the contact sheet.

  `iou` is by class name, null where a class neither occurs nor is predicted;
  `confusion` has the ground truth in rows; `partial` is what the data
  sets lack that are scored or were trained on, as `run.json` and they themselves say.
  """
  classes = scores.label_set.classes
  iou = confusion.iou_per_class(scores.matrix)
  pixels = scores.matrix.sum(1)
  partial = read_run_json(workdir).get("partial", {}) | build.partial_data(config)
  print(f"\n{config.data.dataset} {split}, step {step}, {scores.num_images} images")
  print(overlay.class_table(classes, iou, pixels / max(1, pixels.sum()), scores.mean_iou), flush=True)
  for dataset, lacks in partial.items():
    print(f"PARTIAL DATA: {dataset} {', '.join(lacks)}", flush=True)
  result = {
    "dataset": config.data.dataset,
    "split": split,
    "step": step,
    "num_images": scores.num_images,
    "partial": partial,
    "mean_iou": _number(scores.mean_iou),
    "pixel_accuracy": _number(scores.pixel_accuracy),
    "iou": {name: _number(value) for name, value in zip(classes, iou, strict=True)},
    "confusion": scores.matrix.tolist(),
  }
  write_text(workdir / f"eval_{split}.json", json.dumps(result, indent=2) + "\n")
  if scores.sheet is not None:
    overlay.save(workdir / f"eval_{split}.png", scores.sheet)


def _number(value: float) -> float | None:
  return None if np.isnan(value) else float(value)
