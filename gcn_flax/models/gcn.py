"""The segmentation network of Figure 2: encoder, four heads, nine refinements, five deconvolutions."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from gcn_flax.models import heads, layout
from gcn_flax.models.layers import Deconv
from gcn_flax.models.layout import Layout, ScoreMap
from gcn_flax.models.ops import Forms, of_platform
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
    forms: in which the platform computes; None for those of the platform that JAX computes on.
    remat: whether the encoder keeps less for the backward pass, see `ResNet`.

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
  forms: Forms | None = None
  remat: bool = False

  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    return self.scores(images, train=train).logits()

  @nn.compact
  def scores(self, images: jax.Array, *, train: bool) -> ScoreMap:
    """Images `[B, H, W, 3]` (normalised) -> the scores of their pixels, in the layout and type they are computed in.

    Training and scoring do without float32 logits of full size. Raises ValueError as the class.
    """
    if self.backbone not in BACKBONES:
      raise ValueError(f"backbone={self.backbone!r} is unknown; choose one of {', '.join(BACKBONES)}.")
    options = dict(
      norm=self.norm, stride_in_1x1=self.stride_in_1x1, dtype=self.dtype, forms=self._forms, remat=self.remat
    )
    features = BACKBONES[self.backbone](**options, name="encoder")(images, train=train)

    plain, fine = self._forms.plain(self.num_classes), self._forms.fine(self.num_classes)
    scores = None
    for level in (5, 4, 3, 2):  # res-5 at stride 32 up to res-2 at stride 4.
      head = layout.widen(self._head(features[level - 2], f"head{level}"), plain.width)
      level_scores = self._refine(head, f"refine_head{level}", plain, plain)
      if scores is None:
        scores = level_scores
      else:
        scores = self._refine(scores + level_scores, f"refine{level}", plain, plain)
      scores = self._upsample(scores, f"deconv{level}", plain, fine if level == 2 else plain)
    # A folded map needs its filling only as the input of a convolution.
    trimmed = Layout(self.num_classes, fine.block) if fine.block != plain.block else fine
    scores = self._refine(scores, "refine1", fine, trimmed)
    if trimmed.block != plain.block:
      scores = layout.widen(layout.to_plain(scores, trimmed), plain.width)
    scores = self._upsample(scores, "deconv1", plain, fine)
    return ScoreMap(self._refine(scores, "refine0", fine, trimmed), trimmed)

  @property
  def _forms(self) -> Forms:
    return self.forms or of_platform()

  def _upsample(self, scores: jax.Array, name: str, *layouts: Layout) -> jax.Array:
    return Deconv(self.dtype, self._forms, layouts, name=name)(scores)

  def _refine(self, scores: jax.Array, name: str, *layouts: Layout) -> jax.Array:
    if not self.boundary_refine:
      return scores[..., : layouts[1].width]
    return heads.BoundaryRefine(self.dtype, self._forms, layouts, name=name)(scores)

  def _head(self, features: jax.Array, name: str) -> jax.Array:
    options = dict(dtype=self.dtype, forms=self._forms, name=name)
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
