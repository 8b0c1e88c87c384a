"""Batches of a training or evaluation step: sampling, host shards, and the threads that prepare examples.

Training examples form one endless sequence of positions. The global batch of a step consists of the positions from
`step * batch_size` up to the next batch, whatever the number of hosts; each host prepares a contiguous shard of them.
The example at a position, and its augmentation, depend only on (seed, position), so a run can continue at any step on
any number of hosts without any saved state of the input pipeline.
"""

import bisect
import dataclasses
import functools
import itertools
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np

from gcn_flax.input_pipeline.canvas import Canvas, batches_by_canvas
from gcn_flax.input_pipeline.examples import CorruptExample, Source
from gcn_flax.rounding import round_up
from gcn_flax.workers import follow_parent, shielded_start

_log = logging.getLogger(__name__)
ORDER = 2  # Version of the order of examples; 1 was that of workdirs whose run.json names none.
_MAX_TRIES = 10  # Examples tried for one position before giving up.
Batch = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class HostShard(Sequence):
  """The positions that one host prepares: its shard of each global batch.

  Attributes:
    batch_size: examples in a global batch.
    first_step, last_step: range of steps, `last_step` excluded.
    process, num_processes: index of the host, and number of hosts.

  Raises:
    ValueError: if the batch size is not a multiple of the number of hosts.
  """

  batch_size: int
  first_step: int
  last_step: int
  process: int
  num_processes: int

  def __post_init__(self):
    if self.batch_size % self.num_processes:
      size = round_up(self.batch_size, self.num_processes)
      raise ValueError(
        f"batch size {self.batch_size}: must be a multiple of the {self.num_processes} hosts. Use for instance {size}."
      )

  @property
  def size(self) -> int:
    """Number of examples per batch on this host."""
    return self.batch_size // self.num_processes

  def __len__(self) -> int:
    return max(0, self.last_step - self.first_step) * self.size

  def __getitem__(self, index: int) -> int:
    step, offset = divmod(int(index), self.size)
    return (self.first_step + step) * self.batch_size + self.process * self.size + offset


def host_shard(batch_size: int, first_step: int, last_step: int) -> HostShard:
  """Returns the shard of the calling process."""
  return HostShard(batch_size, first_step, last_step, jax.process_index(), jax.process_count())


class MixtureSampler(Sequence):
  """An endless random sequence over a mixture of sources: `[position]` -> (source, index).

  An epoch has as many positions as all sources together have examples, and is shuffled over all sources. Without
  weights each epoch contains every example exactly once. With weights each source fills its share of the epoch with
  its own examples in random order, and none repeats before all of them have been used.

  Args:
    sizes: number of examples of each source.
    weights: relative sampling rate of each source; None for every example once per epoch.
    seed: seed of all random orders.

  Raises:
    ValueError: if a weight is so small that its source would never be sampled.
  """

  def __init__(self, sizes: Sequence[int], weights: Sequence[float] | None, seed: int):
    self._total, self._seed = sum(sizes), seed
    self._ends = list(itertools.accumulate(sizes))
    self._counts = None if weights is None else _shares(self._total, weights)
    if self._counts and not all(self._counts):
      raise ValueError(
        f"config.data.train_mix: with the weights {tuple(weights)} a data set gets none of the {self._total} examples "
        "of an epoch. Raise its weight."
      )
    self._sizes = list(sizes)
    self._epochs = {}

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, position: int) -> tuple[int, int]:
    if self._counts:
      epoch, slot = divmod(position, self._total)
      owners, ranks = self._epoch(epoch)
      source = int(owners[slot])
      used = epoch * self._counts[source] + int(ranks[slot])  # Examples that the source has given before.
      return source, _shuffled(used, self._sizes[source], self._seed, source)
    slot = _shuffled(position, self._total, self._seed, len(self._sizes))
    source = bisect.bisect_right(self._ends, slot)
    return source, slot - (self._ends[source - 1] if source else 0)

  def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (source, number of its earlier examples in the epoch) for each position of a weighted epoch."""
    table = self._epochs.get(epoch)
    if table is None:
      rng = np.random.default_rng([self._seed, epoch])
      owners = rng.permutation(np.repeat(np.arange(len(self._counts)), self._counts))
      ranks = np.empty(self._total, np.int64)
      for source, count in enumerate(self._counts):
        ranks[owners == source] = np.arange(count)
      table = owners, ranks
      # Threads read ahead into the next epoch; tables of older epochs are dropped.
      kept = {other: made for other, made in self._epochs.items() if abs(other - epoch) <= 1}
      self._epochs = {**kept, epoch: table}
    return table


def _shuffled(position: int, size: int, seed: int, stream: int) -> int:
  """Returns the element at a position of an endless sequence: a new permutation of `0 ... size - 1` in each epoch.

  Sequences of different seeds or streams are independent of each other.
  """
  epoch, index = divmod(position, size)
  return _permutation(size, seed, stream, epoch)[index]


@functools.lru_cache(maxsize=64)
def _permutation(size: int, seed: int, stream: int, epoch: int) -> grain.MapDataset:
  # Hashed, because with `shuffle(seed).repeat()` epoch 1 of a seed is epoch 0 of the next one.
  hashed = np.random.SeedSequence([seed, stream, epoch]).generate_state(1)[0]
  return grain.MapDataset.range(size).shuffle(seed=int(hashed))


def _shares(total: int, weights: Sequence[float]) -> list[int]:
  """Splits `total` into integers proportional to the weights (largest remainder method)."""
  exact = [total * weight / sum(weights) for weight in weights]
  counts = [int(share) for share in exact]
  order = sorted(range(len(exact)), key=lambda index: counts[index] - exact[index])
  for index in order[: total - sum(counts)]:
    counts[index] += 1
  return counts


def train_batches(
  sources: Sequence[Source],
  sampler: Sequence[tuple[int, int]],
  shard: HostShard,
  *,
  seed: int,
  augment: Callable,
  num_threads: int,
  num_workers: int,
  skip_corrupt: bool = False,
) -> Iterator[Batch]:
  """Yields this host's shard of each training batch.

  A batch holds `image` uint8 `[b, H, W, 3]`, `label` uint8 `[b, H, W]` or int32 `[b]`, `image_id` str `[b]`, and
  `skipped` int32 `[b]`, the number of damaged examples that each example replaces.

  Args:
    sources: labelled data sets.
    sampler: maps positions to (source, index), as `MixtureSampler`.
    shard: positions to prepare.
    seed: seed of augmentation.
    augment: `(example, rng) -> example` of a fixed size.
    num_threads: threads that decode and augment, per worker.
    num_workers: worker processes; 0 for threads of this process.
    skip_corrupt: replace a damaged example by another one of its source, drawn from (seed, position).

  Raises:
    CorruptExample: during iteration, for a damaged example; with `skip_corrupt`, for many in a row.
  """

  def prepare(position: int) -> Batch:
    source, index = sampler[position]
    example, skipped = read(sources[source], index, position)
    example = augment(example, np.random.default_rng([seed, position]))
    parts = {name: example[name] for name in ("image", "label", "image_id")}
    return {**parts, "skipped": np.int32(skipped)}

  def read(source: Source, index: int, position: int) -> tuple[dict[str, Any], int]:
    rng = np.random.default_rng([seed, position, _MAX_TRIES])
    for skipped in range(_MAX_TRIES):
      try:
        return source[index], skipped
      except CorruptExample as error:
        if not skip_corrupt:
          raise CorruptExample(f"{error}, or set config.data.skip_corrupt=True to skip such examples.") from error
        _log.warning("WARNING: skipped: %s", error)
        index = int(rng.integers(len(source)))
    raise CorruptExample(f"{source.dataset} {source.split!r}: {_MAX_TRIES} examples in a row are damaged.")

  return _iterate(grain.MapDataset.source(shard).map(prepare).batch(shard.size), num_threads, num_workers)


def eval_batches(
  source: Source,
  canvases: Sequence[Canvas],
  batch_size: int,
  *,
  fit: Callable,
  num_threads: int,
  num_workers: int,
) -> Iterator[Batch]:
  """Yields this host's shard of batches that together hold every example once; each batch has one canvas.

  A batch holds `image`, `label` if the source has labels, `index` int32 `[b]`, the example's index in the source or -1
  for copies that fill it up, and `size` int32 `[b, 2]`, the stored height and width of the image.

  Args:
    source: data set to read.
    canvases: (height, width) of each example after `fit`; all hosts must give the same.
    batch_size: max number of examples in a global batch.
    fit: `example -> example` padded to its canvas.
    num_threads: threads that decode, per worker.
    num_workers: worker processes; 0 for threads of this process.

  Raises CorruptExample, during iteration, for a damaged example and for one whose size is not the stored one.
  """

  def prepare(index: int, copied: int) -> Batch:
    example = source[copied if index < 0 else index]
    size = np.array(example["image"].shape[:2], np.int32)
    fitted = fit(example)
    if fitted["image"].shape[:2] != canvases[copied]:
      raise CorruptExample(
        f"{example['image_id']}: its size {size[0]} x {size[1]} is not the one stored with the data set; prepare the "
        "data set again."
      )
    return {**fitted, "index": np.int32(index), "size": size}

  def prepare_batch(indices: np.ndarray) -> Batch:
    host_shard = indices.reshape(jax.process_count(), -1)[jax.process_index()]
    examples = [prepare(index, indices[0]) for index in host_shard]
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}

  batches = batches_by_canvas(canvases, batch_size, jax.device_count())
  return _iterate(grain.MapDataset.source(batches).map(prepare_batch), num_threads, num_workers)


def _iterate(dataset: grain.MapDataset, num_threads: int, num_workers: int) -> Iterator[Batch]:
  # A batch is the unit of work, so its content does not depend on the number of threads.
  options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=num_threads + 1)
  dataset = dataset.to_iter_dataset(options)
  if num_workers:
    dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers), lambda *_: follow_parent())
  with shielded_start():
    iterator = iter(dataset)
    first = list(itertools.islice(iterator, 1))
  try:
    yield from first
    yield from iterator
  except RuntimeError as error:
    if "Worker process was terminated" not in str(error):
      raise
    raise ChildProcessError(
      f"config.data.num_workers={num_workers}: a worker process was killed, perhaps for want of memory. Lower it, and "
      "repeat the command."
    ) from error
  finally:
    iterator.close()  # Ends the workers and frees the shared memory of the batches that wait.
