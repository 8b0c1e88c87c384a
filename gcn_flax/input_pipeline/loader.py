"""Which examples make up which batch, and the threads that prepare them.

Examples stand on one endless line of positions. Global batch number `step` is
made of the positions `step * batch_size` up to the next batch's, whatever the
number of hosts; a host prepares one contiguous share of them. What stands at a
position follows from (seed, position) alone, so a run goes on at any step, on any
number of hosts, with nothing of the input saved.
"""

import bisect
import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np

from gcn_flax.input_pipeline.datasets import CorruptExample, Source

_log = logging.getLogger(__name__)
_REPLACEMENTS = 10  # Examples that are tried for one position.
Batch = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class HostShard(Sequence):
  """The positions that one host prepares: those of its part of each global batch.

  Attributes:
    batch_size: examples of a global batch.
    first_step, last_step: global batches from `first_step` up to but without `last_step`.
    process, num_processes: which host of how many.

  Raises ValueError where the batch does not divide by the number of hosts.
  """

  batch_size: int
  first_step: int
  last_step: int
  process: int
  num_processes: int

  def __post_init__(self):
    if self.batch_size % self.num_processes:
      raise ValueError(f"batch size {self.batch_size} must be a multiple of the {self.num_processes} hosts.")

  @property
  def size(self) -> int:
    """Examples of a batch on this host."""
    return self.batch_size // self.num_processes

  def __len__(self) -> int:
    return max(0, self.last_step - self.first_step) * self.size

  def __getitem__(self, index: int) -> int:
    step, offset = divmod(int(index), self.size)
    return (self.first_step + step) * self.batch_size + self.process * self.size + offset


def host_shard(batch_size: int, first_step: int, last_step: int) -> HostShard:
  """The share of the process that asks."""
  return HostShard(batch_size, first_step, last_step, jax.process_index(), jax.process_count())


class MixtureSampler(Sequence):
  """The endless line of a mix of sources: `[position]` -> (source, index).

  An epoch has as many positions as the sources have examples together, in a
  random order of their own, over all sources at once. Without weights every
  example stands in each epoch once. With weights a source has its share of each epoch's
  positions, and goes through its own examples, in an order of its own that is
  drawn anew each time, so that none comes twice before all have come.

  Args:
    sizes: number of examples of each source.
    weights: share of each source, in any unit; None for all examples once.
    seed: of every order.

  Raises ValueError where a weight is so small that its source would never be seen.
  """

  def __init__(self, sizes: Sequence[int], weights: Sequence[float] | None, seed: int):
    self._total, self._seed = sum(sizes), seed
    self._ends = list(itertools.accumulate(sizes))
    self._counts = None if weights is None else _shares(self._total, weights)
    if self._counts and not all(self._counts):
      raise ValueError(f"weights {tuple(weights)} give a source none of the {self._total} positions of an epoch.")
    self._slots = _endless(self._total, seed)
    seeds = np.random.SeedSequence(seed).generate_state(len(sizes))
    self._lines = [_endless(size, int(own)) for size, own in zip(sizes, seeds, strict=True)]
    self._epochs = {}

  def __len__(self) -> int:
    return len(self._slots)

  def __getitem__(self, position: int) -> tuple[int, int]:
    if self._counts:
      epoch, place = divmod(position, self._total)
      owners, ranks = self._epoch(epoch)
      source = int(owners[place])
      return source, self._lines[source][epoch * self._counts[source] + int(ranks[place])]
    slot = self._slots[position]
    source = bisect.bisect_right(self._ends, slot)
    return source, slot - (self._ends[source - 1] if source else 0)

  def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """(whose turn it is, how many of its turns came before) at each position of an epoch of a weighted mix."""
    table = self._epochs.get(epoch)
    if table is None:
      rng = np.random.default_rng([self._seed, epoch])
      owners = rng.permutation(np.repeat(np.arange(len(self._counts)), self._counts))
      ranks = np.empty(self._total, np.int64)
      for source, count in enumerate(self._counts):
        ranks[owners == source] = np.arange(count)
      table = owners, ranks
      # Threads read ahead across the border of two epochs; others are let go of.
      kept = {other: made for other, made in self._epochs.items() if abs(other - epoch) <= 1}
      self._epochs = {**kept, epoch: table}
    return table


def _endless(size: int, seed: int) -> grain.MapDataset:
  """A new permutation of `0 ... size - 1` in each epoch."""
  return grain.MapDataset.range(size).shuffle(seed=seed).repeat()


def _shares(total: int, weights: Sequence[float]) -> list[int]:
  """Whole numbers in the proportion of the weights that add up to `total` (largest remainders)."""
  exact = [total * weight / sum(weights) for weight in weights]
  counts = [int(share) for share in exact]
  order = sorted(range(len(exact)), key=lambda index: counts[index] - exact[index])
  for index in order[: total - sum(counts)]:
    counts[index] += 1
  return counts


def train_batches(
  sources: Sequence[Source],
  order: MixtureSampler,
  share: HostShard,
  *,
  seed: int,
  augment: Callable,
  num_threads: int,
  num_workers: int,
  skip_corrupt: bool = False,
) -> Iterator[Batch]:
  """Yields this host's part of each batch: `image` uint8 `[b, H, W, 3]`, `label` uint8 `[b, H, W]` or int32 `[b]`.

  Beside them `image_id` str `[b]`, and `skipped` int32 `[b]`, how many damaged examples stood in an example's place.

  Args:
    sources: labelled examples.
    order: which example stands at a position.
    share: the positions to prepare.
    seed: of augmentation.
    augment: `(example, rng) -> example` of a fixed size.
    num_threads: that decode and augment, in each worker.
    num_workers: processes, 0 for threads of this one alone.
    skip_corrupt: take another example of the source, drawn by (seed, position), in place of a damaged one.

  Raises CorruptExample, while it is read, for a damaged example, or with `skip_corrupt` where most are.
  """

  def prepare(position: int) -> Batch:
    source, index = order[position]
    example, skipped = read(sources[source], index, position)
    example = augment(example, np.random.default_rng([seed, position]))
    parts = {name: example[name] for name in ("image", "label", "image_id")}
    return {**parts, "skipped": np.int32(skipped)}

  def read(source: Source, index: int, position: int) -> tuple[dict[str, Any], int]:
    rng = np.random.default_rng([seed, position, _REPLACEMENTS])
    for skipped in range(_REPLACEMENTS):
      try:
        return source[index], skipped
      except CorruptExample as error:
        if not skip_corrupt:
          raise CorruptExample(f"{error}, or leave such examples out by config.data.skip_corrupt=True.") from error
        _log.warning("WARNING: skipped: %s", error)
        index = int(rng.integers(len(source)))
    raise CorruptExample(f"{source.dataset} {source.split!r}: {_REPLACEMENTS} examples in a row are damaged.")

  return _batches(share, prepare, num_threads, num_workers)


def eval_batches(
  source: Source, share: HostShard, *, fit: Callable, num_threads: int, num_workers: int
) -> Iterator[Batch]:
  """Yields every example once, in order; the last batch is filled up with repetitions of the first example.

  Beside `image`, and `label` where the source has labels, there are `index` int32 `[b]`, the example's place in the
  source, -1 for a filling one, and `size` int32 `[b, 2]`, the image's height and width as stored.

  Args:
    source: examples.
    share: the positions to prepare; those past the source's end are filled up.
    fit: `example -> example` of a fixed size.
    num_threads: that decode, in each worker.
    num_workers: processes, 0 for threads of this one alone.
  """

  def prepare(position: int) -> Batch:
    filling = position >= len(source)
    example = source[0 if filling else position]
    size = np.array(example["image"].shape[:2], np.int32)
    example = fit(example)
    del example["image_id"]
    return {**example, "index": np.int32(-1 if filling else position), "size": size}

  return _batches(share, prepare, num_threads, num_workers)


def num_eval_steps(num_examples: int, batch_size: int) -> int:
  """Batches that cover every example once."""
  return -(-num_examples // batch_size)


def _batches(share: HostShard, prepare: Callable, num_threads: int, num_workers: int) -> Iterator[Batch]:
  # Batching before the threads makes one batch the unit of work: its content is the same for any number of them.
  dataset = grain.MapDataset.source(share).map(prepare).batch(share.size)
  options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=num_threads + 1)
  dataset = dataset.to_iter_dataset(options)
  if num_workers:
    dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))
  return iter(dataset)
