"""What a config means: network, optimizer, mesh and the compiled steps."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import optax
from jax.sharding import Mesh

from gcn_flax import labels
from gcn_flax.input_pipeline import loader, transforms
from gcn_flax.input_pipeline.sources import Source, open_source
from gcn_flax.models.gcn import GCN
from gcn_flax.training import optimizer, partition, steps
from gcn_flax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Setup:
  """Everything of a config that computes.

  Attributes:
    network: the `GCN`.
    mesh: of the devices.
    schedule: step -> learning rate.
    init: `seed -> TrainState`, compiled; the state is born on its devices.
    train_step: `(state, batch) -> (state, metrics)`, compiled; it consumes the old state.
    eval_step: `(params, batch_stats, batch) -> (confusion, predictions)`, compiled.
    state_shapes: the train state as `jax.ShapeDtypeStruct`s with their shardings.
  """

  network: nn.Module
  mesh: Mesh
  schedule: optax.Schedule
  init: Callable[[int], TrainState]
  train_step: Callable[[TrainState, Any], tuple[TrainState, Any]]
  eval_step: Callable[[Any, Any, Any], tuple[jax.Array, jax.Array]]
  state_shapes: TrainState


def network(config: ml_collections.ConfigDict) -> GCN:
  """The network of a config."""
  model = config.model
  return GCN(
    num_classes=labels.label_set(config.data.dataset).num_classes,
    backbone=model.backbone,
    kernel_size=model.kernel_size,
    head=model.head,
    stack_width=model.stack_width or None,
    boundary_refine=model.boundary_refine,
    dtype=jnp.dtype(model.dtype),
    norm=model.norm,
  )


def build(config: ml_collections.ConfigDict, devices: list | None = None) -> Setup:
  """Builds all that computes; nothing is compiled before it is called.

  Args:
    config: one that `validate` has passed.
    devices: to use; None takes all.
  """
  net = network(config)
  mesh = partition.make_mesh(devices)
  settings = config.optimizer
  schedule = optimizer.poly_schedule(
    settings.learning_rate, config.total_steps, settings.warmup_steps, settings.poly_power
  )
  descent = optimizer.sgd(
    schedule, momentum=settings.momentum, weight_decay=settings.weight_decay, clip_norm=settings.clip_norm
  )
  preprocess = functools.partial(
    steps.normalize, mean=tuple(config.model.pixel_mean), std=tuple(config.model.pixel_std)
  )
  whole, split = partition.replicated(mesh), partition.batched(mesh)

  def init(seed):
    # The weights' shapes do not depend on the image's size: the smallest one will do.
    # XLA takes 0.1 s to compile each draw by threefry, the default, and a third of it by rbg.
    key = jax.random.key(seed, impl="rbg")
    variables = net.init(key, jnp.zeros((1, 32, 32, 3)), train=False)
    params, batch_stats = variables["params"], variables["batch_stats"]
    return TrainState(jnp.int32(0), params, batch_stats, descent.init(params))

  shapes = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), jax.eval_shape(init, 0)
  )
  train_step = steps.make_train_step(net, descent, preprocess, config.accumulate_steps)
  return Setup(
    network=net,
    mesh=mesh,
    schedule=schedule,
    init=jax.jit(init, out_shardings=whole),
    train_step=jax.jit(train_step, in_shardings=(whole, split), out_shardings=whole, donate_argnums=0),
    eval_step=jax.jit(
      steps.make_eval_step(net, preprocess), in_shardings=(whole, whole, split), out_shardings=(whole, split)
    ),
    state_shapes=shapes,
  )


def open_split(config: ml_collections.ConfigDict, split: str) -> Source:
  """One split of the config's data set, to train on or to score.

  Raises ValueError where it is not prepared, is empty, or has no true labels.
  """
  source = open_source(config.data.dataset, split, config.data.data_dir)
  if not source.has_labels or not len(source):
    lack = "no true labels" if len(source) else "no example"
    raise ValueError(f"{config.data.dataset} {split!r} has {lack}: use another split.")
  return source


def train_batches(config: ml_collections.ConfigDict, source: Source, first_step: int) -> Iterator[loader.Batch]:
  """This host's augmented batches from `first_step` on."""
  data = config.data
  augment = functools.partial(
    transforms.augment,
    crop_size=tuple(data.crop_size),
    pixel=tuple(config.model.pixel_mean),
    scales=tuple(data.scales) if data.random_scale else None,
    crop=data.random_crop,
    flip=data.random_flip,
  )
  return loader.train_batches(
    source,
    loader.this_host(config.batch_size, first_step, config.total_steps),
    seed=config.seed,
    augment=augment,
    num_threads=data.num_threads,
    num_workers=data.num_workers,
  )


def eval_batches(config: ml_collections.ConfigDict, source: Source) -> Iterator[loader.Batch]:
  """This host's share of every example, once, padded to `config.data.eval_size`."""
  num_steps = loader.num_eval_steps(len(source), config.eval.batch_size)
  return loader.eval_batches(
    source,
    loader.this_host(config.eval.batch_size, 0, num_steps),
    size=tuple(config.data.eval_size),
    pixel=tuple(config.model.pixel_mean),
    num_threads=config.data.num_threads,
    num_workers=config.data.num_workers,
  )
