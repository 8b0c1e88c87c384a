"""The loss: cross-entropy of pixels or of whole images, and what may weigh its terms."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gcn_flax.labels import IGNORE
from gcn_flax.models import layout
from gcn_flax.models.layout import ScoreMap


def of_scores(scores: ScoreMap, labels: jax.Array, **options) -> tuple[jax.Array, jax.Array]:
  """`cross_entropy` of what a network says of each pixel, folded or not.

  Args:
    scores: of B images.
    labels: uint8 `[B, H, W]`, 0 to C - 1 or what is void.
    **options: those of `cross_entropy`, but for `axis`.

  Returns:
    `(sum, weight)`, as `cross_entropy`.
  """
  if not scores.folded:
    return cross_entropy(scores.array[..., : scores.layout.channels], labels, **options)
  return cross_entropy(scores.planes(), layout.fold_labels(labels, *scores.layout.block), axis=3, **options)


def cross_entropy(
  logits: jax.Array,
  labels: jax.Array,
  *,
  axis: int = -1,
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
    labels: `[...]` whole numbers of any type, 0 to C - 1 or `ignore`.
    axis: of the logits, where their classes are.
    ignore: label of what is void, which gets no gradient either.
    class_weights: one for each class; () for 1 each.
    label_smoothing: share of the target that is spread evenly over all classes (Szegedy et al., CVPR 2016).
    ohem_fraction: share of what is neither void nor of weight 0 that counts: the hardest, by loss. 1 for all.
    ohem_threshold: whatever gets a lower probability for its true class than this counts besides.

  Returns:
    `(sum, weight)`, float32 scalars: the sum in nats, both 0 where all is void.
  """
  axis %= logits.ndim
  num_classes = logits.shape[axis]
  valid = labels != ignore
  log_norm, own = (_of_last if axis == logits.ndim - 1 else _of_planes)(logits, labels, axis)
  plain = log_norm - own
  losses, weights = plain, jnp.int32(1)
  if class_weights:
    table = jnp.array(class_weights, jnp.float32)
    weights = _of_true_class(table, labels, axis, logits.ndim)
    losses = plain * weights
  if label_smoothing:
    table = jnp.array(class_weights or [1.0] * num_classes, jnp.float32)
    weighed = logits.astype(jnp.float32) * _along(table, axis, logits.ndim)
    spread = log_norm * jnp.mean(table) - jnp.mean(weighed, axis)
    losses = (1 - label_smoothing) * losses + label_smoothing * spread
  if ohem_fraction < 1:
    valid = hardest(jax.lax.stop_gradient(plain), valid & (weights > 0), ohem_fraction, ohem_threshold)
  # Ones are summed as integers: a float32 stops counting at 2 ** 24, which eight images of 1024 x 2048 reach.
  return jnp.sum(jnp.where(valid, losses, 0.0)), jnp.sum(jnp.where(valid, weights, 0)).astype(jnp.float32)


def _along(table: jax.Array, axis: int, ndim: int) -> jax.Array:
  """A value for each class as an array that is broadcast over all other axes."""
  return table.reshape([-1 if place == axis else 1 for place in range(ndim)])


def _of_true_class(table: jax.Array, labels: jax.Array, axis: int, ndim: int) -> jax.Array:
  """Each pixel's entry of a table, 0 where void: products with zeros and ones, as gathers are slow on a sharded TPU."""
  if axis == ndim - 1:
    return jnp.sum(jax.nn.one_hot(labels, len(table)) * table, -1)
  return sum(jnp.where(labels == index, table[index], 0.0) for index in range(len(table)))


def _of_last(logits: jax.Array, labels: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
  """(logarithm of the sum of exponentials, logit of the true class, 0 where void), float32."""
  del axis
  logits = logits.astype(jnp.float32)
  return jax.nn.logsumexp(logits, -1), jnp.sum(logits * jax.nn.one_hot(labels, logits.shape[-1]), -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _of_planes(logits: jax.Array, labels: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
  """`_of_last` where classes are planes: written out class by class, a TPU reads each once, without reductions."""
  planes = [jax.lax.index_in_dim(logits, index, axis, False).astype(jnp.float32) for index in range(logits.shape[axis])]
  most = functools.reduce(jnp.maximum, planes)
  log_norm = most + jnp.log(sum(jnp.exp(plane - most) for plane in planes))
  return log_norm, sum(jnp.where(labels == index, plane, 0.0) for index, plane in enumerate(planes))


def _of_planes_forward(logits, labels, axis):
  log_norm, own = _of_planes(logits, labels, axis)
  return (log_norm, own), (logits, labels, log_norm)


def _of_planes_backward(axis, saved, gradients):
  logits, labels, log_norm = saved
  of_norm, of_own, log_norm, labels = (jnp.expand_dims(array, axis) for array in (*gradients, log_norm, labels))
  classes = jax.lax.broadcasted_iota(labels.dtype, logits.shape, axis)
  probabilities = jnp.exp(logits.astype(jnp.float32) - log_norm)
  gradient = of_norm * probabilities + jnp.where(labels == classes, of_own, 0.0)
  # As in `ScoreMap.planes`: it is to be turned round in its own type.
  return jax.lax.optimization_barrier(gradient.astype(logits.dtype)), None


_of_planes.defvjp(_of_planes_forward, _of_planes_backward)


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
