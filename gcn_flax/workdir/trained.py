"""A trained network: what computes it, its weights, and the data it was trained on."""

import dataclasses
import logging
import re
from typing import Any

import jax
import ml_collections

from gcn_flax import build, files
from gcn_flax import config as config_lib
from gcn_flax.input_pipeline import datasets
from gcn_flax.labels import LABELS, LabelSet, label_set_of
from gcn_flax.messages import flag, use_one_of
from gcn_flax.models import pretrained
from gcn_flax.training import sharding
from gcn_flax.training.checkpoint import Checkpoints, DamagedCheckpoint, open_checkpoints
from gcn_flax.workdir.compatibility import check_classes
from gcn_flax.workdir.init_weights import init_path, load_init_weights
from gcn_flax.workdir.record import TrainingData
from gcn_flax.workdir.workdir import Workdir

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Trained:
  """A network with trained weights.

  Attributes:
    setup: network and compiled steps.
    weights: weights from `TrainState.weights`, on the devices.
    step: updates they have had; 0 for imported weights.
    label_set: its classes.
    data: the data it was trained on, as recorded with the weights.
  """

  setup: build.Setup
  weights: dict[str, Any]
  step: int
  label_set: LabelSet
  data: TrainingData


def load_trained(
  config: ml_collections.ConfigDict, workdir: Workdir, checkpoint: str, label_set: LabelSet | None = None
) -> Trained:
  """Loads a checkpoint of a workdir.

  Args:
    config: config of the network.
    workdir: workdir of the run.
    checkpoint: `best`, `last`, a step, or `0` for `config.init_from` as it is, untrained. For a classifier `best` of a
      workdir without a checkpoint gives `config.model.pretrained` untrained, too.
    label_set: the classes; by default those recorded with the weights, so that no data set is needed.

  Raises ValueError if there is no such checkpoint, and if initial weights are not those of the whole network.
  """
  source = _untrained_source(config, workdir, checkpoint)
  label_set = label_set or _recorded_label_set(config, source or workdir.path)
  setup = build.build(config, label_set.num_classes)
  if source is None:
    with open_checkpoints(workdir.path) as checkpoints:
      step = choose_step(checkpoints, checkpoint)
      try:
        weights = checkpoints.restore_weights(step, setup.state_shapes.replace(ema={}).weights())
      except DamagedCheckpoint as error:
        others = ", ".join(str(other) for other in checkpoints.steps() if other != step)
        fix = f"Use another one, --checkpoint=STEP with one of {others}." if others else "Put it back."
        raise ValueError(f"{error} {fix}") from error
    return Trained(setup, weights, step, label_set, TrainingData.read(workdir.path))
  if config.init_from:
    check_classes(config, label_set.classes, source)
  weights = load_init_weights(config, setup, label_set.classes)
  lacking = [name for name in setup.state_shapes.params if name not in weights["params"]]
  if lacking:
    raise ValueError(f"{source} has no weights for {', '.join(lacking)}. Train the network before it is evaluated.")
  weights["normalization"] = pretrained.FAMILIES[config.model.family].arrays()
  weights = jax.device_put(weights, sharding.replicated(setup.mesh))
  return Trained(setup, weights, 0, label_set, TrainingData.read(source))


def with_trained_canvas(
  config: ml_collections.ConfigDict, workdir: Workdir, checkpoint: str
) -> ml_collections.ConfigDict:
  """Returns the config with the canvas that a network was evaluated on in training: results depend on it.

  Args:
    config: config of an evaluation or prediction.
    workdir: workdir of the run.
    checkpoint: as for `load_trained`.

  Raises ValueError if the record of the run is damaged.
  """
  source = _untrained_source(config, workdir, checkpoint) or workdir.path
  trained, own = TrainingData.read(source).eval_size, tuple(config.data.eval_size)
  if trained is None or trained == own:
    return config
  _log.info("config.data.eval_size=%s, as in the training of %s (the recipe has %s).", trained, source, own)
  config = config.copy_and_resolve_references()
  config.data.eval_size = trained
  return config


def _untrained_source(config: ml_collections.ConfigDict, workdir: Workdir, checkpoint: str) -> files.Path | None:
  """Returns the workdir or file whose weights are used untrained; None for a checkpoint of the workdir itself."""
  imports_classifier = config_lib.is_classifier(config) and config.model.pretrained and not workdir.is_begun
  return init_path(config) if checkpoint == "0" or (imports_classifier and checkpoint == "best") else None


def _recorded_label_set(config: ml_collections.ConfigDict, trained: files.Path) -> LabelSet:
  """Returns the classes that a workdir or file records, or the source of its initial weights; else the data set's."""
  data = config.data
  if data.dataset in LABELS:
    return LABELS[data.dataset]
  recorded = TrainingData.read(trained)
  recorded = recorded if recorded.classes else TrainingData.read(init_path(config))
  if not recorded.classes:
    return datasets.open_label_set(data.dataset, data.data_dir)
  return label_set_of(data.dataset, recorded.classes, recorded.palette)


def choose_step(checkpoints: Checkpoints, name: str) -> int:
  """Returns the step that `best`, `last` or a number names. Raises ValueError for anything else."""
  if name in ("best", "last"):
    return checkpoints.best() if name == "best" else checkpoints.latest()
  if not re.fullmatch("[0-9]{1,18}", name):
    fix = use_one_of(name, ["best", "last", *map(str, checkpoints.steps())], "checkpoint")
    raise ValueError(f"{flag('checkpoint', name)}: must be best, last or a step. {fix}.")
  return int(name)
