"""Cross-entropy of pixels or of whole images, with class weights, label smoothing, focal loss, hard example mining.

Segmentation can add the soft Dice loss.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gcn_flax.labels import IGNORE
from gcn_flax.models.layout import FeatureMap, label_planes

_STRIP = 32  # Rows of an image whose losses are summed at once; sides of evaluated images are multiples of it.


def segmentation_loss(
  logits: FeatureMap, labels: jax.Array, *, dice_weight: float = 0.0, ignore: int = IGNORE, **options
) -> tuple[jax.Array, jax.Array]:
  """Returns `cross_entropy` + `dice_weight` * `dice_loss` of a map of logits in any layout.

  Args:
    logits: logits of B images of H x W pixels.
    labels: uint8 `[B, H, W]`, 0 to C - 1 or the ignore label.
    dice_weight: weight of the soft Dice loss; 0 for none.
    ignore: label of void pixels.
    **options: options of `cross_entropy`, except `axis`.

  Returns:
    `(sum, weight)`, as `cross_entropy`. The Dice loss, a ratio over all pixels given, is multiplied by `weight`: the
    sums of micro-batches, divided by their weights, give the weighted mean of the Dice losses of the micro-batches.
  """
  layout, axis = logits.layout, -1
  if layout.in_blocks:
    array, labels, axis = logits.planes(), label_planes(labels, layout.block), 3
  else:
    array = logits.array[..., : layout.channels]
  total, weight = cross_entropy(array, labels, axis=axis, ignore=ignore, **options)
  if dice_weight:
    total += dice_weight * weight * dice_loss(array, labels, axis=axis, ignore=ignore)
  return total, weight


def dice_loss(logits: jax.Array, labels: jax.Array, *, axis: int = -1, ignore: int = IGNORE) -> jax.Array:
  """Returns the soft Dice loss (Milletari et al., 3DV 2016, without squares) of all pixels that are not void.

  It is 1 minus the mean, over the classes that occur, of `2 * sum(p * y) / sum(p + y)`: p is the probability of the
  class, y is 1 where it is the true one, and the sums run over all pixels of all images.

  Args:
    logits: `[..., C]`, any float dtype; computed in float32.
    labels: `[...]`, 0 to C - 1 or `ignore`.
    axis: axis of the classes in `logits`.
    ignore: label of void pixels, which get no gradient either.

  Returns:
    A float32 scalar from 0 to 1; 0 if all pixels are void.
  """
  axis %= logits.ndim
  log_norm, _ = _terms(logits, labels, axis)
  log_norm, labels = jnp.expand_dims(log_norm, axis), jnp.expand_dims(labels, axis)
  probabilities = jnp.where(labels != ignore, jnp.exp(logits.astype(jnp.float32) - log_norm), 0.0)
  is_true = labels == jax.lax.broadcasted_iota(labels.dtype, logits.shape, axis)
  pixels = [index for index in range(logits.ndim) if index != axis]
  hits = jnp.sum(jnp.where(is_true, probabilities, 0.0), pixels)
  true = jnp.sum(is_true, pixels, dtype=jnp.int32)
  dice = 2 * hits / jnp.maximum(jnp.sum(probabilities, pixels) + true, 1.0)  # `true` is at least 1 where it counts.
  occurs = true > 0
  return jnp.sum(jnp.where(occurs, 1 - dice, 0.0)) / jnp.maximum(jnp.sum(occurs), 1)


def evaluation_loss(logits: FeatureMap, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns `segmentation_loss` without options, summed over strips of rows so that no second map is stored.

  On a CPU this takes a quarter of the time, too: strips fit into its caches. It has no use for training, whose gradient
  needs the whole map. Arguments are those of `segmentation_loss`, H a multiple of 32.
  """

  def split(array: jax.Array) -> jax.Array:
    count = labels.shape[1] // _STRIP
    return jnp.moveaxis(array.reshape(array.shape[0], count, -1, *array.shape[2:]), 1, 0)

  def loss_of(strip: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    return segmentation_loss(FeatureMap(strip[0], logits.layout), strip[1])

  totals, weights = jax.lax.map(loss_of, (split(logits.array), split(labels)))
  return jnp.sum(totals), jnp.sum(weights)


def cross_entropy(
  logits: jax.Array,
  labels: jax.Array,
  *,
  axis: int = -1,
  ignore: int = IGNORE,
  class_weights: Sequence[float] = (),
  label_smoothing: float = 0.0,
  focal_gamma: float = 0.0,
  ohem_fraction: float = 1.0,
  ohem_threshold: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
  """Returns the sum and the weight of the softmax cross-entropy of all pixels, or images, that are not void.

  The loss is `sum / weight`: both are returned, so that micro-batches can be added up before the division. Label
  smoothing and class weights are those of PyTorch's `cross_entropy`: class weights also weigh the classes that the
  smoothed target is spread over, and `weight` is the sum of the weights of the true classes.

  Args:
    logits: `[..., C]`, any float dtype; computed in float32.
    labels: `[...]` whole numbers of any dtype, 0 to C - 1 or `ignore`.
    axis: axis of the classes in `logits`.
    ignore: label of void pixels, which get no gradient either.
    class_weights: one weight per class; () for 1 each.
    label_smoothing: share of the target that is spread evenly over all classes (Szegedy et al., CVPR 2016).
    focal_gamma: focal loss (Lin et al., ICCV 2017): multiplies the loss of each pixel by (1 - p) ** focal_gamma, where
      p is the probability of its true class. `weight` stays as it is. 0 for none.
    ohem_fraction: share of the pixels to train on, those with the largest loss; 1 for all. Void pixels and pixels of
      weight 0 are left out first.
    ohem_threshold: pixels whose true class has a lower probability than this count as well.

  Returns:
    `(sum, weight)`, float32 scalars: the sum in nats, both 0 if all pixels are void.
  """
  axis %= logits.ndim
  num_classes = logits.shape[axis]
  valid = labels != ignore
  log_norm, true_logit = _terms(logits, labels, axis)
  unweighted = log_norm - true_logit
  losses, weights = unweighted, jnp.int32(1)
  if class_weights:
    table = jnp.array(class_weights, jnp.float32)
    weights = _look_up(table, labels, channels_last=axis == logits.ndim - 1)
    losses = unweighted * weights
  if label_smoothing:
    table = jnp.array(class_weights or [1.0] * num_classes, jnp.float32)
    weighted = logits.astype(jnp.float32) * _along(table, axis, logits.ndim)
    spread = log_norm * jnp.mean(table) - jnp.mean(weighted, axis)
    losses = (1 - label_smoothing) * losses + label_smoothing * spread
  if focal_gamma:
    losses *= _focal_factor(jnp.where(valid, unweighted, 0.0), focal_gamma)
  if ohem_fraction < 1:
    valid = hardest(jax.lax.stop_gradient(unweighted), valid & (weights > 0), ohem_fraction, ohem_threshold)
  # Ones are summed as integers: float32 stops counting at 2 ** 24, which eight images of 1024 x 2048 reach.
  return jnp.sum(jnp.where(valid, losses, 0.0)), jnp.sum(jnp.where(valid, weights, 0)).astype(jnp.float32)


def cross_entropy_of_probabilities(
  probabilities: jax.Array, labels: jax.Array, ignore: int = IGNORE
) -> tuple[jax.Array, jax.Array]:
  """Returns the sum and the weight of the cross-entropy, as `cross_entropy`, of probabilities instead of logits.

  Args:
    probabilities: float32 `[..., C]`, 0 to 1; 0 counts as the smallest normal number, 87.3 nats.
    labels: `[...]` whole numbers of any dtype, 0 to C - 1 or `ignore`.
    ignore: label of void pixels.
  """
  # A gather, because XLA's CPU backend would store a product with one-hot labels, a second map of all classes.
  true = jnp.take_along_axis(probabilities, labels[..., None].astype(jnp.int32), -1, mode="clip")[..., 0]
  losses = -jnp.log(jnp.maximum(true, jnp.finfo(jnp.float32).tiny))
  valid = labels != ignore
  return jnp.sum(jnp.where(valid, losses, 0.0)), jnp.sum(valid.astype(jnp.int32)).astype(jnp.float32)


def _along(table: jax.Array, axis: int, ndim: int) -> jax.Array:
  """Reshapes one value per class for broadcasting over all axes but `axis`."""
  return table.reshape([-1 if index == axis else 1 for index in range(ndim)])


def _look_up(table: jax.Array, labels: jax.Array, channels_last: bool) -> jax.Array:
  """Returns each pixel's entry of a table, 0 for void, without a gather, which is slow on a sharded TPU."""
  if channels_last:
    return jnp.sum(jax.nn.one_hot(labels, len(table)) * table, -1)
  return sum(jnp.where(labels == index, table[index], 0.0) for index in range(len(table)))


def _focal_factor(losses: jax.Array, gamma: float) -> jax.Array:
  """Returns (1 - p) ** gamma for losses -ln(p). The slope of a power below 1 is infinite at 0, so 1 - p is cut off."""
  return jnp.maximum(-jnp.expm1(-losses), 1e-6) ** gamma


def _terms(logits: jax.Array, labels: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
  """Returns `_cross_entropy_terms` for classes on any axis."""
  terms = _cross_entropy_terms if axis == logits.ndim - 1 else _planes_cross_entropy_terms
  return terms(logits, labels, axis)


def _cross_entropy_terms(logits: jax.Array, labels: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
  """Returns (log-sum-exp of the logits, logit of the true class, 0 for void), float32, for classes on the last axis."""
  del axis
  logits = logits.astype(jnp.float32)
  return jax.nn.logsumexp(logits, -1), jnp.sum(logits * jax.nn.one_hot(labels, logits.shape[-1]), -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _planes_cross_entropy_terms(logits: jax.Array, labels: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
  """Returns `_cross_entropy_terms` of planes, class by class: a TPU then reads each plane once, without reductions."""
  planes = [jax.lax.index_in_dim(logits, index, axis, False).astype(jnp.float32) for index in range(logits.shape[axis])]
  largest = functools.reduce(jnp.maximum, planes)
  log_norm = largest + jnp.log(sum(jnp.exp(plane - largest) for plane in planes))
  return log_norm, sum(jnp.where(labels == index, plane, 0.0) for index, plane in enumerate(planes))


def _planes_cross_entropy_terms_forward(logits, labels, axis):
  log_norm, true_logit = _planes_cross_entropy_terms(logits, labels, axis)
  return (log_norm, true_logit), (logits, labels, log_norm)


def _planes_cross_entropy_terms_backward(axis, saved, gradients):
  logits, labels, log_norm = saved
  norm_gradient, true_gradient, log_norm, labels = (
    jnp.expand_dims(array, axis) for array in (*gradients, log_norm, labels)
  )
  classes = jax.lax.broadcasted_iota(labels.dtype, logits.shape, axis)
  probabilities = jnp.exp(logits.astype(jnp.float32) - log_norm)
  gradient = norm_gradient * probabilities + jnp.where(labels == classes, true_gradient, 0.0)
  # As in `FeatureMap.planes`: the gradient is to be transposed in its own dtype.
  return jax.lax.optimization_barrier(gradient.astype(logits.dtype)), None


_planes_cross_entropy_terms.defvjp(_planes_cross_entropy_terms_forward, _planes_cross_entropy_terms_backward)


def hardest(losses: jax.Array, valid: jax.Array, fraction: float, threshold: float) -> jax.Array:
  """Selects the pixels of the whole batch that count in online hard example mining (Shrivastava et al., CVPR 2016).

  Args:
    losses: float32 `[...]`, at least 0: minus the logarithm of the true class's probability.
    valid: bool `[...]`.
    fraction: share of the valid pixels that is kept, rounded up, with all of equal losses.
    threshold: pixels of a lower probability than this are kept as well.

  Returns:
    bool `[...]`, True for the pixels that are kept.
  """
  # Non-negative float32 numbers sort like their bits read as integers. So the loss of rank `wanted` is found bit by
  # bit, by counting. A sort would have to gather a batch that is spread over devices.
  bits = jnp.where(valid, jax.lax.bitcast_convert_type(jnp.maximum(losses, 0.0), jnp.int32), -1)
  wanted = jnp.ceil(fraction * jnp.sum(valid, dtype=jnp.int32)).astype(jnp.int32)

  def set_bit(index, smallest):
    raised = smallest | (1 << (30 - index))
    return jnp.where(jnp.sum(bits >= raised, dtype=jnp.int32) >= wanted, raised, smallest)

  kept = bits >= jax.lax.fori_loop(0, 31, set_bit, jnp.int32(0))
  if threshold:
    kept |= losses > -math.log(threshold)
  return valid & kept
