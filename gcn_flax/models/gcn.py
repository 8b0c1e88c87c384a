"""The segmentation network of Figure 2: encoder, four heads, nine boundary refinements, five deconvolutions."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from gcn_flax.models import heads
from gcn_flax.models.initializers import LECUN_NORMAL, SMALL_NORMAL, ZEROS
from gcn_flax.models.layers import Deconv
from gcn_flax.models.layout import FeatureMap
from gcn_flax.models.ops import Ops, current_ops, use_ops
from gcn_flax.models.resnet import BACKBONES

HEADS = ("gcn", "trivial", "stack", "pointwise")


class GCN(nn.Module):
  """Global Convolutional Network for semantic segmentation (Peng et al., CVPR 2017).

  Takes normalised images `[B, H, W, 3]` and returns float32 logits `[B, H, W, num_classes]`.

  Attributes:
    num_classes: number of classes; every map of class scores has as many channels.
    backbone: key of `BACKBONES`.
    kernel_size: k of the heads, odd. The paper uses 15 for inputs of 512 x 512 and 25 for 800 x 800.
    head: `gcn`, or a rival of Figure 4: `trivial`, `stack`, `pointwise`.
    stack_width: channels inside the head `stack`; None for those of its input (Table 3).
    boundary_refine: False leaves out the nine BR blocks (Tables 1 to 4).
    dtype: dtype of the computation (mixed precision) and of `raw_logits`; parameters and the logits of a call are
      float32.
    norm: batch normalisation of the encoder, `sync` (SyncBN) or `frozen`.
    stride_in_1x1: moves the stride of the encoder's bottlenecks, see `ResNet`.
    ops: implementations of operations; None for those of the platform that JAX computes on.
    remat: gradient checkpointing in the encoder, see `ResNet`.
    small_heads: begin with small logits, so that the first loss is near ln(num_classes): a tenth of LeCun's standard
      deviation in the last convolutions of each head, and every BR as the identity. False: LeCun normal throughout.

  Raises ValueError for an unknown head or backbone, an even kernel size, and image sides that are not multiples of 32.
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
  ops: Ops | None = None
  remat: bool = False
  small_heads: bool = False

  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    return self.raw_logits(images, train=train).plain().astype(jnp.float32)

  @nn.compact
  def raw_logits(self, images: jax.Array, *, train: bool) -> FeatureMap:
    """Returns the logits in the layout and dtype that they are computed in.

    Training and evaluation use these, so that no float32 map of full size is stored. Raises ValueError as the class
    does.
    """
    with use_ops(self.ops):
      features = self._encode(images, train)
      scores = None
      for level in (5, 4, 3, 2):  # res-5 at stride 32 up to res-2 at stride 4.
        head = self._refine(self._head(features[level - 2], level), f"refine_head{level}")
        scores = head if scores is None else self._refine(scores + head, f"refine{level}")
        scores = self._upsample(scores, f"deconv{level}", stride=2 ** (level - 1))
      scores = self._refine(scores, "refine1")
      scores = self._upsample(scores, "deconv1", stride=1)
      return self._refine(scores, "refine0")

  def _encode(self, images: jax.Array, train: bool) -> tuple[jax.Array, ...]:
    if self.backbone not in BACKBONES:
      raise ValueError(f"backbone={self.backbone!r}: unknown. Choose one of {', '.join(BACKBONES)}.")
    options = dict(norm=self.norm, stride_in_1x1=self.stride_in_1x1, dtype=self.dtype, remat=self.remat)
    return BACKBONES[self.backbone](**options, name="encoder")(images, train=train)

  def _head(self, features: jax.Array, level: int) -> FeatureMap:
    """Returns the class scores of one level of the encoder."""
    last_init = SMALL_NORMAL if self.small_heads else LECUN_NORMAL
    options = dict(dtype=self.dtype, last_init=last_init, name=f"head{level}")
    if self.head == "gcn":
      head = heads.GlobalConv(self.num_classes, self.kernel_size, **options)
    elif self.head == "trivial":
      head = heads.TrivialConv(self.num_classes, self.kernel_size, **options)
    elif self.head == "stack":
      head = heads.ConvStack(self.num_classes, self.kernel_size, self.stack_width or features.shape[-1], **options)
    elif self.head == "pointwise":
      head = heads.PointwiseConv(self.num_classes, **options)
    else:
      raise ValueError(f"head={self.head!r}: unknown. Choose one of {', '.join(HEADS)}.")
    return FeatureMap.of(head(features)).to(current_ops().layout(self.num_classes, stride=2**level))

  def _refine(self, scores: FeatureMap, name: str) -> FeatureMap:
    """Applies BR; without it, only the layout changes as it would."""
    if not self.boundary_refine:
      return scores.to(heads.refined_layout(scores.layout))
    last_init = ZEROS if self.small_heads else LECUN_NORMAL
    return heads.BoundaryRefine(self.dtype, last_init, name=name)(scores)

  def _upsample(self, scores: FeatureMap, name: str, stride: int) -> FeatureMap:
    """Upsamples by two, to a map at `stride` of the input."""
    return Deconv(self.dtype, name=name)(scores, current_ops().layout(self.num_classes, stride))
