"""The encoder as a classifier of whole images, for pretraining."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from gcn_flax.models.initializers import LECUN_NORMAL, SMALL_NORMAL
from gcn_flax.models.ops import Ops
from gcn_flax.models.resnet import BACKBONES


class Classifier(nn.Module):
  """Global average pooling of res-5 and one dense layer, as in He et al. (CVPR 2016) and torchvision.

  Takes normalised images `[B, H, W, 3]` and returns float32 logits `[B, num_classes]`. Residual blocks begin as the
  identity, as in Goyal et al. (2017, section 5.1).

  Attributes:
    num_classes: number of classes.
    backbone: key of `BACKBONES`.
    norm: batch normalisation, `sync` (SyncBN) or `frozen`.
    stride_in_1x1: moves the stride of bottlenecks, see `ResNet`.
    dtype: dtype of the encoder's computation (mixed precision); parameters, pooling and logits are float32.
    ops: implementations of operations; None for those of the platform that JAX computes on.
    remat: gradient checkpointing in the encoder, see `ResNet`.
    small_heads: begin with small logits: a tenth of LeCun's standard deviation in the dense layer.

  Raises ValueError for image sides that are not multiples of 32.
  """

  num_classes: int
  backbone: str
  norm: str = "sync"
  stride_in_1x1: bool = False
  dtype: jnp.dtype = jnp.float32
  ops: Ops | None = None
  remat: bool = False
  small_heads: bool = False

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    options = dict(
      norm=self.norm, stride_in_1x1=self.stride_in_1x1, zero_init_residual=True, dtype=self.dtype, ops=self.ops,
      remat=self.remat,
    )  # fmt: skip
    features = BACKBONES[self.backbone](**options, name="encoder")(images, train=train)[-1]
    pooled = jnp.mean(features, axis=(1, 2), dtype=jnp.float32)  # A sum in bfloat16 would lose the last places.
    kernel_init = SMALL_NORMAL if self.small_heads else LECUN_NORMAL
    # bfloat16 would make many logits equal.
    return nn.Dense(self.num_classes, dtype=jnp.float32, kernel_init=kernel_init, name="fc")(pooled)

  def raw_logits(self, images: jax.Array, *, train: bool) -> jax.Array:
    """Returns the logits: a vector per image has no other layout."""
    return self(images, train=train)
