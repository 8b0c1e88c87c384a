"""The data sets of a run, each opened once, and the batches made of them."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import ml_collections

from gcn_flax import config as config_lib
from gcn_flax import tasks
from gcn_flax.input_pipeline import datasets, loader
from gcn_flax.input_pipeline.class_balance import ClassBalancedSampler
from gcn_flax.input_pipeline.datasets import Dataset
from gcn_flax.input_pipeline.examples import Source
from gcn_flax.labels import LabelSet


class RunData:
  """The data sets that a config trains on and evaluates. Each is opened on first use, and only once.

  Args:
    config: config of the run; `config.data` names the data sets.
  """

  def __init__(self, config: ml_collections.ConfigDict):
    self._config = config
    self._opened: dict[str, Dataset] = {}

  def with_config(self, config: ml_collections.ConfigDict) -> "RunData":
    """Returns the same data sets, which stay open, for a config that differs in other fields."""
    other = copy.copy(self)
    other._config = config
    return other

  def dataset(self, name: str) -> Dataset:
    """Returns a data set. Raises ValueError if it is unknown or not prepared."""
    if name not in self._opened:
      self._opened[name] = Dataset(name, self._config.data.data_dir)
    return self._opened[name]

  @property
  def label_set(self) -> LabelSet:
    """The classes of the data set that is evaluated, `config.data.dataset`."""
    return self.dataset(self._config.data.dataset).label_set

  def labelled_source(self, dataset: str, split: str) -> Source:
    """Returns a split with ground truth.

    Raises ValueError if it is not prepared, is empty, has no labels, or has other classes than `config.data.dataset`.
    """
    source = self.dataset(dataset).source(split)
    if not source.has_labels or not len(source):
      lack = "no ground truth" if len(source) else "no example"
      raise ValueError(f"{dataset} {split!r} has {lack}. Use another split.")
    if source.label_set.classes != self.label_set.classes:
      raise ValueError(
        f"{dataset} has other classes than config.data.dataset={self._config.data.dataset!r}. Train on data sets with "
        "the same classes."
      )
    return source

  def eval_source(self, split: str) -> Source:
    """Returns a split of the data set that is evaluated. Raises ValueError as `labelled_source`."""
    return self.labelled_source(self._config.data.dataset, split)

  def train_sources(self) -> list[Source]:
    """Returns the sources of `config.data.train_mix`. Raises ValueError as `labelled_source`."""
    return [self.labelled_source(dataset, split) for dataset, split, _ in self._config.data.train_mix]

  def record(self) -> dict[str, Any]:
    """Returns the facts that `run.json` keeps: counts, order of examples, classes, palette, fingerprints, lacks."""
    return {
      "data": self.counts(),
      "order": loader.ORDER,
      "classes": list(self.label_set.classes),
      "palette": [list(colour) for colour in self.label_set.palette],
      "fingerprints": self.fingerprints(),
      "partial": self.partial(),
    }

  def counts(self) -> dict[str, dict[str, int]]:
    """Returns the number of examples of each split of each prepared data set."""
    return {name: self.dataset(name).splits for name in self._prepared()}

  def fingerprints(self) -> dict[str, dict[str, Any]]:
    """Returns values by "data set split" that must not change while a run lasts."""
    mix = self._config.data.train_mix
    return {f"{dataset} {split}": self.dataset(dataset).fingerprint(split) for dataset, split, _ in mix}

  def partial(self) -> dict[str, list[str]]:
    """Returns the counts that differ from the published ones, by data set; complete data sets are left out."""
    found = {name: self.dataset(name).partial for name in self._prepared()}
    return {name: counts for name, counts in found.items() if counts}

  def _prepared(self) -> list[str]:
    data = self._config.data
    names = sorted({data.dataset, *(dataset for dataset, _, _ in data.train_mix)})
    return [name for name in names if name in self._opened or datasets.is_prepared(name, data.data_dir)]

  def train_sampler(self) -> Sequence[tuple[int, int]]:
    """Returns the order of the training examples, position -> (source, index).

    With `config.data.class_balance` it may read all labels first. Raises ValueError as `labelled_source`, for a weight
    too small to draw an example, and if every label is void.
    """
    config, data = self._config, self._config.data
    weights = [weight for _, _, weight in data.train_mix]
    sizes = [len(source) for source in self.train_sources()]
    sampler = loader.MixtureSampler(sizes, None if config_lib.ALL_ONCE in weights else weights, config.seed)
    if not data.class_balance:
      return sampler
    presence = [self.dataset(dataset).class_presence(split) for dataset, split, _ in data.train_mix]
    return ClassBalancedSampler(sampler, presence, data.class_balance, config.seed)

  def train_batches(self, first_step: int) -> Iterator[loader.Batch]:
    """Yields this host's augmented batches from `first_step` on. Raises ValueError as `labelled_source`."""
    config = self._config
    return loader.train_batches(
      self.train_sources(),
      self.train_sampler(),
      loader.host_shard(config.batch_size, first_step, config.total_steps),
      seed=config.seed,
      augment=tasks.of(config).augmentation(config),
      num_threads=config.data.num_threads,
      num_workers=config.data.num_workers,
      skip_corrupt=config.data.skip_corrupt,
    )


def eval_batches(config: ml_collections.ConfigDict, source: Sequence[Any]) -> Iterator[loader.Batch]:
  """Yields this host's share of batches that hold every example of a source once, each padded to its canvas."""
  task = tasks.of(config)
  return loader.eval_batches(
    source,
    task.canvases(config, source),
    config.eval.batch_size,
    fit=task.eval_transform(config),
    num_threads=config.data.num_threads,
    num_workers=config.data.num_workers,
  )
