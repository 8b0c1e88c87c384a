"""Initial weights of a run: `config.init_from` (the network) or `config.model.pretrained` (its encoder)."""

import logging
from collections.abc import Mapping
from typing import Any

import ml_collections

from gcn_flax import build, files
from gcn_flax import config as config_lib
from gcn_flax.messages import flag
from gcn_flax.models import pretrained, public_weights, torch_names
from gcn_flax.training.checkpoint import DamagedCheckpoint, open_checkpoints
from gcn_flax.training.optimizer import ENCODER
from gcn_flax.training.state import COLLECTIONS
from gcn_flax.workdir.record import TrainingData
from gcn_flax.workdir.stored_config import exported_entry
from gcn_flax.workdir.workdir import Workdir

_log = logging.getLogger(__name__)

# Fields that the shapes of the weights follow from.
_NETWORK_FIELDS = ("backbone", "head", "kernel_size", "stack_width", "boundary_refine")
_WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def init_path(config: ml_collections.ConfigDict) -> files.Path | None:
  """Returns the workdir or file that gives the initial weights; None for random weights."""
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
    _log.info("random weights%s", _hint(config))
    return {}
  if config.model.pretrained and not path.exists():
    raise _missing(config, path)
  target = setup.state_shapes.replace(ema={}).weights()
  if config.model.pretrained and not (config_lib.is_classifier(config) and _may_have_classes(path, classes)):
    target = {**target, **{name: {ENCODER: target[name][ENCODER]} for name in COLLECTIONS}}
  is_workdir = path.is_dir() or not (path.suffix or path.is_file())
  weights = _from_workdir(config, path, target) if is_workdir else _from_file(config, path, target)
  _check_family(config, path, weights.pop("normalization", None))
  part = "the encoder" if list(weights["params"]) == [ENCODER] else "all weights"
  _log.info("%s from %s, family %s.", part, path, config.model.family)
  return weights


def _hint(config: ml_collections.ConfigDict) -> str:
  """Returns the end of the log's line about random weights; encoders without public weights get no advice."""
  if config_lib.is_classifier(config) or config.model.backbone not in public_weights.BACKBONES:
    return "."
  return ": ImageNet weights usually gain much, see docs/WEIGHTS.md."


def _missing(config: ml_collections.ConfigDict, path: files.Path) -> ValueError:
  """Returns the error for `config.model.pretrained` that names neither a file nor a workdir, such as `resnet50`."""
  problem = "is neither a file of weights nor a workdir with a checkpoint" if path.suffix == "" else "not found"
  return ValueError(
    f"config.model.pretrained={config.model.pretrained!r}: {problem}. {public_weights.advice(config.model.backbone)}"
  )


def _may_have_classes(path: files.Path, classes: tuple[str, ...]) -> bool:
  """Returns True unless the record of the weights names other classes."""
  recorded = TrainingData.read(path).classes
  return not recorded or recorded == classes


def _check_family(config: ml_collections.ConfigDict, path: files.Path, normalization: dict[str, Any] | None) -> None:
  """Raises ValueError if a workdir's normalisation of the input is not that of the config's family."""

  def is_of(family: str) -> bool:
    values = pretrained.FAMILIES[family].arrays()
    return not any((normalization[name] != value).any() for name, value in values.items())

  if normalization and not is_of(config.model.family):
    families = [family for family in pretrained.FAMILIES if is_of(family)]
    fix = f"Use --config.model.family={families[0]}" if families else "Use other weights"
    raise ValueError(
      f"config.model.family={config.model.family!r}: {path} was trained with another normalisation of its input. {fix}."
    )


def _from_workdir(config: ml_collections.ConfigDict, path: files.Path, target: dict[str, Any]) -> dict[str, Any]:
  _check_folder(config, path)
  with open_checkpoints(path) as others:
    best = others.best()
    _log.info("step %d of %s.", best, path)
    try:
      return others.restore_weights(best, target)
    except DamagedCheckpoint:
      raise
    except ValueError as error:
      raise _of_another_network(config, path, Workdir(path).settings(), error) from error


def _check_folder(config: ml_collections.ConfigDict, path: files.Path) -> None:
  """Raises ValueError for a folder that is no workdir, if it is clear what was meant."""
  field = "init_from" if config.init_from else "model.pretrained"
  if (path / "checkpoints").is_dir():
    return
  outer = next((parent for parent in list(path.parents)[:2] if (parent / "checkpoints").is_dir()), None)
  inside = sorted(file for file in path.iterdir() if file.suffix in _WEIGHTS_SUFFIXES) if path.is_dir() else []
  if inside or outer:
    meant = flag(f"config.{field}", inside[0] if inside else outer)
    raise ValueError(f"config.{field}={str(path)!r}: is no workdir, there is no checkpoint in it. Use {meant}.")
  if field == "model.pretrained":
    raise _missing(config, path)


def _of_another_network(
  config: ml_collections.ConfigDict, path: files.Path, settings: Mapping[str, Any], error: ValueError
) -> ValueError:
  """Returns an error for weights that do not fit, with the flags that make the network fit them, if those are known.

  Args:
    config: config of the run.
    path: workdir or file of the weights.
    settings: settings they were trained with; {} if unknown.
    error: the error of reading them.
  """
  theirs, ours = settings.get("model", {}), config.model
  field, fields = ("init_from", _NETWORK_FIELDS) if config.init_from else ("model.pretrained", ("backbone",))
  differing = [name for name in fields if theirs.get(name, ours[name]) != ours[name]]
  if config.init_from and (not differing or "classifier" in (theirs.get("head"), ours.head)):
    fix = encoder_alone(path)
  else:
    fix = f"Use {' '.join(flag(f'config.model.{name}', theirs[name]) for name in differing) or 'other weights'}"
  return ValueError(f"config.{field}={str(path)!r}: is of another network. {fix}. {error}")


def encoder_alone(path: files.Path) -> str:
  """Returns the fix for `config.init_from` of another network or other classes, without its full stop."""
  return f"For its encoder alone, use {_as_pretrained(path)}"


def _as_pretrained(path: files.Path) -> str:
  return f"{flag('config.model.pretrained', path)} --config.init_from=''"


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
      raise ValueError(
        f"config.init_from={str(path)!r}: has no layer fc for {num_classes} classes. Use "
        f"{_as_pretrained(path)} to train a new one."
      )
    return weights
  tensors = pretrained.read_network(path, model.family)
  try:
    return torch_names.from_tensors(tensors, {name: target[name] for name in COLLECTIONS})
  except ValueError as error:
    settings = exported_entry(path, "config", {"model?": {}})
    raise _of_another_network(config, path, settings, error) from error
