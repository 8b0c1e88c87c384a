"""Searches the parameters of the dense CRF on labelled images."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from gcn_flax import files, inference
from gcn_flax.evaluation import confusion, crf
from gcn_flax.input_pipeline.examples import Source
from gcn_flax.parallel import parallel_map
from gcn_flax.preflight import check_pixels, preflight
from gcn_flax.rounding import ceil_div
from gcn_flax.run_data import eval_batches
from gcn_flax.tasks import segmentation
from gcn_flax.training import sharding
from gcn_flax.workdir.trained import Trained, load_trained
from gcn_flax.workdir.workdir import Workdir

_ITERATIONS = 10  # If the config has 0, for no CRF.
# All combinations are tried; ours, close to the range that DeepLab searches (Chen et al., ICLR 2015).
_GRID = {"color_weight": (3.0, 5.0, 10.0), "color_xy": (30.0, 50.0, 80.0), "color_rgb": (3.0, 5.0, 10.0)}


def candidates(config: ml_collections.ConfigDict, grid: Mapping[str, Sequence[float]] = _GRID) -> list[crf.Parameters]:
  """Returns the parameters to try: the config's own, and every combination of the grid."""
  own = inference.crf_parameters(config)
  own = dataclasses.replace(own, iterations=own.iterations or _ITERATIONS)
  combinations = itertools.product(*grid.values())
  others = [dataclasses.replace(own, **dict(zip(grid, values, strict=True))) for values in combinations]
  return list(dict.fromkeys([own, *others]))


def run(
  config: ml_collections.ConfigDict, workdir: Workdir | files.Path | str, split: str = "", checkpoint: str = "best"
) -> list[tuple[crf.Parameters, float]]:
  """Computes the mean IoU of each candidate and without a CRF, on `config.eval.crf.search_images` images of a split.

  Prints the table and the flags of the best, and writes `crf_<split>.json`.

  Args:
    config: config of the network and the evaluation.
    workdir: workdir of the run.
    split: split of `config.data.dataset`; by default `config.data.eval_split`.
    checkpoint: `best`, `last` or a step.

  Returns:
    (parameters, mean IoU), best first; the entry with 0 iterations is the network alone.

  Raises ValueError if the CRF is not installed, and for what `preflight` and `load_trained` reject.
  """
  workdir, split = Workdir(workdir), split or config.data.eval_split
  check_pixels(config, "search_crf")
  tried = candidates(config)
  config = config.copy_and_resolve_references()
  config.eval.crf.iterations = tried[0].iterations  # So that the network returns probabilities.
  data = preflight(config, workdir, split=split)
  trained = load_trained(config, workdir, checkpoint, data.label_set)
  source = data.eval_source(split)
  found = search(config, trained, source, tried)
  if jax.process_index() == 0:
    report(found, min(config.eval.crf.search_images, len(source)), split, workdir)
  return found


def search(
  config: ml_collections.ConfigDict, trained: Trained, source: Source, tried: Sequence[crf.Parameters]
) -> list[tuple[crf.Parameters, float]]:
  """Computes the mean IoU of each of `tried` and without a CRF; returns (parameters, mean IoU), best first."""
  subset = Subset(source, config.eval.crf.search_images)
  progress = inference.Progress(f"searching on {source.split}", ceil_div(len(subset), jax.process_count()))

  def examples() -> Iterator[tuple]:
    for example, output in inference.examples(trained.setup, trained.weights, eval_batches(config, subset)):
      arrays = example["image"], example["label"], output
      yield tuple(segmentation.remove_padding(array, example["size"]) for array in arrays)

  total = np.zeros((1 + len(tried), *[source.label_set.num_classes] * 2), np.int64)
  with inference.crf_processes(config) as pool:

    def count(example: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
      return pool.submit(crf.count_each, *example, tried).result()

    for counts in parallel_map(count, examples(), inference.num_threads(config)):
      total = total + counts
      progress.add()
  total = sum(sharding.all_gather(total))
  without = dataclasses.replace(tried[0], iterations=0)
  scored = [
    (parameters, confusion.mean_iou(matrix)) for parameters, matrix in zip([without, *tried], total, strict=True)
  ]
  return sorted(scored, key=lambda pair: -pair[1])


def report(scored: Sequence[tuple[crf.Parameters, float]], num_images: int, split: str, workdir: Workdir) -> None:
  """Prints the table and the flags of the best, and writes `crf_<split>.json`."""
  print(f"\nmean IoU on {num_images} images of {split}")
  print(f"{'mean IoU %':>10}  {'  '.join(crf.FIELDS)}")
  for parameters, value in scored:
    shown = "no CRF" if not parameters.iterations else _columns(parameters)
    print(f"{100 * value:>10.2f}  {shown}")
  best = scored[0][0]
  flags = [f"--config.eval.crf.{name}={getattr(best, name)}" for name in crf.FIELDS]
  print("best: " + (" ".join(flags) if best.iterations else "no CRF"), flush=True)
  results = [{**dataclasses.asdict(parameters), "mean_iou": value} for parameters, value in scored]
  workdir.write_json(f"crf_{split}.json", {"num_images": num_images, "tried": results})


def _columns(parameters: crf.Parameters) -> str:
  return "  ".join(f"{getattr(parameters, name):>{len(name)}}" for name in crf.FIELDS)


class Subset(Sequence):
  """Images spread evenly over a source."""

  def __init__(self, source: Source, count: int):
    self._source = source
    self._places = np.linspace(0, len(source) - 1, min(count, len(source))).astype(int)

  def __len__(self) -> int:
    return len(self._places)

  @property
  def sizes(self) -> np.ndarray:
    """(Height, width) of each image in pixels, int32 `[N, 2]`."""
    return self._source.sizes[self._places]

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self._source[int(self._places[index])]
