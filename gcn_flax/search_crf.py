"""Looks for the parameters of the dense CRF on images with labels."""

import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from gcn_flax import build, files, inference
from gcn_flax.evaluation import confusion, crf
from gcn_flax.tasks import segmentation
from gcn_flax.training import sharding

_ITERATIONS = 10  # Where the config has 0, for none.
# What is tried, all with all; ours, about what DeepLab looks through (Chen et al., ICLR 2015).
_GRID = {"color_weight": (3.0, 5.0, 10.0), "color_xy": (30.0, 50.0, 80.0), "color_rgb": (3.0, 5.0, 10.0)}


def candidates(config: ml_collections.ConfigDict) -> list[crf.Parameters]:
  """What is tried: the config's own parameters, with every combination of the grid."""
  own = inference.crf_parameters(config)
  own = dataclasses.replace(own, iterations=own.iterations or _ITERATIONS)
  combinations = itertools.product(*_GRID.values())
  others = [dataclasses.replace(own, **dict(zip(_GRID, values, strict=True))) for values in combinations]
  return list(dict.fromkeys([own, *others]))


def search(
  config: ml_collections.ConfigDict, weights: dict[str, Any], split: str, workdir: files.Path
) -> list[tuple[crf.Parameters, float]]:
  """Mean IoU with each candidate and without any CRF on `config.eval.crf.search_images` images of a split, best first.

  Prints the table, with flags of the best, and writes `crf_<split>.json` into the workdir. The first of the
  result that has 0 iterations is the network alone.

  Raises ValueError where the CRF is not installed.
  """
  crf.check_installed()
  tried = candidates(config)
  config = config.copy_and_resolve_references()
  config.eval.crf.iterations = tried[0].iterations  # So that the network gives probabilities.
  setup = build.build(config)
  source = build.open_split(config, config.data.dataset, split)
  subset = _Subset(source, config.eval.crf.search_images)
  progress = inference.Progress(f"searching on {split}", -(-len(subset) // jax.process_count()))

  def examples() -> Iterator[tuple]:
    for example, output in inference.examples(setup, weights, build.eval_batches(config, subset)):
      arrays = example["image"], example["label"], output
      yield tuple(segmentation.crop(array, example["size"]) for array in arrays)

  total = np.zeros((1 + len(tried), *[source.label_set.num_classes] * 2), np.int64)
  with inference.crf_processes(config) as pool:

    def count(image: np.ndarray, label: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
      return pool.submit(crf.count_each, image, label, probabilities, tried).result()

    for counts in inference.each(count, examples(), inference.num_threads(config)):
      total = total + counts
      progress.add()
  total = sum(sharding.all_gather(total))
  without = dataclasses.replace(tried[0], iterations=0)
  scored = [
    (parameters, confusion.mean_iou(matrix)) for parameters, matrix in zip([without, *tried], total, strict=True)
  ]
  scored.sort(key=lambda pair: -pair[1])
  if jax.process_index() == 0:
    _report(scored, len(subset), split, workdir)
  return scored


def _report(scored: Sequence[tuple[crf.Parameters, float]], num_images: int, split: str, workdir: files.Path) -> None:
  print(f"\nmean IoU on {num_images} images of {split}")
  print(f"{'mean IoU %':>10}  {'  '.join(crf.FIELDS)}")
  for parameters, value in scored:
    shown = "no CRF" if not parameters.iterations else _columns(parameters)
    print(f"{100 * value:>10.2f}  {shown}")
  best = scored[0][0]
  flags = [f"--config.eval.crf.{name}={getattr(best, name)}" for name in crf.FIELDS]
  print("best: " + (" ".join(flags) if best.iterations else "no CRF"), flush=True)
  workdir.mkdir(parents=True, exist_ok=True)
  results = [{**dataclasses.asdict(parameters), "mean_iou": value} for parameters, value in scored]
  files.write(workdir / f"crf_{split}.json", json.dumps({"num_images": num_images, "tried": results}, indent=2) + "\n")


def _columns(parameters: crf.Parameters) -> str:
  return "  ".join(f"{getattr(parameters, name):>{len(name)}}" for name in crf.FIELDS)


class _Subset(Sequence):
  """Images of a source, spread evenly."""

  def __init__(self, source: Sequence, count: int):
    self._source = source
    self._places = np.linspace(0, len(source) - 1, min(count, len(source))).astype(int)

  def __len__(self) -> int:
    return len(self._places)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self._source[int(self._places[index])]
