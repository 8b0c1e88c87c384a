"""ResNet encoders (He et al., CVPR 2016) in torchvision's arithmetic, and the paper's own, ResNet50-GCN.

The stride of a bottleneck stands in its 3 x 3 convolution, or, as in the original Caffe
networks, in its first 1 x 1; every strided operation pads as PyTorch does, so public
ImageNet weights give the same features.
"""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from gcn_flax.models.layers import Conv
from gcn_flax.models.ops import PLAIN, Forms


def batch_norm(norm: str, train: bool, dtype: jnp.dtype, **kwargs) -> nn.BatchNorm:
  """Batch normalisation with torchvision's momentum and epsilon.

  `sync` takes the statistics of the global batch in training: the batch is one
  sharded array, so no axis name is needed. `frozen` always takes the running
  statistics; scale and bias still learn.
  """
  return nn.BatchNorm(
    use_running_average=norm == "frozen" or not train, momentum=0.9, epsilon=1e-5, dtype=dtype, **kwargs
  )


class BasicBlock(nn.Module):
  """Two 3 x 3 convolutions and a shortcut (ResNet-18 and -34)."""

  features: int
  stride: int
  norm: Callable
  dtype: jnp.dtype
  forms: Forms
  last_scale: Callable
  stride_in_1x1: bool  # There is no 1 x 1: changes nothing.

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    options = dict(use_bias=False, dtype=self.dtype, forms=self.forms)
    y = Conv(self.features, (3, 3), self.stride, name="conv1", **options)(x)
    y = nn.relu(self.norm(name="bn1")(y))
    y = Conv(self.features, (3, 3), name="conv2", **options)(y)
    y = self.norm(name="bn2", scale_init=self.last_scale)(y)
    return nn.relu(y + shortcut(self, x))


class Bottleneck(nn.Module):
  """1 x 1, 3 x 3, 1 x 1 convolutions and a shortcut (ResNet-50 and deeper).

  The stride stands in the 3 x 3, as in torchvision, or in the first 1 x 1.
  """

  features: int
  stride: int
  norm: Callable
  dtype: jnp.dtype
  forms: Forms
  last_scale: Callable
  stride_in_1x1: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    options = dict(use_bias=False, dtype=self.dtype, forms=self.forms)
    width = self.features // 4
    first, second = (self.stride, 1) if self.stride_in_1x1 else (1, self.stride)
    y = Conv(width, (1, 1), first, name="conv1", **options)(x)
    y = nn.relu(self.norm(name="bn1")(y))
    y = Conv(width, (3, 3), second, name="conv2", **options)(y)
    y = nn.relu(self.norm(name="bn2")(y))
    y = Conv(self.features, (1, 1), name="conv3", **options)(y)
    y = self.norm(name="bn3", scale_init=self.last_scale)(y)
    return nn.relu(y + shortcut(self, x))


class GlobalBottleneck(nn.Module):
  """A bottleneck whose first two convolutions are a GCN (Figure 5, Table 11).

  Branches k x 1 then 1 x k, and 1 x k then k x 1, of `width` channels, every convolution
  followed by normalisation and ReLU; their sum goes through the 1 x 1 that stays.

  The paper says of downsampling only that stride-2 convolutions do it between the stages.
  Here the first convolution of each branch has the stride, in both directions, as the
  first convolution of a stage has it in the original ResNet. Of the possible places this
  one comes closest to the paper's 3700M multiply-adds, see docs/WEIGHTS.md.
  """

  features: int
  stride: int
  norm: Callable
  dtype: jnp.dtype
  forms: Forms
  last_scale: Callable
  stride_in_1x1: bool  # The 1 x 1 that stays is the last: changes nothing.
  kernel_size: int
  width: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    options = dict(use_bias=False, dtype=self.dtype, forms=self.forms)
    tall, wide = (self.kernel_size, 1), (1, self.kernel_size)

    def branch(side, first, second):
      y = x
      for place, size, stride in (("first", first, self.stride), ("second", second, 1)):
        y = Conv(self.width, size, stride, name=f"{side}_{place}", **options)(y)
        y = nn.relu(self.norm(name=f"{side}_{place}_bn")(y))
      return y

    y = branch("left", tall, wide) + branch("right", wide, tall)
    y = Conv(self.features, (1, 1), name="conv3", **options)(y)
    y = self.norm(name="bn3", scale_init=self.last_scale)(y)
    return nn.relu(y + shortcut(self, x))


def shortcut(block: nn.Module, x: jax.Array) -> jax.Array:
  """The identity where shapes allow it, else a strided 1 x 1 convolution with normalisation."""
  if block.stride == 1 and x.shape[-1] == block.features:
    return x
  x = Conv(
    block.features, (1, 1), block.stride, use_bias=False, dtype=block.dtype, forms=block.forms, name="downsample_conv"
  )(x)
  return block.norm(name="downsample_bn")(x)


class ResNet(nn.Module):
  """The encoder: images `[B, H, W, 3]` (normalised) -> four maps of strides 4, 8, 16 and 32.

  Attributes:
    stage_sizes: blocks in res-2 to res-5.
    blocks: the kind of block of each of these stages.
    features: channels of res-2; each later stage has twice those of the one before.
    stem: channels of the first convolution.
    norm: `sync` or `frozen`, see `batch_norm`.
    stride_in_1x1: whether bottlenecks have their stride in the first 1 x 1, as Caffe's networks.
    zero_init_residual: whether the last scale of each block begins as 0, so that each block begins as the
      identity (Goyal et al., 2017, section 5.1).
    dtype: of the computation; parameters stay float32.
    forms: in which the platform computes.
    remat: whether a block keeps only its input for the backward pass, which computes the block once more: less memory,
      more time.

  Raises ValueError where H or W is no multiple of 32.
  """

  stage_sizes: Sequence[int]
  blocks: Sequence[Callable[..., nn.Module]]
  features: int
  stem: int = 64
  norm: str = "sync"
  stride_in_1x1: bool = False
  zero_init_residual: bool = False
  dtype: jnp.dtype = jnp.float32
  forms: Forms = PLAIN
  remat: bool = False

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> tuple[jax.Array, ...]:
    height, width = images.shape[1:3]
    if height % 32 or width % 32:
      raise ValueError(
        f"images are {height} x {width}, but both sides must be multiples of 32: "
        f"pad to {-(-height // 32) * 32} x {-(-width // 32) * 32}."
      )
    norm = functools.partial(batch_norm, self.norm, train, self.dtype)
    last_scale = nn.initializers.zeros if self.zero_init_residual else nn.initializers.ones
    options = dict(use_bias=False, dtype=self.dtype, forms=self.forms)
    x = Conv(self.stem, (7, 7), 2, name="conv1", **options)(images)
    x = self.forms.max_pool(nn.relu(norm(name="bn1")(x)))
    maps = []
    for stage, (size, block) in enumerate(zip(self.stage_sizes, self.blocks, strict=True)):
      block = nn.remat(block) if self.remat else block
      for index in range(size):
        stride = 2 if stage > 0 and index == 0 else 1
        features, name = self.features * 2**stage, f"layer{stage + 1}_{index}"
        x = block(features, stride, norm, self.dtype, self.forms, last_scale, self.stride_in_1x1, name=name)(x)
      maps.append(x)
    return tuple(maps)


def _basic(*stage_sizes: int, features: int = 64) -> Callable[..., ResNet]:
  return functools.partial(ResNet, stage_sizes, (BasicBlock,) * 4, features, features)


def _bottlenecks(*stage_sizes: int, blocks: Sequence[Callable] = (Bottleneck,) * 4) -> Callable[..., ResNet]:
  return functools.partial(ResNet, stage_sizes, blocks, 256)


BACKBONES = {
  "resnet_tiny": _basic(1, 1, 1, 1, features=16),
  "resnet18": _basic(2, 2, 2, 2),
  "resnet34": _basic(3, 4, 6, 3),
  "resnet50": _bottlenecks(3, 4, 6, 3),
  "resnet101": _bottlenecks(3, 4, 23, 3),
  "resnet152": _bottlenecks(3, 8, 36, 3),
  "resnet50_gcn": _bottlenecks(
    3, 4, 6, 3,
    blocks=(
      Bottleneck,
      Bottleneck,
      functools.partial(GlobalBottleneck, kernel_size=5, width=85),
      functools.partial(GlobalBottleneck, kernel_size=7, width=128),
    ),
  ),
}  # fmt: skip
