"""The lines that the log of a training begins with: network, data, batches, evaluation."""

import logging

import jax
import ml_collections

from gcn_flax import build, spatial
from gcn_flax.config import ALL_ONCE
from gcn_flax.run_data import RunData

_log = logging.getLogger(__name__)


def log_run_summary(config: ml_collections.ConfigDict, setup: build.Setup, data: RunData) -> None:
  """Logs, before the first step, what is trained on what: a mistake shows before hours have passed."""
  parameters = sum(leaf.size for leaf in jax.tree.leaves(setup.state_shapes.params))
  classes = data.label_set.num_classes
  _log.info("network: %s; %d classes, %.2f million parameters", _network(config.model), classes, parameters / 1e6)
  _log.info("training on %s", _training_data(config, data))
  _log.info("batches of %s", _batch(config, setup))
  spatial.log_choice(config)
  split, every = config.data.eval_split, config.eval_every_steps
  images = len(data.eval_source(split))
  _log.info("evaluation on %s %s: %s images, every %s steps", config.data.dataset, split, f"{images:,}", f"{every:,}")


def _network(model: ml_collections.ConfigDict) -> str:
  size = f" with k = {model.kernel_size}" if model.head in ("gcn", "trivial", "stack") else ""
  kind = "classifier" if model.head == "classifier" else f"{model.head} heads{size}"
  refinement = ", BR" if model.boundary_refine and model.head != "classifier" else ""
  return f"{model.backbone}, {kind}{refinement}, {model.dtype}"


def _training_data(config: ml_collections.ConfigDict, data: RunData) -> str:
  sizes = [len(source) for source in data.train_sources()]
  parts = [
    f"{dataset} {split}: {size:,} images{'' if weight == ALL_ONCE else f' (weight {weight:g})'}"
    for (dataset, split, weight), size in zip(config.data.train_mix, sizes, strict=True)
  ]
  steps_per_epoch = sum(sizes) / config.batch_size  # Also with weights, see `loader.MixtureSampler`.
  steps, epochs = config.total_steps, config.total_steps / steps_per_epoch
  return f"{', '.join(parts)}; {steps_per_epoch:,.1f} steps per epoch, {steps:,} steps = {epochs:,.1f} epochs"


def _batch(config: ml_collections.ConfigDict, setup: build.Setup) -> str:
  height, width = config.data.crop_size
  shards, group = setup.mesh.shape["data"], setup.mesh.shape["spatial"]
  devices = "device" if group == 1 else f"{group} devices"
  micro_batches = f", in {config.accumulate_steps} micro-batches" if config.accumulate_steps > 1 else ""
  return f"{config.batch_size} images of {height} x {width}, {config.batch_size // shards} per {devices}{micro_batches}"
