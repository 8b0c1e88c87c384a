"""Scores a network on a whole split: every image once."""

import heapq
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np

from gcn_flax import build, files, inference, tasks
from gcn_flax.input_pipeline.datasets import Source
from gcn_flax.input_pipeline.loader import Batch
from gcn_flax.reporting import report
from gcn_flax.tasks.metrics import Counts, Row, Scores
from gcn_flax.training import sharding
from gcn_flax.visualize import overlay

_ROW_WIDTH = 480  # Pixels; of the pictures that are kept.


class _Stopped(Exception):
  """Asked to stop."""


def evaluate(
  config: ml_collections.ConfigDict,
  setup: build.Setup,
  weights: dict[str, Any],
  split: str,
  should_stop: Callable[[], bool] = lambda: False,
) -> Scores | None:
  """Scores weights, as `TrainState.weights` gives them, on a split; None where `should_stop` broke it off.

  Pixels are scored at their own size: images are padded, never resized, and padding is void; `config.eval` says
  which tiles, scales and mirror images make up a prediction. Whole images are scored on their central crop. Every image
  counts once, in one table over the set.

  Raises:
    ValueError: where the split is not prepared, is empty or has no labels, and where an
      image is larger than `config.data.eval_size`.
  """
  source = build.open_split(config, config.data.dataset, split)
  tally = _Tally(config, source)
  progress = inference.Progress(f"evaluating {split}", -(-len(source) // jax.process_count()))

  def batches() -> Iterator[Batch]:
    for batch in build.eval_batches(config, source):
      if should_stop():  # Asked once a batch, of which every host has as many.
        raise _Stopped
      yield batch

  examples = inference.examples(setup, weights, batches())
  with inference.crf_postprocessing(config) as refine:
    try:
      for outcome in inference.each(lambda *each: tally.look(*each, refine), examples, inference.num_threads(config)):
        tally.add(*outcome)
        progress.add()
    except _Stopped:
      return None
  return tally.scores()


class _Tally:
  """Adds up what is counted of each image, and keeps some of the pictures."""

  def __init__(self, config: ml_collections.ConfigDict, source: Source):
    self._task, self._source, self._keep = tasks.of(config), source, config.eval.num_pictures
    wanted = np.linspace(0, len(source) - 1, min(self._keep, len(source))).astype(int)
    self._wanted, self._sample = set(wanted.tolist()), []
    self._totals, self._image_scores = {}, []
    self._best, self._worst = [], []  # Heaps, the next to be dropped first.

  def look(self, example: Mapping, output: np.ndarray, refine: Callable) -> tuple[int, Counts, Row]:
    """What is counted of one example, as `loader.eval_batches` gives it; may run on any thread."""
    index, arrays = int(example["index"]), (example["image"], example["label"], output)
    image, label, output = (self._task.crop(array, example["size"]) for array in arrays)
    prediction = refine(image, output)
    counts = self._task.count(self._source, index, label, prediction)
    row = Row(image, label, prediction, self._source.image_id(index), self._task.score_image(counts))
    return index, counts, row

  def add(self, index: int, counts: Counts, row: Row) -> None:
    for name, value in counts.items():
      self._totals[name] = self._totals.get(name, 0) + value
    self._image_scores.append((index, row.score))
    if index in self._wanted:
      self._sample.append((index, self._shrink(row)))
    if not np.isnan(row.score):
      self._push(self._best, (row.score, -index), row)
      self._push(self._worst, (-row.score, -index), row)

  def _push(self, heap: list, rank: tuple, row: Row) -> None:
    if len(heap) < self._keep or (heap and heap[0][0] < rank):
      heapq.heappush(heap, (rank, self._shrink(row)))
    if len(heap) > self._keep:
      heapq.heappop(heap)

  def _shrink(self, row: Row) -> Row:
    arrays = (self._task.shrink(array, _ROW_WIDTH) for array in (row.image, row.label, row.prediction))
    return Row(*arrays, row.image_id, row.score)

  def scores(self) -> Scores:
    """The scores over all hosts."""
    parts = sharding.all_gather((self._totals, self._image_scores, self._sample, self._best, self._worst))
    totals, image_scores, sample, best, worst = zip(*parts, strict=True)
    names = [name for part in totals for name in part]
    by_index = sorted(pair for part in image_scores for pair in part)
    return self._task.Scores(
      counts={name: sum(part[name] for part in totals if part) for name in dict.fromkeys(names)},
      image_scores=np.array([score for _, score in by_index]),
      label_set=self._source.label_set,
      sample=[row for _, row in sorted((pair for part in sample for pair in part), key=lambda pair: pair[0])],
      best=_ranked(best, self._keep),
      worst=_ranked(worst, self._keep),
    )


def _ranked(heaps: tuple[list, ...], keep: int) -> list[Row]:
  """The rows of all hosts' heaps, highest rank first."""
  return [row for _, row in sorted((pair for heap in heaps for pair in heap), key=lambda pair: pair[0])[::-1][:keep]]


def write_scores(
  workdir: files.Path,
  config: ml_collections.ConfigDict,
  split: str,
  step: int,
  scores: Scores,
  trained_on: Mapping[str, Any],
) -> None:
  """Prints the table by class; writes `eval_<split>.json`, `eval_<split>.png`, the contact sheet, and the report.

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
    "eval": json.loads(config.eval.to_json()),
    **{name: None if np.isnan(value) else value for name, value in scores.scalars.items()},
    **scores.details(),
  }
  files.write(workdir / f"eval_{split}.json", json.dumps(result, indent=2) + "\n")
  if scores.sample:
    overlay.save(workdir / f"eval_{split}.png", scores.sheet(scores.sample))
  report.write(workdir, config, result, scores)
