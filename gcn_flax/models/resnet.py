"""ResNet encoders (He et al., CVPR 2016) in torchvision's arithmetic, and the paper's own, ResNet50-GCN.

The stride of a bottleneck is in its 3 x 3 convolution or, as in the original Caffe networks, in its first 1 x 1;
every strided operation pads as in PyTorch, so public ImageNet weights give the same features.
"""

import abc
import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from gcn_flax.models.initializers import ZEROS
from gcn_flax.models.layers import Conv
from gcn_flax.models.ops import Ops, current_ops, use_ops
from gcn_flax.rounding import round_up


def batch_norm(norm: str, train: bool, dtype: jnp.dtype, **kwargs) -> nn.BatchNorm:
  """Returns batch normalisation with torchvision's momentum and epsilon.

  `sync` takes the statistics of the global batch in training (SyncBN): the batch is one sharded array, so no axis
  name is needed. `frozen` always takes the running statistics; scale and bias still learn.
  """
  return nn.BatchNorm(
    use_running_average=norm == "frozen" or not train,
    momentum=0.9,
    epsilon=1e-5,
    dtype=dtype,
    use_fast_variance=current_ops().fast_variance,
    **kwargs,
  )


class Block(nn.Module, abc.ABC):
  """A residual block: `relu(shortcut(x) + residual(x))`.

  Attributes:
    features: channels of the output.
    stride: stride of the block.
    conv: constructor of convolutions, `Conv` with its options bound.
    norm: constructor of normalisation, with its options bound.
    last_norm: constructor of the last normalisation of the residual.
  """

  features: int
  stride: int
  conv: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]
  last_norm: Callable[..., nn.Module]

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    residual = self.residual(x)
    return nn.relu(residual + self.shortcut(x))

  @abc.abstractmethod
  def residual(self, x: jax.Array) -> jax.Array:
    """Returns the residual `[B, ceil(H / stride), ceil(W / stride), features]` of `x` `[B, H, W, C]`."""

  def shortcut(self, x: jax.Array) -> jax.Array:
    """Returns `x` where its shape fits, else a strided 1 x 1 convolution of it with normalisation."""
    if self.stride == 1 and x.shape[-1] == self.features:
      return x
    x = self.conv(self.features, (1, 1), self.stride, name="downsample_conv")(x)
    return self.norm(name="downsample_bn")(x)


class BasicBlock(Block):
  """Two 3 x 3 convolutions and a shortcut (ResNet-18 and -34)."""

  def residual(self, x: jax.Array) -> jax.Array:
    y = self.conv(self.features, (3, 3), self.stride, name="conv1")(x)
    y = nn.relu(self.norm(name="bn1")(y))
    y = self.conv(self.features, (3, 3), name="conv2")(y)
    return self.last_norm(name="bn2")(y)


class Bottleneck(Block):
  """1 x 1, 3 x 3, 1 x 1 convolutions and a shortcut (ResNet-50 and deeper).

  Attributes:
    stride_in_1x1: puts the stride into the first 1 x 1, as in Caffe, instead of the 3 x 3, as in torchvision.
  """

  stride_in_1x1: bool = False

  def residual(self, x: jax.Array) -> jax.Array:
    width = self.features // 4
    first, second = (self.stride, 1) if self.stride_in_1x1 else (1, self.stride)
    y = self.conv(width, (1, 1), first, name="conv1")(x)
    y = nn.relu(self.norm(name="bn1")(y))
    y = self.conv(width, (3, 3), second, name="conv2")(y)
    y = nn.relu(self.norm(name="bn2")(y))
    y = self.conv(self.features, (1, 1), name="conv3")(y)
    return self.last_norm(name="bn3")(y)


class GlobalBottleneck(Block):
  """A bottleneck whose first two convolutions are a GCN (Figure 5, Table 11).

  Branches k x 1 then 1 x k, and 1 x k then k x 1, of `width` channels, every convolution followed by normalisation
  and ReLU; their sum goes through the 1 x 1 that stays.

  The paper only says that stride-2 convolutions downsample between stages. Here the first convolution of each branch
  has the stride, in both directions, like the first convolution of a stage in the original ResNet. Of the possible
  places this one comes closest to the paper's 3700M multiply-adds, see docs/WEIGHTS.md.

  Attributes:
    kernel_size: k, odd.
    width: channels inside the branches.
  """

  kernel_size: int
  width: int

  def residual(self, x: jax.Array) -> jax.Array:
    tall, wide = (self.kernel_size, 1), (1, self.kernel_size)

    def branch(side, first, second):
      y = self.conv(self.width, first, self.stride, name=f"{side}_first")(x)
      y = nn.relu(self.norm(name=f"{side}_first_bn")(y))
      y = self.conv(self.width, second, name=f"{side}_second")(y)
      return nn.relu(self.norm(name=f"{side}_second_bn")(y))

    y = branch("left", tall, wide) + branch("right", wide, tall)
    y = self.conv(self.features, (1, 1), name="conv3")(y)
    return self.last_norm(name="bn3")(y)


class ResNet(nn.Module):
  """ResNet encoder: normalised images `[B, H, W, 3]` -> four maps of strides 4, 8, 16 and 32.

  Attributes:
    stage_sizes: blocks in res-2 to res-5.
    blocks: constructor of the blocks of each of these stages.
    features: channels of res-2; each later stage has twice those of the one before.
    stem: channels of the first convolution.
    norm: `sync` or `frozen`, see `batch_norm`.
    stride_in_1x1: puts the stride of bottlenecks into their first 1 x 1, as in Caffe's networks; other blocks have no
      1 x 1 that could take it.
    zero_init_residual: initialises the last scale of each block to 0, so that each block begins as the identity
      (Goyal et al., 2017, section 5.1).
    dtype: dtype of the computation; parameters stay float32.
    ops: implementations of operations; None for those of the network that the encoder is in, or of the platform that
      JAX computes on.
    remat: gradient checkpointing: each block keeps only its input for the backward pass and is computed once more,
      for less memory and more time.

  Raises ValueError if H or W is not a multiple of 32.
  """

  stage_sizes: Sequence[int]
  blocks: Sequence[Callable[..., Block]]
  features: int
  stem: int = 64
  norm: str = "sync"
  stride_in_1x1: bool = False
  zero_init_residual: bool = False
  dtype: jnp.dtype = jnp.float32
  ops: Ops | None = None
  remat: bool = False

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> tuple[jax.Array, ...]:
    check_sides(*images.shape[1:3])
    conv = functools.partial(Conv, use_bias=False, dtype=self.dtype)
    norm = functools.partial(batch_norm, self.norm, train, self.dtype)
    last_norm = functools.partial(norm, scale_init=ZEROS) if self.zero_init_residual else norm
    with use_ops(self.ops):
      x = conv(self.stem, (7, 7), 2, name="conv1")(images)
      x = current_ops().max_pool(nn.relu(norm(name="bn1")(x)))
      maps = []
      for stage, (size, block) in enumerate(zip(self.stage_sizes, self.blocks, strict=True)):
        if block is Bottleneck:
          block = functools.partial(block, stride_in_1x1=self.stride_in_1x1)
        block = nn.remat(block) if self.remat else block
        for index in range(size):
          stride = 2 if stage > 0 and index == 0 else 1
          x = block(self.features * 2**stage, stride, conv, norm, last_norm, name=f"layer{stage + 1}_{index}")(x)
        maps.append(x)
      return tuple(maps)


def check_sides(height: int, width: int) -> None:
  """Raises ValueError unless both sides of an image are multiples of 32."""
  if height % 32 or width % 32:
    raise ValueError(
      f"images are {height} x {width}: both sides must be multiples of 32. "
      f"Pad to {round_up(height, 32)} x {round_up(width, 32)}."
    )


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
