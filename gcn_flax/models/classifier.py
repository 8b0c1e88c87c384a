"""The encoder as a classifier of whole images: what it is pretrained as."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from gcn_flax.models.ops import Forms, of_platform
from gcn_flax.models.resnet import BACKBONES


class Classifier(nn.Module):
  """Images `[B, H, W, 3]` (normalised) -> float32 logits `[B, num_classes]`.

  Global average pooling of res-5 and one dense layer, as in He et al. (CVPR 2016) and torchvision.
  Residual blocks begin as the identity, as in Goyal et al. (2017, section 5.1).

  Attributes:
    num_classes: of the scores.
    backbone: a key of `BACKBONES`.
    norm: batch normalisation, `sync` or `frozen`.
    stride_in_1x1: where bottlenecks have their stride, see `ResNet`.
    dtype: of the encoder's computation; parameters, pooling and logits are float32.
    forms: in which the platform computes; None for those of the platform that JAX computes on.
    remat: whether the encoder keeps less for the backward pass, see `ResNet`.

  Raises ValueError for image sides that are no multiples of 32.
  """

  num_classes: int
  backbone: str
  norm: str = "sync"
  stride_in_1x1: bool = False
  dtype: jnp.dtype = jnp.float32
  forms: Forms | None = None
  remat: bool = False

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    options = dict(
      norm=self.norm, stride_in_1x1=self.stride_in_1x1, zero_init_residual=True, dtype=self.dtype,
      forms=self.forms or of_platform(), remat=self.remat,
    )  # fmt: skip
    features = BACKBONES[self.backbone](**options, name="encoder")(images, train=train)[-1]
    pooled = jnp.mean(features, axis=(1, 2), dtype=jnp.float32)  # A sum in bfloat16 would lose the last places.
    return nn.Dense(self.num_classes, dtype=jnp.float32, name="fc")(pooled)  # In bfloat16 many scores would be equal.

  def scores(self, images: jax.Array, *, train: bool) -> jax.Array:
    """The logits: there is nothing to fold."""
    return self(images, train=train)
