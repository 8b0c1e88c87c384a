"""What a run starts from, and whether it may: the workdir as it stands, other weights, or random ones."""

import json
import logging
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from gcn_flax import build, writers
from gcn_flax import config as config_lib
from gcn_flax.input_pipeline import sources
from gcn_flax.models import pretrained, torch_names, weights_file
from gcn_flax.training import partition
from gcn_flax.training.checkpoint import Checkpoints, open_checkpoints
from gcn_flax.training.optimizer import ENCODER
from gcn_flax.training.state import TrainState

_log = logging.getLogger(__name__)


def check_workdir(config: ml_collections.ConfigDict, workdir: pathlib.Path, only: tuple[str, ...] = ()) -> None:
  """Compares the settings with those of a workdir that holds a checkpoint already.

  Args:
    config: the settings asked for.
    workdir: of the run.
    only: names of the fields to compare; all that may not change, unless told.

  Raises ValueError where a setting differs that may not.
  """
  path = workdir / "config.json"
  if not path.exists() or not any((workdir / "checkpoints").glob("[0-9]*")):
    return
  try:
    before = json.loads(path.read_text())
  except json.JSONDecodeError as error:
    raise ValueError(f"{path} is damaged ({error}): put it back, or take a new workdir.") from error
  config_lib.check_unchanged(before, json.loads(config.to_json()), only)


def check_data(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Compares what is trained on with what a workdir was begun with, and the classes with those of first weights.

  Raises ValueError where they differ: the order of examples, or the meaning of the scores, would be another.
  """
  if any((workdir / "checkpoints").glob("[0-9]*")):
    before = writers.read_run_json(workdir).get("fingerprints", {})
    for name, now in build.fingerprints(config).items():
      changed = [key for key, value in now.items() if before.get(name, now)[key] != value]
      if changed:
        raise ValueError(
          f"{name} in {config.data.data_dir} is not what the workdir was begun with ({', '.join(changed)} differ): "
          "bring that data set back or take a new workdir."
        )
  elif config.init_from:
    check_classes(config, _path(config.init_from))


def check_classes(config: ml_collections.ConfigDict, trained: pathlib.Path) -> None:
  """Raises ValueError where a workdir, or an exported network, was trained with other classes than the data set has."""
  now = list(sources.open_label_set(config.data.dataset, config.data.data_dir).classes)
  before = facts(trained).get("classes", now)
  if before != now:
    raise ValueError(
      f"{trained} was trained with the classes {', '.join(before[:30])}, but {config.data.dataset} in "
      f"{config.data.data_dir} has {', '.join(now[:30])}."
    )


def facts(trained: pathlib.Path) -> dict[str, Any]:
  """What a workdir's `run.json`, or an exported file, says of the data it was trained on; {} where nothing is said."""
  if not trained.is_file():
    return writers.read_run_json(trained)
  if trained.suffix != ".safetensors":
    return {}
  return json.loads(weights_file.read_metadata(trained).get("data", "{}"))


def first_state(
  config: ml_collections.ConfigDict, setup: build.Setup, checkpoints: Checkpoints
) -> tuple[TrainState, int]:
  """The state to go on from, and its step: 1. the workdir's own checkpoint, 2. first weights, 3. random weights.

  Raises ValueError where a checkpoint is of another network or past the run's end, and as `first_weights`.
  """
  latest = checkpoints.latest()
  if latest is not None:
    if latest > config.total_steps:
      raise ValueError(
        f"the workdir stands at step {latest}, past config.total_steps={config.total_steps}: raise it or take another."
      )
    _log.info("going on from step %d of %d.", latest, config.total_steps)
    return checkpoints.restore(latest, setup.state_shapes), latest
  weights = first_weights(config, setup)  # Read before the slow draw of random ones: a file may be wrong.
  state = setup.init(config.seed)
  whole = partition.replicated(setup.mesh)
  merged = {
    name: jax.device_put({**getattr(state, name), **weights.get(name, {})}, whole) for name in ("params", "batch_stats")
  }
  # Averages begin as copies: the step consumes both, each in its own memory.
  return state.replace(**merged, ema=jax.tree.map(jnp.copy, merged) if state.ema else {}), 0


def first_weights(config: ml_collections.ConfigDict, setup: build.Setup) -> dict[str, Any]:
  """The weights that `config.init_from` or `config.model.pretrained` give, of the network or of its encoder.

  Returns:
    `{'params': {...}, 'batch_stats': {...}}` by part of the network; {} where neither is set.

  Raises:
    ValueError: where they cannot be read, or are of another network, other classes or another
      normalisation of the input than the config's.
  """
  target = setup.state_shapes.replace(ema={}).weights()
  if config.init_from:
    path = _path(config.init_from)
    weights = _of_network_file(config, path, target) if path.is_file() else _of_workdir(path, target)
  elif config.model.pretrained:
    path = _path(config.model.pretrained)
    if path.is_dir():
      parts = {name: {ENCODER: target[name][ENCODER]} for name in ("params", "batch_stats")}
      weights = _of_workdir(path, {**parts, "normalization": target["normalization"]})
    else:
      weights = _of_encoder_file(config, path, target)
  else:
    return {}
  normalization = weights.pop("normalization", None)
  family = pretrained.FAMILIES[config.model.family]
  if normalization and any((normalization[name] != value).any() for name, value in family.arrays().items()):
    raise ValueError(
      f"{path} was trained with another normalisation of its input than config.model.family={config.model.family!r} "
      "has: set that to the family it was trained with."
    )
  return weights


def _path(name: str) -> pathlib.Path:
  return pathlib.Path(name).expanduser()


def _of_workdir(path: pathlib.Path, target: dict[str, Any]) -> dict[str, Any]:
  with open_checkpoints(path) as others:
    best = others.best()
    _log.info("weights of %s, step %d.", path, best)
    return others.restore_weights(best, target)


def _of_network_file(config: ml_collections.ConfigDict, path: pathlib.Path, target: dict[str, Any]) -> dict[str, Any]:
  if config_lib.is_classifier(config):
    weights = _of_encoder_file(config, path, target)
  else:
    tensors = pretrained.read_tensors(path, config.model.family)
    try:
      weights = torch_names.from_tensors(tensors, {name: target[name] for name in ("params", "batch_stats")})
    except ValueError as error:
      raise ValueError(f"config.init_from={str(path)!r} is of another network: {error}.") from error
  _log.info("weights of %s.", path)
  return weights


def _of_encoder_file(config: ml_collections.ConfigDict, path: pathlib.Path, target: dict[str, Any]) -> dict[str, Any]:
  model = config.model
  if config_lib.is_classifier(config):
    num_classes = target["params"]["fc"]["bias"].shape[0]
    weights = pretrained.load_classifier(path, model.backbone, num_classes, model.family)
    if weights:
      _log.info("encoder and classifier of %s (%s).", path, model.family)
      return weights
    _log.info("%s has no layer for %d classes: that begins at random.", path, num_classes)
  encoder = pretrained.load_backbone(path, model.backbone, model.family)
  _log.info("encoder of %s (%s).", path, model.family)
  return {name: {ENCODER: part} for name, part in encoder.items()}


def trained_weights(
  config: ml_collections.ConfigDict, workdir: pathlib.Path, setup: build.Setup, checkpoint: str
) -> tuple[dict[str, Any], int]:
  """The weights to score or to export, as `TrainState.weights`, and their step.

  Args:
    config: of the network.
    workdir: of the run.
    setup: of the config.
    checkpoint: `best`, `last`, a step, or `0`: the first weights as they are, untrained. A workdir without
      checkpoint gives `config.model.pretrained` of a classifier so, too.

  Raises ValueError where there is no such checkpoint, and where first weights are not those of the whole network.
  """
  given = config.init_from or config.model.pretrained
  empty = not any((workdir / "checkpoints").glob("[0-9]*"))
  imported = config_lib.is_classifier(config) and config.model.pretrained
  if (checkpoint == "0" and given) or (empty and imported and checkpoint == "best"):
    weights = first_weights(config, setup)
    target = setup.state_shapes.replace(ema={}).weights()
    lacking = [name for name in target["params"] if name not in weights["params"]]
    if lacking:
      raise ValueError(f"{given} gives no weights for {', '.join(lacking)}: there is nothing to score before training.")
    weights["normalization"] = pretrained.FAMILIES[config.model.family].arrays()
    return jax.device_put(weights, partition.replicated(setup.mesh)), 0
  with open_checkpoints(workdir) as checkpoints:
    step = choose_step(checkpoints, checkpoint)
    return checkpoints.restore_weights(step, setup.state_shapes.replace(ema={}).weights()), step


def choose_step(checkpoints: Checkpoints, name: str) -> int:
  """The step that `best`, `last` or a number means. Raises ValueError for anything else."""
  if name in ("best", "last"):
    return checkpoints.best() if name == "best" else checkpoints.latest()
  if not name.isdigit():
    raise ValueError(f"--checkpoint={name!r} must be best, last or a step, one of {checkpoints.steps()}.")
  return int(name)
