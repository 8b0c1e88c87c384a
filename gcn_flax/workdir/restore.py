"""What a run starts from: its own checkpoint, other weights, or random ones."""

import logging
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from gcn_flax import build, files, validation
from gcn_flax import config as config_lib
from gcn_flax.input_pipeline import datasets
from gcn_flax.labels import LABELS, LabelSet, plain_labels, voc_palette
from gcn_flax.models import pretrained, torch_names
from gcn_flax.training import sharding
from gcn_flax.training.checkpoint import Checkpoints, DamagedCheckpoint, open_checkpoints
from gcn_flax.training.optimizer import ENCODER
from gcn_flax.training.state import TrainState
from gcn_flax.workdir.compatibility import ARCHITECTURE_FIELDS, check_classes, check_workdir, classes, facts, is_begun

_log = logging.getLogger(__name__)
_COLLECTIONS = ("params", "batch_stats")


def init_path(config: ml_collections.ConfigDict) -> files.Path | None:
  """The workdir or file of the first weights, those of the network or of its encoder; None where they are random."""
  given = config.init_from or config.model.pretrained
  return files.path(given) if given else None


def restore_or_init(
  config: ml_collections.ConfigDict, setup: build.Setup, checkpoints: Checkpoints, weights: dict[str, Any] | None
) -> tuple[TrainState, int]:
  """The state to go on from, and its step: the workdir's own newest, or random weights and over them `weights`.

  A checkpoint that is damaged is set aside, and the one before it taken.

  Raises ValueError where a checkpoint is of another network or past the run's end, where none is whole, and where there
  is neither a checkpoint nor `weights`, which is what folders that Orbax does not take for checkpoints would look like.
  """
  damaged = {}
  for step in reversed(checkpoints.steps()):
    if step > config.total_steps:
      raise ValueError(
        f"the workdir stands at step {step}, past config.total_steps={config.total_steps}: raise it or take another."
      )
    try:
      state = checkpoints.restore(step, setup.state_shapes)
    except DamagedCheckpoint as error:
      damaged[step] = str(error)
      continue
    for other, error in damaged.items():
      _log.warning("WARNING: %s It is set aside as %s.", error, checkpoints.set_aside(other))
    _log.info("going on from step %d of %d.", step, config.total_steps)
    return state, step
  if damaged:
    raise ValueError(f"no checkpoint is whole: {' '.join(damaged.values())} Put one back, or take a new workdir.")
  if weights is None:
    raise ValueError(f"{checkpoints.directory} holds no whole checkpoint: remove what is in it, or take a new workdir.")
  state = setup.init(np.uint32(config.seed))
  whole = sharding.replicated(setup.mesh)
  merged = {name: jax.device_put({**getattr(state, name), **weights.get(name, {})}, whole) for name in _COLLECTIONS}
  # Averages begin as copies: the step consumes both, each in its own memory.
  return state.replace(**merged, ema=jax.tree.map(jnp.copy, merged) if state.ema else {}), 0


def load_init_weights(config: ml_collections.ConfigDict, setup: build.Setup) -> dict[str, Any]:
  """The weights that `config.init_from` gives, of the whole network, or `config.model.pretrained`, of its encoder.

  Of a classifier, `pretrained` gives the layer for the classes, too, where those are the same.

  Returns:
    `{'params': {...}, 'batch_stats': {...}}` by part of the network; {} where neither is set.

  Raises:
    ValueError: where they cannot be read, or are of another network or another normalisation of the
      input than the config's.
  """
  path = init_path(config)
  if path is None:
    return {}
  target = setup.state_shapes.replace(ema={}).weights()
  if config.model.pretrained and not (config_lib.is_classifier(config) and _has_classes(config, path)):
    target = {**target, **{name: {ENCODER: target[name][ENCODER]} for name in _COLLECTIONS}}
  is_workdir = path.is_dir() or not path.suffix
  weights = _of_workdir(path, target) if is_workdir else _of_file(config, path, target)
  normalization = weights.pop("normalization", None)
  family = pretrained.FAMILIES[config.model.family]
  if normalization and any((normalization[name] != value).any() for name, value in family.arrays().items()):
    raise ValueError(
      f"{path} was trained with another normalisation of its input than config.model.family={config.model.family!r} "
      "has: set that to the family it was trained with."
    )
  part = "the encoder" if list(weights["params"]) == [ENCODER] else "all weights"
  _log.info("%s from %s, family %s.", part, path, config.model.family)
  return weights


def _has_classes(config: ml_collections.ConfigDict, path: pathlib.Path) -> bool:
  """Whether weights are of the same classes, as far as they say."""
  now = classes(config)
  return facts(path).get("classes", now) == now


def _of_workdir(path: pathlib.Path, target: dict[str, Any]) -> dict[str, Any]:
  with open_checkpoints(path) as others:
    best = others.best()
    _log.info("step %d of %s.", best, path)
    return others.restore_weights(best, target)


def _of_file(config: ml_collections.ConfigDict, path: pathlib.Path, target: dict[str, Any]) -> dict[str, Any]:
  """The parts that `target` has; of a classifier that begins elsewhere only the encoder, where the file has no more."""
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
  tensors = pretrained.read_tensors(path, model.family)
  try:
    return torch_names.from_tensors(tensors, {name: target[name] for name in _COLLECTIONS})
  except ValueError as error:
    raise ValueError(
      f"config.init_from={str(path)!r} is of another network (for an encoder alone, set config.model.pretrained): "
      f"{error}."
    ) from error


def load_trained(
  config: ml_collections.ConfigDict, workdir: files.Path, checkpoint: str
) -> tuple[build.Setup, dict[str, Any], int, dict[str, Any]]:
  """The network of a workdir, whose data set need not be here: what it computes, its weights, step and `facts`.

  Raises ValueError where settings that the weights depend on are others, and as `load_checkpoint`.
  """
  validation.validate(config, training=False)
  check_workdir(config, workdir, only=ARCHITECTURE_FIELDS)
  known = facts(workdir) or (facts(init_path(config)) if init_path(config) else {})
  setup = build.build(config, num_classes=len(known["classes"]) if "classes" in known else None)
  weights, step, origin = load_checkpoint(config, workdir, setup, checkpoint)
  return setup, weights, step, facts(origin)


def known_label_set(config: ml_collections.ConfigDict, known: dict[str, Any]) -> LabelSet:
  """The classes of a trained network and their colours, from `facts` where they are the user's own."""
  if config.data.dataset in LABELS or "classes" not in known:
    return datasets.open_label_set(config.data.dataset, config.data.data_dir)
  names = tuple(known["classes"])
  palette = tuple(map(tuple, known.get("palette", voc_palette(len(names)))))
  return plain_labels(names, palette, {})


def load_checkpoint(
  config: ml_collections.ConfigDict, workdir: files.Path, setup: build.Setup, checkpoint: str
) -> tuple[dict[str, Any], int, pathlib.Path]:
  """The weights to score or to export, as `TrainState.weights`, their step, and the workdir or file they are from.

  Args:
    config: of the network.
    workdir: of the run.
    setup: of the config.
    checkpoint: `best`, `last`, a step, or `0`: the first weights as they are, untrained. A workdir without
      checkpoint gives `config.model.pretrained` of a classifier so, too.

  Raises ValueError where there is no such checkpoint, and where first weights are not those of the whole network.
  """
  given = init_path(config)
  imported = config_lib.is_classifier(config) and config.model.pretrained
  if given and (checkpoint == "0" or (imported and not is_begun(workdir) and checkpoint == "best")):
    if config.init_from:
      check_classes(config, given)
    weights = load_init_weights(config, setup)
    lacking = [name for name in setup.state_shapes.params if name not in weights["params"]]
    if lacking:
      raise ValueError(f"{given} gives no weights for {', '.join(lacking)}: there is nothing to score before training.")
    weights["normalization"] = pretrained.FAMILIES[config.model.family].arrays()
    return jax.device_put(weights, sharding.replicated(setup.mesh)), 0, given
  with open_checkpoints(workdir) as checkpoints:
    step = choose_step(checkpoints, checkpoint)
    return checkpoints.restore_weights(step, setup.state_shapes.replace(ema={}).weights()), step, workdir


def choose_step(checkpoints: Checkpoints, name: str) -> int:
  """The step that `best`, `last` or a number means. Raises ValueError for anything else."""
  if name in ("best", "last"):
    return checkpoints.best() if name == "best" else checkpoints.latest()
  if not name.isdigit():
    raise ValueError(f"--checkpoint={name!r} must be best, last or a step, one of {checkpoints.steps()}.")
  return int(name)
