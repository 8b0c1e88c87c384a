"""The two functions that run on the devices: `train_step` updates the weights, `eval_step` predicts a batch."""

import logging
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from gcn_flax.training.optimizer import update_average
from gcn_flax.training.state import TrainState

_log = logging.getLogger(__name__)

Batch = dict[str, jax.Array]  # image uint8 [B, H, W, 3]; label uint8 [B, H, W], or int32 [B] for whole images.


def normalize(images: jax.Array, normalization: dict[str, jax.Array]) -> jax.Array:
  """Normalises uint8 RGB `[B, H, W, 3]` to float32 `(images - mean) / std` in the network's order of channels.

  `normalization` is `{'mean': [3], 'std': [3], 'bgr': bool}`; `bgr` reverses the channels first.
  """
  images = images.astype(jnp.float32)
  images = jnp.where(normalization["bgr"], images[..., ::-1], images)
  return (images - normalization["mean"]) / normalization["std"]


def make_train_step(
  network: nn.Module,
  optimizer: optax.GradientTransformation,
  loss: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]],
  accumulate_steps: int = 1,
  ema_decay: float = 0.0,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
  """Returns `(state, batch) -> (state, metrics)`, to be compiled.

  Args:
    network: module with a method `raw_logits(images, train)`.
    optimizer: updates the network's parameters.
    loss: `(logits, labels) -> (sum, weight)`.
    accumulate_steps: number of micro-batches over which gradients are accumulated. The loss stays sum / weight of the
      global batch; only the statistics of batch normalisation and the hardest pixels are then those of a micro-batch.
    ema_decay: decay of the moving average of the weights; 0 for none.

  Metrics are float32 scalars: `loss`, `grad_norm` (before clipping), and the bool `finite`, True if loss, gradient
  and the new state are all finite.
  """

  def micro_batch_loss(params, batch_stats, batch: Batch, normalization):
    variables = {"params": params, "batch_stats": batch_stats}
    images = normalize(batch["image"], normalization)
    logits, updates = network.apply(variables, images, train=True, mutable=["batch_stats"], method="raw_logits")
    total, weight = loss(logits, batch["label"])
    return total, (weight, updates["batch_stats"])

  value_and_gradient = jax.value_and_grad(micro_batch_loss, has_aux=True)

  def train_step(state: TrainState, batch: Batch):
    total, weight, batch_stats, gradient = _accumulate(value_and_gradient, state, batch, accumulate_steps)
    scale = jnp.where(weight > 0, 1.0 / weight, 0.0)  # A batch that is all void, or of no weight, changes nothing.
    mean_loss = total * scale
    gradient = jax.tree.map(lambda leaf: leaf * scale, gradient)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    weights = {"params": params, "batch_stats": batch_stats}
    ema = update_average(state.ema, weights, state.step, ema_decay) if state.ema else {}
    grad_norm = optax.tree.norm(gradient)
    state_norm = optax.tree.norm((params, batch_stats))
    finite = jnp.isfinite(mean_loss) & jnp.isfinite(grad_norm) & jnp.isfinite(state_norm)
    state = state.replace(step=state.step + 1, **weights, opt_state=opt_state, ema=ema)
    return state, {"loss": mean_loss, "grad_norm": grad_norm, "finite": finite}

  return train_step


def _accumulate(value_and_gradient: Callable, state: TrainState, batch: Batch, accumulate_steps: int) -> tuple:
  """Returns (loss sum, weight, batch statistics, gradient) of a batch, summed over its micro-batches."""

  def one(batch_stats, micro_batch):
    (total, (weight, batch_stats)), gradient = value_and_gradient(
      state.params, batch_stats, micro_batch, state.normalization
    )
    return total, weight, batch_stats, gradient

  if accumulate_steps == 1:
    return one(state.batch_stats, batch)

  def add(carry, micro_batch):
    total, weight, batch_stats, gradient = carry
    new_total, new_weight, batch_stats, new_gradient = one(batch_stats, micro_batch)
    gradient = jax.tree.map(jnp.add, gradient, new_gradient)
    return (total + new_total, weight + new_weight, batch_stats, gradient), None

  start = (jnp.float32(0), jnp.float32(0), state.batch_stats, jax.tree.map(jnp.zeros_like, state.params))
  micro_batches = jax.tree.map(lambda leaf: _split(leaf, accumulate_steps), batch)
  return jax.lax.scan(add, start, micro_batches)[0]


def _split(leaf: jax.Array, parts: int) -> jax.Array:
  """Splits `[B, ...]` into `[parts, B / parts, ...]`; every part takes its share from each device, so nothing moves."""
  return jnp.moveaxis(leaf.reshape(leaf.shape[0] // parts, parts, *leaf.shape[1:]), 1, 0)


def make_eval_step(network: nn.Module, infer: Callable) -> Callable[[dict[str, Any], Batch], Any]:
  """Returns `(weights, batch) -> infer(apply, images, sizes, labels)`, to be compiled; labels are None without `label`.

  `weights` are those of `TrainState.weights`; `apply` takes RGB images of any dtype, 0 to 255, to the network's
  `raw_logits`.
  """

  def eval_step(weights, batch: Batch):
    # This line runs only when the step is traced, so it counts compilations.
    _log.info("compiling inference on images of %d x %d", *batch["image"].shape[1:3])
    variables = {"params": weights["params"], "batch_stats": weights["batch_stats"]}

    def apply(images):
      return network.apply(variables, normalize(images, weights["normalization"]), train=False, method="raw_logits")

    return infer(apply, batch["image"], batch["size"], batch.get("label"))

  return eval_step
