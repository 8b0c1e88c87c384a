"""The loss: cross-entropy of pixels or of whole images, and what may weigh its terms."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gcn_flax.labels import IGNORE


def cross_entropy(
  logits: jax.Array,
  labels: jax.Array,
  *,
  ignore: int = IGNORE,
  class_weights: Sequence[float] = (),
  label_smoothing: float = 0.0,
  ohem_fraction: float = 1.0,
  ohem_threshold: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
  """Softmax cross-entropy over the pixels, or images, that are not void.

  The loss is `sum / weight`: both are returned, so that parts of a batch can be added up
  before they are divided. Smoothed and weighted as PyTorch's `cross_entropy`: class
  weights also weigh the classes that the smoothed target is spread over, and `weight` is
  the sum of those of the true classes.

  Args:
    logits: `[..., C]`, any float; computed in float32.
    labels: `[...]` integers, 0 to C - 1 or `ignore`.
    ignore: label of what is void, which gets no gradient either.
    class_weights: one for each class; () for 1 each.
    label_smoothing: share of the target that is spread evenly over all classes (Szegedy et al., CVPR 2016).
    ohem_fraction: share of what is neither void nor of weight 0 that counts: the hardest, by loss. 1 for all.
    ohem_threshold: whatever gets a lower probability for its true class than this counts besides.

  Returns:
    `(sum, weight)`, float32 scalars: the sum in nats, both 0 where all is void.
  """
  logits = logits.astype(jnp.float32)
  num_classes = logits.shape[-1]
  valid = labels != ignore
  # One-hot products instead of gathers: gathers over a sharded map are slow on TPU.
  target = jax.nn.one_hot(labels, num_classes)
  log_norm = jax.nn.logsumexp(logits, -1)
  plain = log_norm - jnp.sum(logits * target, -1)
  losses, weights = plain, jnp.int32(1)
  if class_weights:
    table = jnp.array(class_weights, jnp.float32)
    weights = jnp.sum(target * table, -1)
    losses = plain * weights
  if label_smoothing:
    table = jnp.array(class_weights or [1.0] * num_classes, jnp.float32)
    spread = log_norm * jnp.mean(table) - jnp.mean(logits * table, -1)
    losses = (1 - label_smoothing) * losses + label_smoothing * spread
  if ohem_fraction < 1:
    valid = hardest(jax.lax.stop_gradient(plain), valid & (weights > 0), ohem_fraction, ohem_threshold)
  # Ones are summed as integers: a float32 stops counting at 2 ** 24, which eight images of 1024 x 2048 reach.
  return jnp.sum(jnp.where(valid, losses, 0.0)), jnp.sum(jnp.where(valid, weights, 0)).astype(jnp.float32)


def hardest(losses: jax.Array, valid: jax.Array, fraction: float, threshold: float) -> jax.Array:
  """Online hard example mining (Shrivastava et al., CVPR 2016), over the pixels of the whole batch.

  Args:
    losses: float32 `[...]`, at least 0: minus the logarithm of the true class's probability.
    valid: bool `[...]`.
    fraction: share of the valid ones that is kept, rounded up; of equal losses all.
    threshold: all with a probability below it are kept, too.

  Returns:
    Which are kept, bool `[...]`.
  """
  # Losses of float32 are in the order of their bits, read as whole numbers. So the one of rank `wanted` is found bit
  # by bit, by counting alone: no sort, which a batch that is spread over devices would have to be brought together for.
  bits = jnp.where(valid, jax.lax.bitcast_convert_type(jnp.maximum(losses, 0.0), jnp.int32), -1)
  wanted = jnp.ceil(fraction * jnp.sum(valid, dtype=jnp.int32)).astype(jnp.int32)

  def set_bit(index, least):
    raised = least | (1 << (30 - index))
    return jnp.where(jnp.sum(bits >= raised, dtype=jnp.int32) >= wanted, raised, least)

  kept = bits >= jax.lax.fori_loop(0, 31, set_bit, jnp.int32(0))
  if threshold:
    kept |= losses > -math.log(threshold)
  return valid & kept
