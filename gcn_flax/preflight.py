"""The checks before slow work: settings, libraries, storage, workdir, data, devices; cheap ones first, none twice."""

import importlib.util
import logging

import jax
import ml_collections

from gcn_flax import config_checks, nvidia, spatial
from gcn_flax.config import is_classifier
from gcn_flax.distributed import skip_libtpu
from gcn_flax.evaluation import crf
from gcn_flax.input_pipeline.canvas import canvas_of
from gcn_flax.input_pipeline.datasets import stored_splits
from gcn_flax.rounding import round_up
from gcn_flax.run_data import RunData
from gcn_flax.training.checkpoint import check_path
from gcn_flax.workdir import compatibility, wandb_writer
from gcn_flax.workdir.init_weights import encoder_alone, init_path
from gcn_flax.workdir.workdir import TRAINING_FILES, Workdir, evaluation_files

_log = logging.getLogger(__name__)


def preflight(
  config: ml_collections.ConfigDict,
  workdir: Workdir,
  *,
  training: bool = False,
  split: str | None = None,
  labelled: bool = True,
  data: RunData | None = None,
) -> RunData:
  """Runs every check of a command, and returns its data sets.

  The order: settings by themselves, libraries, storage, the workdir's settings, data sets, the workdir's data, devices.
  Devices come last, because waking them takes seconds. Errors that only show later (a file of weights, a full disk, two
  runs in a workdir) are raised by `train.run` before the first step.

  Args:
    config: config of the run.
    workdir: workdir of the run.
    training: True for training: settings must then equal those of the workdir, apart from `MUTABLE_FIELDS`; otherwise
      only the architecture must.
    split: split to evaluate or predict; None for a command that needs no data set.
    labelled: False if the split needs no ground truth.
    data: the run's data sets; opened if not given.

  Raises ValueError naming the field or file, its value, the problem and the fix.
  """
  skip_libtpu()
  data = data or RunData(config)
  config_checks.check_config(config, training)
  check_libraries(config, training)
  check_storage(config, workdir, training, split if labelled else None)
  compatibility.check_settings(config, workdir, () if training else compatibility.ARCHITECTURE_FIELDS)
  if training:
    check_mixture(config, data)
  if split is not None:
    check_split(config, data, split, labelled)
  if training:
    check_training_data(config, workdir, data)
  elif split is not None:
    compatibility.check_classes(config, data.label_set.classes, workdir.path)
  if training or split is not None:
    config_checks.check_devices(config, jax.device_count(), spatial.of(config), training)
    warn_of_idle_gpu()
  return data


def warn_of_idle_gpu() -> None:
  """Warns with the reason and the fix, if JAX computes on the CPU of a machine that has an NVIDIA GPU."""
  problem = nvidia.find_problem(nvidia.this_machine()) if jax.default_backend() == "cpu" else ""
  if problem:
    _log.warning("WARNING: JAX computes on the CPU, not on the NVIDIA GPU of this machine: %s", problem)


def check_pixels(config: ml_collections.ConfigDict, command: str) -> None:
  """Raises ValueError for a classifier, if a command is for classes of pixels."""
  if is_classifier(config):
    raise ValueError(f"config.model.head='classifier': {command} is for classes of pixels. Use a segmentation head.")


def check_one_host(command: str) -> None:
  """Raises ValueError in a run of several processes, if a command is for one."""
  if jax.process_count() > 1:
    raise ValueError(f"{command} runs in one process, not {jax.process_count()}. Start it on one host.")


def check_page_libraries() -> None:
  """Raises ValueError if a library that draws pages and charts is not installed."""
  for name in ("jinja2", "matplotlib"):
    if importlib.util.find_spec(name) is None:
      raise ValueError(f"{name} is not installed. Run pip install {name} -c constraints.txt.")


def check_libraries(config: ml_collections.ConfigDict, training: bool) -> None:
  """Raises ValueError if CRF post-processing, or W&B for a training, is asked for and not installed."""
  if config.eval.crf.iterations:
    crf.check_installed()
  if training:
    wandb_writer.check_installed(config.wandb_project)


def check_storage(config: ml_collections.ConfigDict, workdir: Workdir, training: bool, evaluated: str | None) -> None:
  """Checks the workdir's path, and that the results of training and of the evaluation of a split can be written.

  Raises ValueError if not, and for a log that grows with each step in a bucket, whose objects cannot grow.
  """
  check_path(workdir.checkpoints, read_only=not training)
  if evaluated:
    workdir.check_writable(*(TRAINING_FILES if training else ()), *evaluation_files(evaluated))
  if config.log_image_ids and workdir.is_remote:
    raise ValueError(
      f"config.log_image_ids=True: --workdir={workdir} is in a bucket, where a file cannot grow with each step. "
      "Set it to False."
    )


def check_mixture(config: ml_collections.ConfigDict, data: RunData) -> None:
  """Raises ValueError for sources missing, empty, unlabelled, doubled, too large, of other classes, or never drawn."""
  seen = set()
  for dataset, split, _ in config.data.train_mix:
    stored = {(dataset, name) for name in stored_splits(dataset, split)}
    if seen & stored:
      raise ValueError(
        f"config.data.train_mix has the images of {dataset} {split!r} more than once. Keep one of its splits."
      )
    seen |= stored
  data.train_sampler()
  if not config.data.random_crop:
    for dataset, split, _ in config.data.train_mix:
      check_size(config, data, dataset, split, "crop_size", " or set config.data.random_crop=True")
  warn_of_padding(config, data)
  evaluated = {(config.data.dataset, name) for name in stored_splits(config.data.dataset, config.data.eval_split)}
  if seen & evaluated:
    _log.warning(
      "WARNING: config.data.eval_split=%r overlaps the training data: the metrics are meaningless.",
      config.data.eval_split,
    )


def warn_of_padding(config: ml_collections.ConfigDict, data: RunData) -> None:
  """Warns if training pads every image, and evaluation does not."""
  if is_classifier(config) or config.data.eval_size or config.data.random_scale:
    return
  largest = [data.dataset(dataset).largest_image(split) for dataset, split, _ in config.data.train_mix]
  own, crop = canvas_of(tuple(map(max, zip(*largest, strict=True)))), tuple(config.data.crop_size)
  if any(side < length for side, length in zip(own, crop, strict=True)):
    _log.warning(
      "WARNING: config.data.crop_size=%s: no training image is that large, so all are padded in training, but not in "
      "evaluation. Use --config.data.crop_size='%s', or pad in both with --config.data.eval_size='%s'.",
      crop, tuple(map(min, zip(own, crop, strict=True))), crop,
    )  # fmt: skip


def check_split(config: ml_collections.ConfigDict, data: RunData, split: str, labelled: bool) -> None:
  """Raises ValueError for a split that is missing, empty, too large for its canvas, or lacks labels it needs."""
  if labelled:
    data.eval_source(split)
  if config.data.eval_size:
    check_size(config, data, config.data.dataset, split, "eval_size", ", or to () for each image's own size")


def check_size(
  config: ml_collections.ConfigDict, data: RunData, dataset: str, split: str, field: str, fix: str = ""
) -> None:
  """Raises ValueError if an image of a split is larger than the size it is padded to; a classifier resizes instead."""
  if is_classifier(config):
    return
  largest, size = data.dataset(dataset).largest_image(split), tuple(config.data[field])
  if any(side > limit for side, limit in zip(largest, size, strict=True)):
    needed = tuple(round_up(max(pair), 32) for pair in zip(largest, size, strict=True))
    raise ValueError(
      f"config.data.{field}={size}: {dataset} {split!r} has images of up to {largest[0]} x {largest[1]}. Raise it to "
      f"{needed}{fix}."
    )


def check_training_data(config: ml_collections.ConfigDict, workdir: Workdir, data: RunData) -> None:
  """Raises ValueError if the data differs from the workdir's, or its classes from those of the initial weights."""
  if workdir.is_begun:
    compatibility.check_fingerprints(data.fingerprints(), workdir, config.data.data_dir)
  elif config.init_from:
    source = init_path(config)
    compatibility.check_classes(config, data.label_set.classes, source, encoder_alone(source))
