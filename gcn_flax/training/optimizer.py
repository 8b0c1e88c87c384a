"""The optimizer (SGD with momentum, or AdamW), learning-rate schedules, and the moving average of the weights."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

ENCODER = "encoder"  # Name of the encoder in the parameter tree of every network.


def make_schedule(
  kind: str, learning_rate: float, total_steps: int, warmup_steps: int, poly_power: float
) -> optax.Schedule:
  """Returns a schedule: linear warm-up, then decay to 0 at `total_steps`.

  The factor of the warm-up is `(step + 1) / (warmup_steps + 1)`, at most 1.

  `poly`: `learning_rate * (1 - step / total_steps) ** poly_power`; `cosine`: `learning_rate *
  (1 + cos(pi * step / total_steps)) / 2`. The decay starts at step 0, under the warm-up, so that
  a longer warm-up does not shift the curve behind it. A warm-up longer than half the run is cut to half.
  """
  warmup_steps = min(warmup_steps, total_steps // 2)

  def schedule(step):
    left = jnp.maximum(0.0, 1.0 - step / total_steps)
    fall = left**poly_power if kind == "poly" else 0.5 * (1 - jnp.cos(jnp.pi * left))
    warmup = jnp.minimum(1.0, (step + 1) / (warmup_steps + 1))
    return learning_rate * fall * warmup

  return schedule


def kernel_mask(params) -> dict:
  """Returns a tree of bools: True for the kernels of convolutions and dense layers."""
  return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def make_optimizer(
  schedule: optax.Schedule,
  *,
  kind: str = "sgd",
  momentum: float,
  weight_decay: float,
  clip_norm: float,
  decayed: str = "kernels",
  encoder_lr_factor: float = 1.0,
) -> optax.GradientTransformation:
  """Returns the optimizer; the gradient is clipped first.

  SGD follows Caffe and PyTorch: weight decay, momentum, learning rate. AdamW (Loshchilov and Hutter, ICLR 2019) is
  PyTorch's, with b2 = 0.999 and eps = 1e-8: weight decay is multiplied by the learning rate, and not normalised.

  Args:
    schedule: step -> learning rate.
    kind: `sgd` or `adamw`.
    momentum: fraction of the last update that SGD keeps; AdamW's b1.
    weight_decay: factor of the weights that SGD adds to the gradient, and AdamW to the normalised one.
    clip_norm: maximum global norm of the gradient; 0 = no clipping.
    decayed: `kernels`, or `all` to include biases and normalisation.
    encoder_lr_factor: multiplies the learning rate of the encoder.

  Raises ValueError for another kind.
  """

  def scale_encoder(updates, params=None):
    del params
    return {
      name: jax.tree.map(lambda leaf: leaf * encoder_lr_factor, part) if name == ENCODER else part
      for name, part in updates.items()
    }

  mask = kernel_mask if decayed == "kernels" else None
  if kind == "sgd":
    updates = (optax.add_decayed_weights(weight_decay, mask), optax.sgd(schedule, momentum=momentum))
  elif kind == "adamw":
    updates = (optax.adamw(schedule, b1=momentum, weight_decay=weight_decay, mask=mask),)
  else:
    raise ValueError(f"kind={kind!r}: unknown. Use sgd or adamw.")
  return optax.chain(
    optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
    *updates,
    optax.stateless(scale_encoder) if encoder_lr_factor != 1.0 else optax.identity(),
  )


def update_average(average: Any, values: Any, step: jax.Array, decay: float) -> Any:
  """Returns the exponential moving average of a tree after update number `step` (from 0).

  The decay rises from 0.1 to `decay` as `(1 + step) / (10 + step)`, so that the random initial weights are soon
  forgotten, as in TensorFlow's `ExponentialMovingAverage`.
  """
  decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
  return jax.tree.map(lambda old, new: old + (1.0 - decay) * (new - old), average, values)
