"""Class-balanced sampling: draws a share of the training images by rare class."""

import json
import logging
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from gcn_flax import files, json_files
from gcn_flax.input_pipeline.examples import CorruptExample, Source
from gcn_flax.labels import IGNORE
from gcn_flax.parallel import parallel_map

_log = logging.getLogger(__name__)
_NUM_READERS = 8  # Threads that read labels.
_LOG_EVERY = 1_000  # Labels between two lines of progress.
_STREAM = 11  # Keeps these random numbers apart from others of the same seed and position.


class ClassBalancedSampler(Sequence):
  """Mixes a sequence of examples with examples drawn by class: `[position]` -> (source, index).

  The positions of the two kinds are spread evenly, so that each batch has its share of both. For a position of the
  second kind, a class is drawn with a probability proportional to 1 / sqrt(number of images that contain it), then one
  of these images, all alike. Each depends on (seed, position) only. The other positions go on through `sampler`
  without leaving out an example.

  Args:
    sampler: the sequence that is mixed in, such as a `MixtureSampler`.
    presence: for each source, which classes each image contains, bool `[N, C]`, as from `class_presence`.
    share: share of the positions drawn by class, from 0 to 1.
    seed: seed of the draws.

  Raises ValueError if no image contains any class.
  """

  def __init__(self, sampler: Sequence, presence: Sequence[np.ndarray], share: float, seed: int):
    self._sampler, self._share, self._seed = sampler, share, seed
    examples = np.array([(source, index) for source, rows in enumerate(presence) for index in range(len(rows))])
    contains = np.concatenate(presence)
    self._images = [examples[rows] for rows in contains.T if rows.any()]  # By class, for classes that occur.
    if not self._images:
      raise ValueError("config.data.class_balance: no training image has a class, all are void. Set it to 0.")
    weights = 1 / np.sqrt([len(images) for images in self._images])
    self._probabilities = weights / weights.sum()

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, position: int) -> tuple[int, int]:
    before = int(position * self._share)  # Number of earlier positions that are drawn by class.
    if int((position + 1) * self._share) == before:
      return self._sampler[position - before]
    rng = np.random.default_rng([self._seed, position, _STREAM])
    images = self._images[rng.choice(len(self._images), p=self._probabilities)]
    source, index = images[rng.integers(len(images))]
    return int(source), int(index)


def class_presence(source: Source, folder: pathlib.Path) -> np.ndarray:
  """Returns which classes each image of a split contains, bool `[N, C]`.

  The labels are read once, and the result is kept as `class_presence_<split>.json` in the folder, if that can be
  written. Damaged examples count as void; they are left to training, and nothing is kept.
  """
  path, num_classes = folder / f"class_presence_{source.split}.json", source.label_set.num_classes
  rows = _stored(path, len(source), num_classes)
  if rows is None:
    rows = _read_labels(source)
    if None not in rows:
      _store(path, rows)
  presence = np.zeros((len(source), num_classes), bool)
  for index, classes in enumerate(rows):
    presence[index, classes or []] = True
  return presence


def _stored(path: pathlib.Path, num_images: int, num_classes: int) -> list[list[int]] | None:
  fix = "Remove it; it is written again."
  try:
    rows = json_files.read(path, [[range(num_classes)]], fix)
    if len(rows) != num_images:
      raise ValueError(f"{path}: damaged ({len(rows)} entries for {num_images} images). {fix}")
    return rows
  except FileNotFoundError:
    return None
  except (ValueError, OSError) as error:
    _log.warning("WARNING: %s It is ignored.", error)
    return None


def _store(path: pathlib.Path, rows: list[list[int]]) -> None:
  try:
    files.write(path, json.dumps(rows))
  except OSError as error:  # The data set may be mounted for reading only.
    _log.info("%s could not be written (%s): the labels are read again at the next start.", path, error)


def _read_labels(source: Source) -> list[list[int] | None]:
  """Returns the classes in each label; None for a damaged one."""

  def classes(index: int) -> list[int] | None:
    try:
      found = np.flatnonzero(np.bincount(source.label(index).ravel(), minlength=IGNORE + 1))
    except CorruptExample as error:
      _log.warning("WARNING: %s", error)
      return None
    return found[found < source.label_set.num_classes].tolist()

  rows = []
  for row in parallel_map(classes, range(len(source)), _NUM_READERS):
    if len(rows) % _LOG_EVERY == 0:
      _log.info(
        "config.data.class_balance: reading the labels of %s %r, %s of %s",
        source.dataset, source.split, f"{len(rows):,}", f"{len(source):,}",
      )  # fmt: skip
    rows.append(row)
  return rows
