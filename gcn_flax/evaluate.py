"""Evaluates a network on a whole split, each image once."""

import functools
import heapq
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np

from gcn_flax import build, files, inference, tasks
from gcn_flax.input_pipeline.examples import Source
from gcn_flax.input_pipeline.loader import Batch
from gcn_flax.parallel import parallel_map
from gcn_flax.preflight import preflight
from gcn_flax.printable import one_line, printable
from gcn_flax.reporting import report
from gcn_flax.rounding import ceil_div
from gcn_flax.run_data import RunData, eval_batches
from gcn_flax.tasks.metrics import Counts, Metrics, Row
from gcn_flax.training import sharding
from gcn_flax.visualize import overlay
from gcn_flax.workdir.record import TrainingData
from gcn_flax.workdir.trained import load_trained
from gcn_flax.workdir.workdir import Workdir

_ROW_WIDTH = 480  # Pixels, of the pictures that are kept.


def run(
  config: ml_collections.ConfigDict, workdir: Workdir | files.Path | str, split: str = "", checkpoint: str = "best"
) -> Metrics:
  """Evaluates a checkpoint of a workdir; prints the table and writes `eval_<split>.json` and the report.

  Args:
    config: config of the network and the evaluation.
    workdir: workdir of the run.
    split: split of `config.data.dataset`; by default `config.data.eval_split`.
    checkpoint: `best`, `last` or a step; `0` for initial weights as they are.

  Raises ValueError for what `preflight` and `load_trained` reject.
  """
  workdir, split = Workdir(workdir), split or config.data.eval_split
  data = preflight(config, workdir, split=split)
  trained = load_trained(config, workdir, checkpoint, data.label_set)
  metrics = evaluate(config, trained.setup, trained.weights, data.eval_source(split))
  if jax.process_index() == 0:
    write_metrics(workdir, config, data, split, trained.step, metrics, trained.data)
  return metrics


class _Stopped(Exception):
  """Signals that an evaluation is broken off."""


def evaluate(
  config: ml_collections.ConfigDict,
  setup: build.Setup,
  weights: dict[str, Any],
  source: Source,
  should_stop: Callable[[], bool] = lambda: False,
) -> Metrics | None:
  """Evaluates weights, as from `TrainState.weights`, on a labelled split; None if `should_stop` broke it off.

  Pixels are evaluated at their own resolution: images are padded, never resized, and padding is void. `config.eval`
  sets the sliding window, scales and flips (test-time augmentation). Whole images are evaluated on their central crop.
  Each image counts once, in one table over the set.

  Raises ValueError for an image larger than a fixed `config.data.eval_size`.
  """
  tally = _Tally(config, source)
  progress = inference.Progress(f"evaluating {source.split}", ceil_div(len(source), jax.process_count()))

  def batches() -> Iterator[Batch]:
    for batch in eval_batches(config, source):
      if should_stop():  # Asked once a batch, because every host has the same number of batches.
        raise _Stopped
      yield batch

  examples = inference.examples(setup, weights, batches(), with_loss=True)
  with inference.crf_postprocessing(config) as postprocess:
    try:
      count = functools.partial(tally.count, postprocess=postprocess)
      for outcome in parallel_map(count, examples, inference.num_threads(config)):
        tally.add(*outcome)
        progress.add()
    except _Stopped:
      return None
  return tally.metrics()


class _Tally:
  """Sums the counts of all images, and keeps some of the pictures."""

  def __init__(self, config: ml_collections.ConfigDict, source: Source):
    self._task, self._source, self._keep = tasks.of(config), source, config.eval.num_pictures
    wanted = np.linspace(0, len(source) - 1, min(self._keep, len(source))).astype(int)
    self._wanted, self._sample = set(wanted.tolist()), []
    self._totals, self._image_metrics = {}, []
    self._num_canvases = len(set(self._task.canvases(config, source)))
    self._best, self._worst = [], []  # Heaps; the row to drop next comes first.

  def count(self, result: tuple[Mapping, tuple], postprocess: Callable) -> tuple[int, Counts, Row]:
    """Counts one example with its prediction and loss, as from `inference.examples`; may run on any thread."""
    example, (output, loss) = result
    index, arrays = int(example["index"]), (example["image"], example["label"], output)
    image, label, output = (self._task.remove_padding(array, example["size"]) for array in arrays)
    prediction = postprocess(image, output)
    counts = self._task.count(self._source, index, label, prediction)
    row = Row(image, label, prediction, str(example["image_id"]), self._task.image_metric(counts))
    return index, {**counts, "loss": loss.astype(np.float64)}, row

  def add(self, index: int, counts: Counts, row: Row) -> None:
    for name, value in counts.items():
      self._totals[name] = self._totals.get(name, 0) + value
    self._image_metrics.append((index, row.metric))
    if index in self._wanted:
      self._sample.append((index, self._shrink(row)))
    if not np.isnan(row.metric):
      self._push(self._best, (row.metric, -index), row)
      self._push(self._worst, (-row.metric, -index), row)

  def _push(self, heap: list, rank: tuple, row: Row) -> None:
    if len(heap) < self._keep or (heap and heap[0][0] < rank):
      heapq.heappush(heap, (rank, self._shrink(row)))
    if len(heap) > self._keep:
      heapq.heappop(heap)

  def _shrink(self, row: Row) -> Row:
    arrays = (self._task.shrink(array, _ROW_WIDTH) for array in (row.image, row.label, row.prediction))
    return Row(*arrays, row.image_id, row.metric)

  def metrics(self) -> Metrics:
    """Returns the metrics over all hosts."""
    parts = sharding.all_gather((self._totals, self._image_metrics, self._sample, self._best, self._worst))
    totals, image_metrics, sample, best, worst = zip(*parts, strict=True)
    names = [name for part in totals for name in part]
    by_index = sorted(pair for part in image_metrics for pair in part)
    return self._task.Metrics(
      counts={name: sum(part[name] for part in totals if part) for name in dict.fromkeys(names)},
      image_metrics=np.array([metric for _, metric in by_index]),
      label_set=self._source.label_set,
      sample=[row for _, row in sorted((pair for part in sample for pair in part), key=lambda pair: pair[0])],
      best=_ranked(best, self._keep),
      worst=_ranked(worst, self._keep),
      num_canvases=self._num_canvases,
    )


def _ranked(heaps: tuple[list, ...], keep: int) -> list[Row]:
  """Returns the rows of all hosts' heaps, highest rank first."""
  return [row for _, row in sorted((pair for heap in heaps for pair in heap), key=lambda pair: pair[0])[::-1][:keep]]


def write_metrics(
  workdir: Workdir,
  config: ml_collections.ConfigDict,
  data: RunData,
  split: str,
  step: int,
  metrics: Metrics,
  trained_on: TrainingData,
) -> None:
  """Writes `eval_<split>.json`, prints the table by class, then writes the contact sheet `eval_<split>.png` and report.

  Args:
    workdir: workdir of the run.
    config: config of the evaluation.
    data: data sets of the config.
    split: name of the split.
    step: number of updates of the weights.
    metrics: metrics of the split.
    trained_on: record of the data that the weights were trained on.

  Raises ValueError if sheet or report cannot be drawn.
  """
  partial = {**trained_on.partial, **data.partial()}
  canvas = _describe_canvas(config, metrics, trained_on)
  result = {
    "dataset": config.data.dataset,
    "split": split,
    "step": step,
    "num_images": metrics.num_images,
    "loss": metrics.loss if np.isfinite(metrics.loss) else None,
    "partial": partial,
    "eval": json.loads(config.eval.to_json()),
    **canvas,
    **{name: None if np.isnan(value) else value for name, value in metrics.scalars.items()},
    **metrics.details(),
  }
  workdir.write_json(f"eval_{split}.json", result)  # First: nobody may be there any more to print for.
  print(f"\n{config.data.dataset} {split}, step {step}, {metrics.num_images} images, loss {metrics.loss:.4f}")
  print(metrics.table(), flush=True)
  for dataset, counts in partial.items():
    print(f"PARTIAL DATA: {dataset} {printable(', '.join(counts))}", flush=True)
  if "eval_size_of_training" in canvas:
    print(f"OTHER CANVAS: eval_size {canvas['eval_size']}, in training {canvas['eval_size_of_training']}", flush=True)
  try:
    if metrics.sample:
      overlay.save(workdir / f"eval_{split}.png", metrics.sheet(metrics.sample))
    if report.write(workdir, config, data, result, metrics):
      print(f"report: {printable(str(workdir / 'report.html'))}", flush=True)
  except Exception as error:  # Of whichever library draws.
    raise ValueError(
      f"{workdir}: the report could not be written ({one_line(error)[:300]}). The metrics are in eval_{split}.json."
    ) from error


def _describe_canvas(config: ml_collections.ConfigDict, metrics: Metrics, trained_on: TrainingData) -> dict[str, Any]:
  """Returns the rule of the canvas, the number of canvases, and the rule of the training if that was another."""
  rule = tuple(config.data.eval_size)
  described = {"eval_size": list(rule), "num_canvases": metrics.num_canvases}
  if trained_on.eval_size not in (None, rule):
    described["eval_size_of_training"] = list(trained_on.eval_size)
  return described
