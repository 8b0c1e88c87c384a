"""Stochastic gradient descent, its schedules, and the moving average of the weights."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

ENCODER = "encoder"  # The name of the encoder's part in the tree of every network.


def make_schedule(
  kind: str, learning_rate: float, total_steps: int, warmup_steps: int, poly_power: float
) -> optax.Schedule:
  """Linear warm-up from 0, then a fall to 0 at `total_steps`.

  `poly`: `learning_rate * (1 - step / total_steps) ** poly_power`; `cosine`: `learning_rate *
  (1 + cos(pi * step / total_steps)) / 2`. The rate falls from step 0 on, also under the warm-up,
  so that lengthening the warm-up does not move the curve behind it. A warm-up longer than half
  the run is cut to that half.
  """
  warmup_steps = min(warmup_steps, total_steps // 2)

  def schedule(step):
    left = jnp.maximum(0.0, 1.0 - step / total_steps)
    fall = left**poly_power if kind == "poly" else 0.5 * (1 - jnp.cos(jnp.pi * left))
    warmup = jnp.minimum(1.0, (step + 1) / (warmup_steps + 1))
    return learning_rate * fall * warmup

  return schedule


def is_kernel(params) -> dict:
  """A tree of bools: True for the kernels of convolutions and dense layers."""
  return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def sgd(
  schedule: optax.Schedule,
  *,
  momentum: float,
  weight_decay: float,
  clip_norm: float,
  decayed: str = "kernels",
  encoder_lr_factor: float = 1.0,
) -> optax.GradientTransformation:
  """Clips the gradient of the loss, adds weight decay, then momentum, then the rate: the order of Caffe and PyTorch.

  Args:
    schedule: step -> learning rate.
    momentum: share of the last update that is kept.
    weight_decay: times the weights, added to the gradient.
    clip_norm: largest global norm of the gradient; 0 clips nothing.
    decayed: `kernels`, or `all`: biases and normalisation too.
    encoder_lr_factor: the encoder's learning rate is so many times the others'.
  """

  def scale_encoder(updates, params=None):
    del params
    return {
      name: jax.tree.map(lambda leaf: leaf * encoder_lr_factor, part) if name == ENCODER else part
      for name, part in updates.items()
    }

  return optax.chain(
    optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
    optax.add_decayed_weights(weight_decay, mask=is_kernel if decayed == "kernels" else None),
    optax.sgd(schedule, momentum=momentum),
    optax.stateless(scale_encoder) if encoder_lr_factor != 1.0 else optax.identity(),
  )


def move_average(average: Any, values: Any, step: jax.Array, decay: float) -> Any:
  """The exponential moving average of a tree after update number `step` (from 0).

  The decay begins at 0.1 and rises, `(1 + step) / (10 + step)`, to what is asked for, so that the
  first random weights are soon forgotten, as in TensorFlow's `ExponentialMovingAverage`.
  """
  decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
  return jax.tree.map(lambda old, new: old + (1.0 - decay) * (new - old), average, values)
