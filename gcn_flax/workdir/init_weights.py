"""Initial weights of a run: `config.init_from` (the network) or `config.model.pretrained` (its encoder)."""

import logging
from typing import Any

import ml_collections

from gcn_flax import build, files
from gcn_flax import config as config_lib
from gcn_flax.models import pretrained, torch_names
from gcn_flax.training.checkpoint import open_checkpoints
from gcn_flax.training.optimizer import ENCODER
from gcn_flax.training.state import COLLECTIONS
from gcn_flax.workdir.record import TrainingData

_log = logging.getLogger(__name__)


def init_path(config: ml_collections.ConfigDict) -> files.Path | None:
  """Returns the workdir or file that gives the first weights; None for random weights."""
  given = config.init_from or config.model.pretrained
  return files.path(given) if given else None


def load_init_weights(
  config: ml_collections.ConfigDict, setup: build.Setup, classes: tuple[str, ...]
) -> dict[str, Any]:
  """Loads the weights of the whole network (`config.init_from`) or of its encoder (`config.model.pretrained`).

  For a classifier `pretrained` gives the dense layer too, if its classes are the same.

  Args:
    config: config of the run.
    setup: setup of the config.
    classes: classes of the data set to train on.

  Returns:
    `{'params': {...}, 'batch_stats': {...}}` by part of the network; {} if neither field is set.

  Raises:
    ValueError: for weights that cannot be read, that are of another network, or that need another normalisation of the
      input than the config's.
  """
  path = init_path(config)
  if path is None:
    return {}
  target = setup.state_shapes.replace(ema={}).weights()
  if config.model.pretrained and not (config_lib.is_classifier(config) and _may_have_classes(path, classes)):
    target = {**target, **{name: {ENCODER: target[name][ENCODER]} for name in COLLECTIONS}}
  is_workdir = path.is_dir() or not path.suffix
  weights = _from_workdir(path, target) if is_workdir else _from_file(config, path, target)
  normalization = weights.pop("normalization", None)
  family = pretrained.FAMILIES[config.model.family]
  if normalization and any((normalization[name] != value).any() for name, value in family.arrays().items()):
    raise ValueError(
      f"config.model.family={config.model.family!r}: {path} was trained with another normalisation of its input. Set "
      "the family it was trained with."
    )
  part = "the encoder" if list(weights["params"]) == [ENCODER] else "all weights"
  _log.info("%s from %s, family %s.", part, path, config.model.family)
  return weights


def _may_have_classes(path: files.Path, classes: tuple[str, ...]) -> bool:
  """Returns True unless the record of the weights names other classes."""
  recorded = TrainingData.read(path).classes
  return not recorded or recorded == classes


def _from_workdir(path: files.Path, target: dict[str, Any]) -> dict[str, Any]:
  with open_checkpoints(path) as others:
    best = others.best()
    _log.info("step %d of %s.", best, path)
    return others.restore_weights(best, target)


def _from_file(config: ml_collections.ConfigDict, path: files.Path, target: dict[str, Any]) -> dict[str, Any]:
  """Returns the parts that `target` has; for a classifier perhaps only the encoder, if the file has no more."""
  model = config.model
  if list(target["params"]) == [ENCODER]:
    encoder = pretrained.load_backbone(path, model.backbone, model.family)
    return {name: {ENCODER: part} for name, part in encoder.items()}
  if config_lib.is_classifier(config):
    num_classes = target["params"]["fc"]["bias"].shape[0]
    weights = pretrained.load_classifier(path, model.backbone, num_classes, model.family)
    if config.init_from and "fc" not in weights["params"]:
      raise ValueError(f"config.init_from={str(path)!r} has no layer fc for {num_classes} classes.")
    return weights
  tensors = pretrained.read_network(path, model.family)
  try:
    return torch_names.from_tensors(tensors, {name: target[name] for name in COLLECTIONS})
  except ValueError as error:
    raise ValueError(
      f"config.init_from={str(path)!r} is of another network (for an encoder alone, set config.model.pretrained): "
      f"{error}."
    ) from error
