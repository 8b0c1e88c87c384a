"""Heads that turn a feature map into class scores, and the block that refines scores.

`GlobalConv` is the paper's; the others are what it is measured against (Figure 4).
None has a nonlinearity inside. All keep the size: `[B, H, W, C]` -> `[B, H, W, features]`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from gcn_flax.models import layout
from gcn_flax.models.layers import Conv
from gcn_flax.models.layout import Layout
from gcn_flax.models.ops import PLAIN, Forms


def check_kernel_size(kernel_size: int) -> None:
  """Raises ValueError unless `kernel_size` is odd and positive: an even kernel has no centre."""
  if kernel_size < 1 or kernel_size % 2 == 0:
    raise ValueError(f"kernel_size={kernel_size} must be odd and at least 1, for instance {abs(kernel_size) | 1}.")


class GlobalConv(nn.Module):
  """Global Convolutional Network, Figure 2 B: `(k x 1 then 1 x k) + (1 x k then k x 1)`.

  Every output sees a dense `k x k` window, for `O(k)` instead of `O(k^2)` weights.

  Raises ValueError where `kernel_size` is even.
  """

  features: int
  kernel_size: int
  use_bias: bool = True
  dtype: jnp.dtype = jnp.float32
  forms: Forms = PLAIN

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    check_kernel_size(self.kernel_size)
    tall, wide = (self.kernel_size, 1), (1, self.kernel_size)

    def branch(name, first, second, axis):
      options = dict(use_bias=self.use_bias, dtype=self.dtype, forms=self.forms)
      fold = self.forms.head_fold(self.features, x.shape[axis])
      # Pixels along the first kernel share most of their windows: a block of them is one pixel of many outputs.
      folded = Layout(self.features, (fold, 1) if axis == 1 else (1, fold))
      hidden = Conv(self.features, first, name=f"{name}_first", **options)(x, (Layout(x.shape[-1]), folded))
      y = Conv(self.features, second, name=f"{name}_second", **options)(hidden, (folded, folded))
      return layout.to_plain(y, folded)

    return branch("left", tall, wide, 1) + branch("right", wide, tall, 2)


class TrivialConv(nn.Module):
  """One dense `k x k` convolution (Figure 4 C, Table 2). Raises ValueError where `kernel_size` is even."""

  features: int
  kernel_size: int
  use_bias: bool = True
  dtype: jnp.dtype = jnp.float32
  forms: Forms = PLAIN

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    check_kernel_size(self.kernel_size)
    size = (self.kernel_size, self.kernel_size)
    return Conv(self.features, size, use_bias=self.use_bias, dtype=self.dtype, forms=self.forms, name="conv")(x)


class ConvStack(nn.Module):
  """`(k - 1) / 2` convolutions 3 x 3, which together see `k x k` (Figure 4 D, Tables 3 and 4).

  `width` is the number of channels between them. Raises ValueError where
  `kernel_size` is even or below 3.
  """

  features: int
  kernel_size: int
  width: int
  use_bias: bool = True
  dtype: jnp.dtype = jnp.float32
  forms: Forms = PLAIN

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    check_kernel_size(self.kernel_size)
    depth = (self.kernel_size - 1) // 2
    if not depth:
      raise ValueError("kernel_size=1 leaves a stack of no convolution; use 3 or more, or head 'pointwise'.")
    for index in range(depth):
      features = self.features if index == depth - 1 else self.width
      x = Conv(features, (3, 3), use_bias=self.use_bias, dtype=self.dtype, forms=self.forms, name=f"conv{index}")(x)
    return x


class PointwiseConv(nn.Module):
  """The 1 x 1 convolution of the paper's baseline (Figure 4 A)."""

  features: int
  use_bias: bool = True
  dtype: jnp.dtype = jnp.float32
  forms: Forms = PLAIN

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return Conv(self.features, (1, 1), use_bias=self.use_bias, dtype=self.dtype, forms=self.forms, name="conv")(x)


class BoundaryRefine(nn.Module):
  """Boundary Refinement, Figure 2 C: `S + R(S)` with `R` = 3 x 3 convolution, ReLU, 3 x 3 convolution.

  Attributes:
    dtype: of the computation; weights are float32.
    forms: in which the platform computes.
    layouts: in which the scores lie and in which the result is to lie, of the same block; None for plain maps.
  """

  dtype: jnp.dtype = jnp.float32
  forms: Forms = PLAIN
  layouts: tuple[Layout, Layout] | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    before, after = self.layouts or (Layout(x.shape[-1]),) * 2
    options = dict(kernel_size=(3, 3), dtype=self.dtype, forms=self.forms)
    hidden = nn.relu(Conv(before.channels, name="conv1", **options)(x, (before, before)))
    refined = Conv(before.channels, name="conv2", **options)(hidden, (before, after))
    return x[..., : after.width] + refined
