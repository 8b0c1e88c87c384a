"""The segmentation network of Figure 2: encoder, four heads, nine refinements, five deconvolutions."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from gcn_flax.models import heads
from gcn_flax.models.layers import Deconv
from gcn_flax.models.resnet import BACKBONES

HEADS = ("gcn", "trivial", "stack", "pointwise")


class GCN(nn.Module):
  """Images `[B, H, W, 3]` (normalised) -> float32 logits `[B, H, W, num_classes]`.

  Attributes:
    num_classes: of the scores; every score map is that many channels wide.
    backbone: a key of `BACKBONES`.
    kernel_size: k of the heads, odd. The paper's: 15 for 512 x 512 inputs, 25 for 800 x 800.
    head: `gcn`, or a rival of Figure 4: `trivial`, `stack`, `pointwise`.
    stack_width: channels inside the head `stack`; None takes those of its input (Table 3).
    boundary_refine: whether the nine BR blocks are there (Tables 1 to 4 are without).
    dtype: of the computation; parameters and logits are float32.
    norm: batch normalisation of the encoder, `sync` or `frozen`.
    stride_in_1x1: where the encoder's bottlenecks have their stride, see `ResNet`.

  Raises ValueError for an unknown head or backbone, an even kernel size, and image
  sides that are no multiples of 32.
  """

  num_classes: int
  backbone: str = "resnet152"
  kernel_size: int = 15
  head: str = "gcn"
  stack_width: int | None = None
  boundary_refine: bool = True
  dtype: jnp.dtype = jnp.float32
  norm: str = "sync"
  stride_in_1x1: bool = False

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    if self.backbone not in BACKBONES:
      raise ValueError(f"backbone={self.backbone!r} is unknown; choose one of {', '.join(BACKBONES)}.")
    options = dict(norm=self.norm, stride_in_1x1=self.stride_in_1x1, dtype=self.dtype)
    features = BACKBONES[self.backbone](**options, name="encoder")(images, train=train)

    scores = None
    for level in (5, 4, 3, 2):  # res-5 at stride 32 up to res-2 at stride 4.
      level_scores = self._refine(self._head(features[level - 2], f"head{level}"), f"refine_head{level}")
      if scores is None:
        scores = level_scores
      else:
        scores = self._refine(scores + level_scores, f"refine{level}")
      scores = Deconv(self.dtype, name=f"deconv{level}")(scores)
    scores = Deconv(self.dtype, name="deconv1")(self._refine(scores, "refine1"))
    return self._refine(scores, "refine0").astype(jnp.float32)

  def _refine(self, scores: jax.Array, name: str) -> jax.Array:
    return heads.BoundaryRefine(self.dtype, name=name)(scores) if self.boundary_refine else scores

  def _head(self, features: jax.Array, name: str) -> jax.Array:
    options = dict(dtype=self.dtype, name=name)
    if self.head == "gcn":
      return heads.GlobalConv(self.num_classes, self.kernel_size, **options)(features)
    if self.head == "trivial":
      return heads.TrivialConv(self.num_classes, self.kernel_size, **options)(features)
    if self.head == "stack":
      width = self.stack_width or features.shape[-1]
      return heads.ConvStack(self.num_classes, self.kernel_size, width, **options)(features)
    if self.head == "pointwise":
      return heads.PointwiseConv(self.num_classes, **options)(features)
    raise ValueError(f"head={self.head!r} is unknown; choose one of {', '.join(HEADS)}.")
