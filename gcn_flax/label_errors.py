"""Finds masks of a split that may be wrong, because a confident network contradicts them."""

import dataclasses
import heapq
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np

from gcn_flax import build, files, inference
from gcn_flax.evaluation.suspicious_regions import MAX_LABEL_PROBABILITY, Region, find_regions
from gcn_flax.input_pipeline.examples import Source
from gcn_flax.labels import LabelSet
from gcn_flax.parallel import parallel_map
from gcn_flax.preflight import check_one_host, check_page_libraries, check_pixels, preflight
from gcn_flax.printable import printable
from gcn_flax.reporting import label_errors_page
from gcn_flax.run_data import eval_batches
from gcn_flax.tasks import segmentation
from gcn_flax.visualize import tables
from gcn_flax.visualize.crops import Crop, crop_region
from gcn_flax.workdir.trained import Trained, load_trained
from gcn_flax.workdir.workdir import Workdir

_MAX_REGIONS = 100  # In the results.
_MAX_PRINTED = 10


@dataclasses.dataclass(frozen=True)
class Finding:
  """A region whose label may be wrong.

  Attributes:
    image_id: name of the image.
    index: number of the image in the split.
    region: the region.
    crop: its surroundings.
  """

  image_id: str
  index: int
  region: Region
  crop: Crop

  def to_json(self, label_set: LabelSet) -> dict[str, Any]:
    """Returns the finding as an object for JSON, without the picture."""
    rows, columns = self.region.box
    return {
      "image_id": self.image_id,
      "index": self.index,
      "labelled": label_set.classes[self.region.labelled],
      "predicted": label_set.classes[self.region.predicted],
      "score": self.region.score,
      "pixels": self.region.num_pixels,
      "box": [rows.start, columns.start, rows.stop, columns.stop],
      "labelled_probability": self.region.labelled_probability,
      "predicted_probability": self.region.predicted_probability,
    }


def run(
  config: ml_collections.ConfigDict, workdir: Workdir | files.Path | str, split: str = "", checkpoint: str = "best"
) -> list[Finding]:
  """Ranks the regions of a split whose labels may be wrong; writes `label_errors_<split>.json` and `.html`.

  Prints the first ten. Sliding window, scales and flips are those of `config.eval`; a CRF is not applied.

  Args:
    config: config of the network and the evaluation.
    workdir: workdir of the run.
    split: split of `config.data.dataset`; by default the one that the network was trained on.
    checkpoint: `best`, `last` or a step.

  Returns:
    The most suspicious regions, at most 100, in this order.

  Raises:
    ValueError: for what `preflight` and `load_trained` reject.
  """
  check_pixels(config, "label_errors")
  check_one_host("label_errors")
  check_page_libraries()
  workdir, split = Workdir(workdir), split or _training_split(config)
  workdir.check_writable(*(f"label_errors_{split}.{suffix}" for suffix in ("json", "html")))
  data = preflight(config, workdir, split=split)
  trained = load_trained(config, workdir, checkpoint, data.label_set)
  ranking = rank(config, trained, data.eval_source(split))
  result = {"dataset": config.data.dataset, "split": split, "step": trained.step, **ranking.to_json()}
  page = label_errors_page.render(result, [finding.crop for finding in ranking.findings()], data.label_set)
  print(tables.label_errors_table(result, _MAX_PRINTED), flush=True)
  workdir.write_json(f"label_errors_{split}.json", result)
  workdir.write(f"label_errors_{split}.html", page)
  print(f"wrote label_errors_{split}.json and label_errors_{split}.html to {printable(workdir)}")
  return ranking.findings()


def _training_split(config: ml_collections.ConfigDict) -> str:
  """Returns the first split of the data set that the config trains on; the evaluation split if there is none."""
  splits = (split for dataset, split, _ in config.data.train_mix if dataset == config.data.dataset)
  return next(splits, config.data.eval_split)


def rank(config: ml_collections.ConfigDict, trained: Trained, source: Source) -> "Ranking":
  """Ranks the suspicious regions of all images of a labelled split."""
  setup = build.with_probabilities(config, trained.setup)
  ranking, progress = Ranking(source.label_set), inference.Progress(f"searching {source.split}", len(source))
  examples = inference.examples(setup, trained.weights, eval_batches(config, source))
  for image in parallel_map(_judge, examples, config.data.num_threads):
    ranking.add(image)
    progress.add()
  return ranking


@dataclasses.dataclass(frozen=True)
class _JudgedImage:
  """An image with its mask, its prediction and the regions where they differ."""

  image_id: str
  index: int
  image: np.ndarray
  label: np.ndarray
  prediction: np.ndarray
  regions: list[Region]


def _judge(result: tuple[Mapping[str, Any], np.ndarray]) -> _JudgedImage:
  """Finds the suspicious regions of one example with its probabilities, as from `inference.examples`."""
  example, output = result
  arrays = (example["image"], example["label"], output)
  image, label, probabilities = (segmentation.remove_padding(array, example["size"]) for array in arrays)
  prediction, regions = probabilities.argmax(-1).astype(np.uint8), find_regions(label, probabilities)
  return _JudgedImage(str(example["image_id"]), int(example["index"]), image, label, prediction, regions)


class Ranking:
  """Keeps the most suspicious regions of a split, and the suspicion of each image.

  Args:
    label_set: the classes.
  """

  def __init__(self, label_set: LabelSet):
    self._label_set, self._num_images, self._num_regions = label_set, 0, 0
    self._heap, self._images = [], []  # The least suspicious of the kept regions comes first.

  def add(self, judged: _JudgedImage) -> None:
    """Adds the regions of an image."""
    self._num_images += 1
    self._num_regions += len(judged.regions)
    if judged.regions:
      score = sum(region.score for region in judged.regions)
      self._images.append((score, judged.image_id, judged.index, len(judged.regions)))
    for number, region in enumerate(judged.regions):
      rank = (region.score, -judged.index, -number)
      if len(self._heap) == _MAX_REGIONS and rank < self._heap[0][0]:
        break  # The regions of an image come in the order of their scores.
      crop = crop_region(judged.image, judged.label, judged.prediction, region.mask, region.box)
      heapq.heappush(self._heap, (rank, Finding(judged.image_id, judged.index, region, crop)))
      if len(self._heap) > _MAX_REGIONS:
        heapq.heappop(self._heap)

  def findings(self) -> list[Finding]:
    """Returns the most suspicious regions, at most 100, in this order."""
    return [finding for _, finding in sorted(self._heap, key=lambda pair: pair[0], reverse=True)]

  def to_json(self) -> dict[str, Any]:
    """Returns regions and images, the most suspicious first, as an object for JSON."""
    return {
      "num_images": self._num_images,
      "num_regions": self._num_regions,
      "max_label_probability": MAX_LABEL_PROBABILITY,
      "regions": [finding.to_json(self._label_set) for finding in self.findings()],
      "images": [
        {"image_id": image_id, "index": index, "score": score, "regions": count}
        for score, image_id, index, count in sorted(self._images, reverse=True)
      ],
    }
