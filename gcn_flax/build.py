"""What a config means: network, optimizer, mesh and the compiled steps."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import optax
from jax.sharding import Mesh

from gcn_flax import config as config_lib
from gcn_flax import tasks
from gcn_flax.input_pipeline import datasets, loader
from gcn_flax.input_pipeline.datasets import Source
from gcn_flax.models.pretrained import FAMILIES
from gcn_flax.training import optimizer, sharding, steps
from gcn_flax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Setup:
  """Everything of a config that computes.

  Attributes:
    network: the `GCN`, or a `Classifier`.
    mesh: of the devices.
    schedule: step -> learning rate.
    init: `seed -> TrainState`, compiled; the state is born on its devices.
    train_step: `(state, batch) -> (state, metrics)`, compiled; it consumes the old state.
    eval_step: `(weights, batch) -> predictions` of each image, compiled; `weights` are those of `TrainState.weights`,
      and predictions what the task's `inference` says.
    state_shapes: the train state as `jax.ShapeDtypeStruct`s with their shardings.
  """

  network: nn.Module
  mesh: Mesh
  schedule: optax.Schedule
  init: Callable[[int], TrainState]
  train_step: Callable[[TrainState, Any], tuple[TrainState, Any]]
  eval_step: Callable[[Any, Any], jax.Array]
  state_shapes: TrainState


def build(
  config: ml_collections.ConfigDict,
  devices: list | None = None,
  num_classes: int | None = None,
  platform: str = "",
) -> Setup:
  """Builds all that computes; nothing is compiled before it is called.

  Args:
    config: one that `validate` has passed.
    devices: to use; None takes all.
    num_classes: of the network; None asks the data set.
    platform: selects the implementations of operations, see `models.ops.ops_for`; "" for that of the devices.

  Raises ValueError where class weights are not as many as classes, where the classes are those of a data set that
  is not prepared, and where `config.mesh.spatial` does not divide the devices.
  """
  task = tasks.of(config)
  if num_classes is None:
    num_classes = datasets.open_label_set(config.data.dataset, config.data.data_dir).num_classes
  mesh = sharding.make_mesh(devices, config.mesh.spatial)
  network = task.network(config, num_classes, platform or mesh.devices.flat[0].platform)
  settings = config.optimizer
  schedule = optimizer.make_schedule(
    settings.schedule, settings.learning_rate, config.total_steps, settings.warmup_steps, settings.poly_power
  )
  descent = optimizer.sgd(
    schedule,
    momentum=settings.momentum,
    weight_decay=settings.weight_decay,
    clip_norm=settings.clip_norm,
    decayed=settings.decayed,
    encoder_lr_factor=settings.encoder_lr_factor,
  )
  whole = sharding.replicated(mesh)

  def init(seed):
    # The weights' shapes do not depend on the image's size: the smallest one will do.
    # XLA takes 0.1 s to compile each draw by threefry, the default, and a third of it by rbg.
    key = jax.random.key(seed, impl="rbg")
    variables = network.init(key, jnp.zeros((1, 32, 32, 3)), train=False)
    weights = {"params": variables["params"], "batch_stats": variables["batch_stats"]}
    return TrainState(
      step=jnp.int32(0),
      **weights,
      opt_state=descent.init(weights["params"]),
      normalization=jax.tree.map(jnp.asarray, FAMILIES[config.model.family].arrays()),
      ema=weights if settings.ema_decay else {},
    )

  shapes = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), jax.eval_shape(init, 0)
  )
  train_step = steps.make_train_step(
    network, descent, _loss(config, num_classes), config.accumulate_steps, settings.ema_decay
  )
  eval_step = steps.make_eval_step(network, task.inference(config))
  return Setup(
    network=network,
    mesh=mesh,
    schedule=schedule,
    init=jax.jit(init, out_shardings=whole),
    train_step=jax.jit(train_step, in_shardings=(whole, None), out_shardings=whole, donate_argnums=0),
    eval_step=sharding.per_device_jit(eval_step, mesh),
    state_shapes=shapes,
  )


def _loss(config: ml_collections.ConfigDict, num_classes: int) -> Callable:
  weights = tuple(config.loss.class_weights)
  if weights and len(weights) != num_classes:
    raise ValueError(
      f"config.loss.class_weights has {len(weights)} numbers, but {config.data.dataset} has {num_classes} classes."
    )
  return functools.partial(
    tasks.of(config).loss,
    ignore=tasks.of(config).IGNORE,
    class_weights=weights,
    label_smoothing=config.loss.label_smoothing,
    ohem_fraction=config.loss.ohem_fraction,
    ohem_threshold=config.loss.ohem_threshold,
  )


def open_split(config: ml_collections.ConfigDict, dataset: str, split: str) -> Source:
  """One split, to train on or to score.

  Raises ValueError where it is not prepared, is empty, has no true labels, or has
  other classes than `config.data.dataset`.
  """
  source = datasets.open_source(dataset, split, config.data.data_dir)
  if not source.has_labels or not len(source):
    lack = "no true labels" if len(source) else "no example"
    raise ValueError(f"{dataset} {split!r} has {lack}: use another split.")
  classes = datasets.open_label_set(config.data.dataset, config.data.data_dir).classes
  if source.label_set.classes != classes:
    raise ValueError(
      f"{dataset} has other classes than config.data.dataset={config.data.dataset!r}: they cannot be trained together."
    )
  return source


def open_mix(config: ml_collections.ConfigDict) -> list[Source]:
  """The sources that the config trains on. Raises ValueError as `open_split`, and where two of them share images."""
  seen = set()
  for dataset, split, _ in config.data.train_mix:
    stored = {(dataset, name) for name in datasets.stored_splits(dataset, split)}
    if seen & stored:
      raise ValueError(
        f"config.data.train_mix has the images of {dataset} {split!r} more than once: take one of its splits."
      )
    seen |= stored
  return [open_split(config, dataset, split) for dataset, split, _ in config.data.train_mix]


def trains_on_scored(config: ml_collections.ConfigDict) -> bool:
  """Whether images of the split to score are trained on."""
  scored = {(config.data.dataset, name) for name in datasets.stored_splits(config.data.dataset, config.data.eval_split)}
  mix = config.data.train_mix
  return any((dataset, name) in scored for dataset, split, _ in mix for name in datasets.stored_splits(dataset, split))


def data_sets(config: ml_collections.ConfigDict) -> list[str]:
  """Every data set that the config trains on or scores."""
  return sorted({config.data.dataset, *(dataset for dataset, _, _ in config.data.train_mix)})


def data_counts(config: ml_collections.ConfigDict) -> dict[str, dict[str, int]]:
  """Number of examples of each split of each data set, as far as they are prepared."""
  return {dataset: datasets.split_sizes(dataset, config.data.data_dir) for dataset in _prepared(config)}


def fingerprints(config: ml_collections.ConfigDict) -> dict[str, dict[str, Any]]:
  """By "data set split" of all that is trained on: what must not change while a run lasts."""
  used = [(dataset, split) for dataset, split, _ in config.data.train_mix]
  return {f"{dataset} {split}": datasets.fingerprint(dataset, split, config.data.data_dir) for dataset, split in used}


def partial_data(config: ml_collections.ConfigDict) -> dict[str, list[str]]:
  """The data sets that are not whole, and what they lack, as far as they are here."""
  found = {dataset: datasets.lacks(dataset, config.data.data_dir) for dataset in _prepared(config)}
  return {dataset: lacks for dataset, lacks in found.items() if lacks}


def _prepared(config: ml_collections.ConfigDict) -> list[str]:
  return [dataset for dataset in data_sets(config) if datasets.is_prepared(dataset, config.data.data_dir)]


def train_batches(config: ml_collections.ConfigDict, mix: Sequence[Source], first_step: int) -> Iterator[loader.Batch]:
  """This host's augmented batches from `first_step` on."""
  data = config.data
  weights = [weight for _, _, weight in data.train_mix]
  return loader.train_batches(
    mix,
    loader.MixtureSampler(
      [len(source) for source in mix], None if config_lib.ALL_ONCE in weights else weights, config.seed
    ),
    loader.host_shard(config.batch_size, first_step, config.total_steps),
    seed=config.seed,
    augment=tasks.of(config).augmentation(config),
    num_threads=data.num_threads,
    num_workers=data.num_workers,
    skip_corrupt=data.skip_corrupt,
  )


def eval_batches(config: ml_collections.ConfigDict, source: Source) -> Iterator[loader.Batch]:
  """This host's share of every example, once, at `config.data.eval_size`."""
  task = tasks.of(config)
  num_steps = loader.num_eval_steps(len(source), config.eval.batch_size)
  return loader.eval_batches(
    source,
    loader.host_shard(config.eval.batch_size, 0, num_steps),
    fit=task.fitting(config),
    num_threads=config.data.num_threads,
    num_workers=config.data.num_workers,
  )
