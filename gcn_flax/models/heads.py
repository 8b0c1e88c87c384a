"""Heads that turn feature maps into class scores (Figures 2 B and 4), and the block that refines them (Figure 2 C).

`GlobalConv` is the paper's head; the other heads are those it is compared with. Heads are linear and map
`[B, H, W, C]` to `[B, H, W, features]`; `last_init` initialises the kernels of their last convolutions. The block has
a ReLU inside and keeps the shape.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from gcn_flax.models import kernels
from gcn_flax.models.initializers import LECUN_NORMAL
from gcn_flax.models.layers import Conv
from gcn_flax.models.layout import FeatureMap, Layout
from gcn_flax.models.ops import current_ops


def check_kernel_size(kernel_size: int) -> None:
  """Raises ValueError unless `kernel_size` is odd and positive: an even kernel has no centre."""
  if kernel_size < 1 or kernel_size % 2 == 0:
    raise ValueError(f"kernel_size={kernel_size}: must be odd and at least 1. Use {abs(kernel_size) | 1}.")


class GlobalConv(nn.Module):
  """Global Convolutional Network, Figure 2 B: `(k x 1 then 1 x k) + (1 x k then k x 1)`.

  Every output sees a dense `k x k` window, for `O(k)` instead of `O(k^2)` weights.

  Raises ValueError for an even `kernel_size`.
  """

  features: int
  kernel_size: int
  use_bias: bool = True
  dtype: jnp.dtype = jnp.float32
  last_init: Callable = LECUN_NORMAL

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    check_kernel_size(self.kernel_size)
    conv = functools.partial(Conv, self.features, use_bias=self.use_bias, dtype=self.dtype)
    tall, wide = (self.kernel_size, 1), (1, self.kernel_size)
    _, height, width, _ = x.shape
    # Neighbouring outputs along the first kernel share most of their window, so a block of them is computed as one
    # pixel with more channels (space-to-depth).
    rows, columns = (current_ops().head_block(self.features, side) for side in (height, width))
    x = FeatureMap.of(x)
    left = conv(tall, name="left_first")(x, Layout(self.features, (rows, 1)))
    left = conv(wide, kernel_init=self.last_init, name="left_second")(left).plain()
    right = conv(wide, name="right_first")(x, Layout(self.features, (1, columns)))
    right = conv(tall, kernel_init=self.last_init, name="right_second")(right).plain()
    return left + right


class TrivialConv(nn.Module):
  """One dense `k x k` convolution (Figure 4 C, Table 2). Raises ValueError for an even `kernel_size`."""

  features: int
  kernel_size: int
  use_bias: bool = True
  dtype: jnp.dtype = jnp.float32
  last_init: Callable = LECUN_NORMAL

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    check_kernel_size(self.kernel_size)
    size = (self.kernel_size, self.kernel_size)
    options = dict(use_bias=self.use_bias, dtype=self.dtype, kernel_init=self.last_init)
    return Conv(self.features, size, **options, name="conv")(x)


class ConvStack(nn.Module):
  """`(k - 1) / 2` convolutions 3 x 3, which together see `k x k` (Figure 4 D, Tables 3 and 4).

  `width` is the number of channels between them. Raises ValueError for a `kernel_size` that is even or below 3.
  """

  features: int
  kernel_size: int
  width: int
  use_bias: bool = True
  dtype: jnp.dtype = jnp.float32
  last_init: Callable = LECUN_NORMAL

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    check_kernel_size(self.kernel_size)
    if self.kernel_size == 1:
      raise ValueError("kernel_size=1: a stack of 3 x 3 convolutions needs 3 or more. Use 3, or head 'pointwise'.")
    conv = functools.partial(Conv, kernel_size=(3, 3), use_bias=self.use_bias, dtype=self.dtype)
    last = (self.kernel_size - 1) // 2 - 1
    for index in range(last):
      x = conv(self.width, name=f"conv{index}")(x)
    return conv(self.features, kernel_init=self.last_init, name=f"conv{last}")(x)


class PointwiseConv(nn.Module):
  """The 1 x 1 convolution of the paper's baseline (Figure 4 A)."""

  features: int
  use_bias: bool = True
  dtype: jnp.dtype = jnp.float32
  last_init: Callable = LECUN_NORMAL

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    options = dict(use_bias=self.use_bias, dtype=self.dtype, kernel_init=self.last_init)
    return Conv(self.features, (1, 1), **options, name="conv")(x)


class BoundaryRefine(nn.Module):
  """Boundary Refinement (BR), Figure 2 C: `S + R(S)` with `R` = 3 x 3 convolution, ReLU, 3 x 3 convolution.

  Takes an array `[B, H, W, C]` or a `FeatureMap` and returns the same kind. A map in blocks loses its channel padding
  (see `refined_layout`).

  Attributes:
    dtype: dtype of the computation.
    last_init: initialiser of the second kernel; if zeros, the block begins as the identity.
  """

  dtype: jnp.dtype = jnp.float32
  last_init: Callable = LECUN_NORMAL

  @nn.compact
  def __call__(self, scores: jax.Array | FeatureMap) -> jax.Array | FeatureMap:
    s = FeatureMap.of(scores)
    fused = current_ops().boundary_refine
    if fused and not s.layout.in_blocks and not self.is_initializing():
      refined = FeatureMap(self._fused(fused, s), s.layout)
      return refined if isinstance(scores, FeatureMap) else refined.array
    conv = functools.partial(Conv, s.layout.channels, (3, 3), dtype=self.dtype)
    hidden = conv(name="conv1")(s, s.layout).map(nn.relu)
    residual = conv(kernel_init=self.last_init, name="conv2")(hidden, refined_layout(s.layout))
    refined = s.to(residual.layout) + residual
    return refined if isinstance(scores, FeatureMap) else refined.array

  def _fused(self, fused: Callable[..., jax.Array], s: FeatureMap) -> jax.Array:
    """Returns the refined map as an array in its layout, computed with the parameters of `conv1` and `conv2`."""
    weights = []
    for name in ("conv1", "conv2"):
      parameters = self.variables["params"][name]
      weights.append(kernels.pad_channels(parameters["kernel"], s.layout.width, s.layout.width))
      weights.append(s.layout.tile(parameters["bias"]))
    return fused(s.array.astype(self.dtype), *weights)


def refined_layout(layout: Layout) -> Layout:
  """Returns the layout of a BR's result: a map in blocks loses its channel padding.

  Channel padding only speeds up convolutions, and no convolution reads such a map: depth-to-space or the loss follows.
  """
  return layout.without_padding() if layout.in_blocks else layout
