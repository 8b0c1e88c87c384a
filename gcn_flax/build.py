"""Builds what a config describes: network, optimizer, mesh and the compiled steps."""

import dataclasses
import functools
import types
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jax.sharding import Mesh

from gcn_flax import spatial, tasks
from gcn_flax.config import is_classifier
from gcn_flax.messages import flag
from gcn_flax.models import initializers
from gcn_flax.models.pretrained import FAMILIES
from gcn_flax.tasks import segmentation
from gcn_flax.training import optimizer, sharding, steps
from gcn_flax.training.state import COLLECTIONS, TrainState


@dataclasses.dataclass(frozen=True)
class Setup:
  """The network of a config and the functions that run on devices.

  Attributes:
    network: a `GCN`, or a `Classifier`.
    mesh: mesh of the devices.
    schedule: step -> learning rate.
    init: `(seed, weights) -> TrainState` on its devices: drawn by `models.initializers`, then replaced by the parts of
      the network that `weights` has.
    train_step: `(state, batch) -> (state, metrics)`, jitted; it donates the old state.
    eval_step: `(weights, batch) -> predictions` of each image, and their losses if the batch has labels, jitted;
      `weights` as from `TrainState.weights`, predictions and losses as from the task's `inference`.
    state_shapes: the train state as `jax.ShapeDtypeStruct`s with their shardings.
  """

  network: nn.Module
  mesh: Mesh
  schedule: optax.Schedule
  init: Callable[..., TrainState]
  train_step: Callable[[TrainState, Any], tuple[TrainState, Any]]
  eval_step: Callable[[Any, Any], Any]
  state_shapes: TrainState


def build(
  config: ml_collections.ConfigDict, num_classes: int, devices: list | None = None, platform: str = ""
) -> Setup:
  """Builds the network, the optimizer and the jitted steps of a config; nothing is compiled before it is called.

  Args:
    config: one that `config_checks.check_config` has passed.
    num_classes: number of classes of the network.
    devices: devices to use, by default all.
    platform: chooses the implementation of each operation, see `models.ops`; by default that of the devices.

  Raises ValueError if there are not as many class weights as classes, and if `config.mesh.spatial` does not divide the
  devices.
  """
  task = tasks.of(config)
  mesh = sharding.make_mesh(devices, spatial.of(config, devices))
  replicated = sharding.replicated(mesh)
  network = task.network(config, num_classes, platform or mesh.devices.flat[0].platform)
  schedule, tx = _optimizer(config)
  variables = initializers.trace(network)
  shapes = _state_shapes(config, initializers.shapes(variables), tx)
  train_step = steps.make_train_step(
    network, tx, _loss(config, num_classes), config.accumulate_steps, config.optimizer.ema_decay
  )
  eval_step = steps.make_eval_step(network, task.inference(config))
  return Setup(
    network=network,
    mesh=mesh,
    schedule=schedule,
    init=functools.partial(_init, variables, shapes, mesh, FAMILIES[config.model.family].arrays()),
    train_step=jax.jit(train_step, in_shardings=(replicated, None), out_shardings=replicated, donate_argnums=0),
    eval_step=sharding.per_device_jit(eval_step, mesh),
    state_shapes=jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated), shapes),
  )


def train_batch_shapes(
  config: ml_collections.ConfigDict, mesh: Mesh, batch_size: int
) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of a global training batch with their shardings, as from `sharding.shard_batch`."""
  size = tuple(config.data.crop_size)
  label = ((), jnp.int32) if is_classifier(config) else (size, jnp.uint8)
  return {
    name: jax.ShapeDtypeStruct((batch_size, *shape), dtype, sharding=sharding.batched(mesh, 1 + len(shape)))
    for name, (shape, dtype) in {"image": ((*size, 3), jnp.uint8), "label": label}.items()
  }


def with_probabilities(config: ml_collections.ConfigDict, setup: Setup) -> Setup:
  """Returns a setup whose `eval_step` gives the probability of each class, float32 `[B, H, W, C]`; for pixels only."""
  if config.eval.crf.iterations:  # CRF post-processing needs them, too.
    return setup
  eval_step = steps.make_eval_step(setup.network, segmentation.inference(config, probabilities=True))
  return dataclasses.replace(setup, eval_step=sharding.per_device_jit(eval_step, setup.mesh))


def make_schedule(config: ml_collections.ConfigDict) -> optax.Schedule:
  """Returns the learning rate by step."""
  settings = config.optimizer
  return optimizer.make_schedule(
    settings.schedule, settings.learning_rate, config.total_steps, settings.warmup_steps, settings.poly_power
  )


def _optimizer(config: ml_collections.ConfigDict) -> tuple[optax.Schedule, optax.GradientTransformation]:
  settings, schedule = config.optimizer, make_schedule(config)
  tx = optimizer.make_optimizer(
    schedule,
    kind=settings.kind,
    momentum=settings.momentum,
    weight_decay=settings.weight_decay,
    clip_norm=settings.clip_norm,
    decayed=settings.decayed,
    encoder_lr_factor=settings.encoder_lr_factor,
  )
  return schedule, tx


def _state_shapes(
  config: ml_collections.ConfigDict, variables: dict[str, Any], tx: optax.GradientTransformation
) -> TrainState:
  weights = {name: variables[name] for name in COLLECTIONS}
  normalization = FAMILIES[config.model.family].arrays()
  return TrainState(
    step=jax.ShapeDtypeStruct((), jnp.int32),
    **weights,
    opt_state=jax.eval_shape(tx.init, weights["params"]),
    normalization=jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), normalization),
    ema=weights if config.optimizer.ema_decay else {},
  )


def _init(
  variables: dict[str, Any],
  shapes: TrainState,
  mesh: Mesh,
  normalization: dict[str, np.ndarray],
  seed: int,
  weights: Mapping[str, Mapping[str, Any]] = types.MappingProxyType({}),
) -> TrainState:
  drawn = initializers.draw(variables, seed)
  merged = {name: {**drawn[name], **weights.get(name, {})} for name in COLLECTIONS}
  state = TrainState(
    step=np.int32(0),
    **merged,
    opt_state=jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes.opt_state),  # As those of optax begin.
    normalization=normalization,
    ema={},
  )
  # Each array gets memory of its own, also the averages, which begin as copies: the train step donates the state.
  ema = sharding.replicate(merged, mesh) if shapes.ema else {}
  return sharding.replicate(state, mesh).replace(ema=ema)


def _loss(config: ml_collections.ConfigDict, num_classes: int) -> Callable:
  weights = tuple(config.loss.class_weights)
  if weights and len(weights) != num_classes:
    raise ValueError(
      f"config.loss.class_weights={weights}: has {len(weights)} numbers, but {config.data.dataset} has {num_classes} "
      f"classes. Use one per class, or {flag('config.loss.class_weights', ())} for equal weights."
    )
  dice = {} if is_classifier(config) else {"dice_weight": config.loss.dice_weight}
  return functools.partial(
    tasks.of(config).loss,
    ignore=tasks.of(config).IGNORE,
    class_weights=weights,
    label_smoothing=config.loss.label_smoothing,
    focal_gamma=config.loss.focal_gamma,
    ohem_fraction=config.loss.ohem_fraction,
    ohem_threshold=config.loss.ohem_threshold,
    **dice,
  )
