"""Inference: from batches of images to the prediction of each image, for evaluation, prediction and submission."""

import collections
import concurrent.futures
import contextlib
import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import ml_collections
import numpy as np

from gcn_flax import build
from gcn_flax.compile_watch import compiling
from gcn_flax.evaluation import crf
from gcn_flax.input_pipeline import loader
from gcn_flax.training import sharding
from gcn_flax.workers import follow_parent, shielded_start

_log = logging.getLogger(__name__)
_PROGRESS_SECONDS = 15


def run(
  setup: build.Setup, weights: dict[str, Any], batches: Iterable[loader.Batch], with_loss: bool = False
) -> Iterator[tuple[loader.Batch, Any]]:
  """Yields this host's batches with their predictions, or `(predictions, losses)`; the devices are one batch ahead.

  Losses are float32 `[b, 2]`, see the task's `inference`; the batches must then have labels.
  """
  waiting, shapes = collections.deque(), set()
  for batch in batches:
    inputs, shape = sharding.shard_eval_batch(batch, setup.mesh, with_loss), batch["image"].shape
    with contextlib.nullcontext() if shape in shapes else compiling("inference on images of {1} x {2}".format(*shape)):
      waiting.append((batch, setup.eval_step(weights, inputs)))
    shapes.add(shape)
    if len(waiting) > 1:
      batch, outputs = waiting.popleft()
      yield batch, jax.tree.map(sharding.local_examples, outputs)
  for batch, outputs in waiting:
    yield batch, jax.tree.map(sharding.local_examples, outputs)


def examples(
  setup: build.Setup, weights: dict[str, Any], batches: Iterable[loader.Batch], with_loss: bool = False
) -> Iterator[tuple[loader.Batch, Any]]:
  """Yields each example of `loader.eval_batches` with its prediction, or `(prediction, loss)`, float32 `[2]`.

  Examples that fill up a batch are left out.
  """
  for batch, outputs in run(setup, weights, batches, with_loss):
    for place in np.flatnonzero(batch["index"] >= 0):
      yield _example(batch, place), _example(outputs, place)


def _example(batch: Any, place: int) -> Any:
  return jax.tree.map(lambda array: array[place], batch)


@contextlib.contextmanager
def crf_postprocessing(config: ml_collections.ConfigDict) -> Iterator[Callable[[np.ndarray, np.ndarray], np.ndarray]]:
  """Yields `(image, prediction) -> label map`: dense CRF post-processing in separate processes, or the identity."""
  if not config.eval.crf.iterations:
    yield lambda image, output: output
    return
  parameters = crf_parameters(config)
  with crf_processes(config) as pool:
    yield lambda image, output: pool.submit(crf.postprocess, image, output, parameters).result()


def crf_parameters(config: ml_collections.ConfigDict) -> crf.Parameters:
  """Returns the CRF parameters of a config."""
  return crf.Parameters(**{name: config.eval.crf[name] for name in crf.FIELDS})


def num_threads(config: ml_collections.ConfigDict) -> int:
  """Returns the number of images to process at once: one for each CRF process, if there is a CRF."""
  settings = config.eval.crf
  return (settings.num_workers or os.cpu_count()) if settings.iterations else config.data.num_threads


def crf_processes(config: ml_collections.ConfigDict) -> concurrent.futures.ProcessPoolExecutor:
  """Starts processes for the CRF, which holds the GIL; spawned, because forking is unsafe with JAX's threads."""
  pool = concurrent.futures.ProcessPoolExecutor(
    num_threads(config), multiprocessing.get_context("spawn"), follow_parent
  )
  with shielded_start():
    pool.submit(os.getpid)  # The first task starts all processes.
  return pool


class Progress:
  """Logs from time to time how many images are done, and the time left."""

  def __init__(self, what: str, total: int):
    self._what, self._total, self._done = what, total, 0
    self._started = self._reported = time.monotonic()

  def add(self) -> None:
    """Counts one more image as done."""
    self._done += 1
    now = time.monotonic()
    if now - self._reported > _PROGRESS_SECONDS:
      left = (now - self._started) / self._done * (self._total - self._done)
      _log.info("%s: %d of %d images, %.0f s left", self._what, self._done, self._total, left)
      self._reported = now
