"""The pixel-wise loss."""

import jax
import jax.numpy as jnp

from gcn_flax.labels import IGNORE


def cross_entropy_sum(logits: jax.Array, labels: jax.Array, ignore: int = IGNORE) -> jax.Array:
  """Softmax cross-entropy summed over the pixels that are not void.

  Args:
    logits: `[B, H, W, C]`, any float; computed in float32.
    labels: `[B, H, W]` integers, 0 to C - 1 or `ignore`.
    ignore: label of void pixels, which get no gradient either.

  Returns:
    A float32 scalar, in nats; 0 where all is void.
  """
  logits = logits.astype(jnp.float32)
  # A one-hot product instead of a gather: gathers over a sharded map are slow on TPU.
  chosen = jnp.sum(logits * jax.nn.one_hot(labels, logits.shape[-1]), -1)
  losses = jax.nn.logsumexp(logits, -1) - chosen
  return jnp.sum(jnp.where(labels != ignore, losses, 0.0))


def count_valid(labels: jax.Array, ignore: int = IGNORE) -> jax.Array:
  """Number of pixels that are not void, int32 scalar."""
  return jnp.sum(labels != ignore, dtype=jnp.int32)
