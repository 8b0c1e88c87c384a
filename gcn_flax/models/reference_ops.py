"""Reference implementations of operations: one call of XLA each."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gcn_flax.models.kernels import Padding

_NHWC = ("NHWC", "HWIO", "NHWC")


def conv(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Padding) -> jax.Array:
  """Returns the convolution of `[B, H, W, I]` with `[k, l, I, O]`."""
  return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=_NHWC)


def max_pool(x: jax.Array) -> jax.Array:
  """Max-pools 3 x 3 with stride 2 and padding 1: `[B, H, W, C]` -> `[B, ceil(H / 2), ceil(W / 2), C]`."""
  window, strides = (1, 3, 3, 1), (1, 2, 2, 1)
  return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, ((0, 0), (1, 1), (1, 1), (0, 0)))
