"""Stochastic gradient descent with the poly schedule."""

import jax
import jax.numpy as jnp
import optax


def poly_schedule(learning_rate: float, total_steps: int, warmup_steps: int, power: float) -> optax.Schedule:
  """Linear warm-up from 0, then `learning_rate * (1 - step / total_steps) ** power`.

  The factor falls from step 0 on, also under the warm-up, so that lengthening the
  warm-up does not move the curve behind it. A warm-up longer than half the run is
  cut to that half.
  """
  warmup_steps = min(warmup_steps, total_steps // 2)

  def schedule(step):
    poly = jnp.maximum(0.0, 1.0 - step / total_steps) ** power
    warmup = jnp.minimum(1.0, (step + 1) / (warmup_steps + 1))
    return learning_rate * poly * warmup

  return schedule


def is_kernel(params) -> dict:
  """A tree of bools: True for convolution kernels, which alone are decayed (ours; the paper does not say)."""
  return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def sgd(
  schedule: optax.Schedule, *, momentum: float, weight_decay: float, clip_norm: float
) -> optax.GradientTransformation:
  """Clips the gradient of the loss, adds weight decay, then momentum, then the rate: the order of Caffe and PyTorch.

  `clip_norm` = 0 clips nothing.
  """
  return optax.chain(
    optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
    optax.add_decayed_weights(weight_decay, mask=is_kernel),
    optax.sgd(schedule, momentum=momentum),
  )
