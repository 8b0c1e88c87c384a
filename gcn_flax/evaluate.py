"""Scores a network on a whole split: every image once."""

import json
import logging
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np

from gcn_flax import build, tasks
from gcn_flax.input_pipeline import loader
from gcn_flax.input_pipeline.sources import Source
from gcn_flax.tasks.scores import Scores
from gcn_flax.training import partition
from gcn_flax.visualize import overlay
from gcn_flax.writers import write_text

_log = logging.getLogger(__name__)
_PROGRESS_SECONDS = 15


def evaluate(
  config: ml_collections.ConfigDict,
  setup: build.Setup,
  weights: dict[str, Any],
  split: str,
  should_stop: Callable[[], bool] = lambda: False,
) -> Scores | None:
  """Scores weights, as `TrainState.weights` gives them, on a split; None where `should_stop` broke it off.

  Pixels are scored at their own size: images are padded, never resized, and padding is void.
  Whole images are scored on their central crop. Every image counts once, in one table over the set.

  Raises:
    ValueError: where the split is not prepared, is empty or has no labels, and where an
      image is larger than `config.data.eval_size`.
  """
  source = build.open_split(config, config.data.dataset, split)
  pictures = _Pictures(source, config.eval.num_pictures)
  num_steps = loader.num_eval_steps(len(source), config.eval.batch_size)
  total, num_images, started, reported = 0, 0, time.monotonic(), time.monotonic()
  for step, batch in enumerate(build.eval_batches(config, source), 1):
    if should_stop():
      return None
    counts, predictions = setup.eval_step(weights, partition.to_device(batch, setup.mesh))
    pictures.add(batch, predictions)
    total = total + np.asarray(jax.device_get(counts), np.int64)
    num_images += int((batch["index"] >= 0).sum())
    now = time.monotonic()
    if now - reported > _PROGRESS_SECONDS:
      left = (now - started) / step * (num_steps - step)
      _log.info("evaluating %s: batch %d of %d, %.0f s left", split, step, num_steps, left)
      reported = now
  if jax.process_count() > 1:
    num_images = len(source)
  task = tasks.of(config)
  sheet = task.draw(pictures.rows, source.label_set) if pictures.rows else None
  return task.Scores(total, num_images, source.label_set, sheet)


class _Pictures:
  """Collects evenly spaced examples of a split, as far as this host sees them, for the contact sheet.

  `rows` holds (image, label, prediction, (height, width) as stored, image id) of each.
  """

  def __init__(self, source: Source, count: int):
    self._source = source
    self._wanted = set(np.linspace(0, len(source) - 1, min(count, len(source))).astype(int).tolist())
    self.rows = []

  def add(self, batch: loader.Batch, predictions: jax.Array) -> None:
    rows = [row for row, index in enumerate(batch["index"]) if int(index) in self._wanted]
    if not rows:
      return
    local = _this_hosts_part(predictions)
    for row in rows:
      name = self._source[batch["index"][row]]["image_id"]
      self.rows.append((batch["image"][row], batch["label"][row], local[row], batch["size"][row], name))


def _this_hosts_part(array: jax.Array) -> np.ndarray:
  """The examples that this host's devices hold, in order."""
  shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
  return np.concatenate([np.asarray(shard.data) for shard in shards])


def write_scores(
  workdir: pathlib.Path,
  config: ml_collections.ConfigDict,
  split: str,
  step: int,
  scores: Scores,
  trained_on: Mapping[str, Any],
) -> None:
  """Prints the table by class; writes `eval_<split>.json` and `eval_<split>.png`, the contact sheet.

  `partial` is what the data sets lack that are scored, and `trained_on` what those did that were
  trained on; the scores by class are those of the task's `Scores.details`.
  """
  partial = {**trained_on, **build.partial_data(config)}
  print(f"\n{config.data.dataset} {split}, step {step}, {scores.num_images} images")
  print(scores.table(), flush=True)
  for dataset, lacks in partial.items():
    print(f"PARTIAL DATA: {dataset} {', '.join(lacks)}", flush=True)
  result = {
    "dataset": config.data.dataset,
    "split": split,
    "step": step,
    "num_images": scores.num_images,
    "partial": partial,
    **{name: None if np.isnan(value) else value for name, value in scores.scalars.items()},
    **scores.details(),
  }
  write_text(workdir / f"eval_{split}.json", json.dumps(result, indent=2) + "\n")
  if scores.sheet is not None:
    overlay.save(workdir / f"eval_{split}.png", scores.sheet)
