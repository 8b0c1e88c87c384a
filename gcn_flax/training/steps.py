"""The two functions that run on the devices: one update of the weights, one batch of scores."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from gcn_flax.evaluation.confusion import confusion_matrix
from gcn_flax.training import losses
from gcn_flax.training.state import TrainState

Batch = dict[str, jax.Array]  # image uint8 [B, H, W, 3], label uint8 [B, H, W].


def normalize(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
  """uint8 RGB `[B, H, W, 3]` -> float32 `(images - mean) / std`, by channel."""
  return (images.astype(jnp.float32) - jnp.array(mean, jnp.float32)) / jnp.array(std, jnp.float32)


def make_train_step(
  network: nn.Module,
  optimizer: optax.GradientTransformation,
  preprocess: Callable[[jax.Array], jax.Array],
  accumulate_steps: int = 1,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
  """Returns `(state, batch) -> (state, metrics)`, to be compiled.

  The loss is the mean over all valid pixels of the global batch, also where it is
  worked off in `accumulate_steps` parts; only the statistics of batch
  normalisation are then those of a part. Metrics are float32 scalars: `loss`,
  `grad_norm` (before clipping), and the bool `finite`, whether loss, gradient and
  the new state are all finite.
  """

  def loss_of_part(params, batch_stats, part: Batch, num_valid):
    variables = {"params": params, "batch_stats": batch_stats}
    logits, updates = network.apply(variables, preprocess(part["image"]), train=True, mutable=["batch_stats"])
    return losses.cross_entropy_sum(logits, part["label"]) / num_valid, updates["batch_stats"]

  gradient_of_part = jax.value_and_grad(loss_of_part, has_aux=True)

  def train_step(state: TrainState, batch: Batch):
    num_valid = jnp.maximum(losses.count_valid(batch["label"]), 1).astype(jnp.float32)

    def add_part(carry, part):
      loss, batch_stats, gradient = carry
      (part_loss, batch_stats), part_gradient = gradient_of_part(state.params, batch_stats, part, num_valid)
      return (loss + part_loss, batch_stats, jax.tree.map(jnp.add, gradient, part_gradient)), None

    if accumulate_steps == 1:
      (loss, batch_stats), gradient = gradient_of_part(state.params, state.batch_stats, batch, num_valid)
    else:
      start = (jnp.float32(0), state.batch_stats, jax.tree.map(jnp.zeros_like, state.params))
      parts = jax.tree.map(lambda leaf: _split(leaf, accumulate_steps), batch)
      (loss, batch_stats, gradient), _ = jax.lax.scan(add_part, start, parts)

    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    grad_norm = optax.tree.norm(gradient)
    state_norm = optax.tree.norm((params, batch_stats))
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm) & jnp.isfinite(state_norm)
    state = TrainState(step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state)
    return state, {"loss": loss, "grad_norm": grad_norm, "finite": finite}

  return train_step


def _split(leaf: jax.Array, parts: int) -> jax.Array:
  """`[B, ...]` -> `[parts, B / parts, ...]`; every part takes its share from each device, so nothing moves."""
  return jnp.moveaxis(leaf.reshape(leaf.shape[0] // parts, parts, *leaf.shape[1:]), 1, 0)


def make_eval_step(
  network: nn.Module, preprocess: Callable[[jax.Array], jax.Array]
) -> Callable[[Any, Any, Batch], tuple[jax.Array, jax.Array]]:
  """Returns `(params, batch_stats, batch) -> (confusion, predictions)`, to be compiled.

  `confusion` is int32 `[C, C]` over the global batch, `predictions` uint8 `[B, H, W]`.
  """

  def eval_step(params, batch_stats, batch: Batch):
    variables = {"params": params, "batch_stats": batch_stats}
    logits = network.apply(variables, preprocess(batch["image"]), train=False)
    predictions = jnp.argmax(logits, -1).astype(jnp.uint8)
    return confusion_matrix(batch["label"], predictions, network.num_classes), predictions

  return eval_step
