"""ResNet encoders (He et al., CVPR 2016) in torchvision's arithmetic.

The stride of a bottleneck stands in its 3 x 3 convolution and every strided
operation pads as PyTorch does, so public ImageNet weights give the same features.
"""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from gcn_flax.models.layers import conv


def batch_norm(norm: str, train: bool, dtype: jnp.dtype, **kwargs) -> nn.BatchNorm:
  """Batch normalisation with torchvision's momentum and epsilon.

  `sync` takes the statistics of the global batch in training: the batch is one
  sharded array, so no axis name is needed. `frozen` always takes the running
  statistics; scale and bias still learn.
  """
  return nn.BatchNorm(
    use_running_average=norm == "frozen" or not train, momentum=0.9, epsilon=1e-5, dtype=dtype, **kwargs
  )


def max_pool(x: jax.Array) -> jax.Array:
  """PyTorch's `MaxPool2d(3, stride=2, padding=1)`, `[B, H, W, C]` -> `[B, ceil(H / 2), ceil(W / 2), C]`."""
  return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


class BasicBlock(nn.Module):
  """Two 3 x 3 convolutions and a shortcut (ResNet-18 and -34)."""

  width: int
  stride: int
  norm: Callable
  dtype: jnp.dtype
  expansion = 1

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    options = dict(use_bias=False, dtype=self.dtype)
    y = conv(self.width, (3, 3), self.stride, name="conv1", **options)(x)
    y = nn.relu(self.norm(name="bn1")(y))
    y = conv(self.width, (3, 3), name="conv2", **options)(y)
    y = self.norm(name="bn2")(y)
    return nn.relu(y + shortcut(self, x, y.shape[-1]))


class Bottleneck(nn.Module):
  """1 x 1, 3 x 3, 1 x 1 convolutions and a shortcut (ResNet-50 and deeper); stride in the 3 x 3."""

  width: int
  stride: int
  norm: Callable
  dtype: jnp.dtype
  expansion = 4

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    options = dict(use_bias=False, dtype=self.dtype)
    y = conv(self.width, (1, 1), name="conv1", **options)(x)
    y = nn.relu(self.norm(name="bn1")(y))
    y = conv(self.width, (3, 3), self.stride, name="conv2", **options)(y)
    y = nn.relu(self.norm(name="bn2")(y))
    y = conv(self.width * self.expansion, (1, 1), name="conv3", **options)(y)
    y = self.norm(name="bn3")(y)
    return nn.relu(y + shortcut(self, x, y.shape[-1]))


def shortcut(block: nn.Module, x: jax.Array, features: int) -> jax.Array:
  """The identity where shapes allow it, else a strided 1 x 1 convolution with normalisation."""
  if block.stride == 1 and x.shape[-1] == features:
    return x
  x = conv(features, (1, 1), block.stride, use_bias=False, dtype=block.dtype, name="downsample_conv")(x)
  return block.norm(name="downsample_bn")(x)


class ResNet(nn.Module):
  """The encoder: images `[B, H, W, 3]` (normalised) -> four maps of strides 4, 8, 16 and 32.

  Attributes:
    stage_sizes: blocks in res-2 to res-5.
    block: `BasicBlock` or `Bottleneck`.
    width: channels of the stem; those of the stages are multiples of it.
    norm: `sync` or `frozen`, see `batch_norm`.
    dtype: of the computation; parameters stay float32.

  Raises ValueError where H or W is no multiple of 32.
  """

  stage_sizes: Sequence[int]
  block: type[nn.Module]
  width: int = 64
  norm: str = "sync"
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> tuple[jax.Array, ...]:
    height, width = images.shape[1:3]
    if height % 32 or width % 32:
      raise ValueError(
        f"images are {height} x {width}, but both sides must be multiples of 32: "
        f"pad to {-(-height // 32) * 32} x {-(-width // 32) * 32}."
      )
    norm = functools.partial(batch_norm, self.norm, train, self.dtype)
    x = conv(self.width, (7, 7), 2, use_bias=False, dtype=self.dtype, name="conv1")(images.astype(self.dtype))
    x = max_pool(nn.relu(norm(name="bn1")(x)))
    features = []
    for stage, size in enumerate(self.stage_sizes):
      for index in range(size):
        stride = 2 if stage > 0 and index == 0 else 1
        name = f"layer{stage + 1}_{index}"
        x = self.block(self.width * 2**stage, stride, norm, self.dtype, name=name)(x)
      features.append(x)
    return tuple(features)


BACKBONES = {
  "resnet_tiny": functools.partial(ResNet, (1, 1, 1, 1), BasicBlock, 16),
  "resnet18": functools.partial(ResNet, (2, 2, 2, 2), BasicBlock),
  "resnet34": functools.partial(ResNet, (3, 4, 6, 3), BasicBlock),
  "resnet50": functools.partial(ResNet, (3, 4, 6, 3), Bottleneck),
  "resnet101": functools.partial(ResNet, (3, 4, 23, 3), Bottleneck),
  "resnet152": functools.partial(ResNet, (3, 8, 36, 3), Bottleneck),
}
