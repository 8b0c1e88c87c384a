"""The parts of the network, on our side and in PyTorch, with the shapes they have in it."""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn import functional as F

from gcn_flax.models import heads, layers, ops, resnet
from gcn_flax.models.layout import FeatureMap, Layout
from gcn_flax.training import losses
from tests.torch_reference import TorchGCN


@dataclasses.dataclass(frozen=True)
class Part:
  """A part of the network on both sides.

  Attributes:
    name: row of the table.
    count: number of times that the network has it with this shape.
    ours: `ops -> (weights, x) -> outputs`, one array or several.
    weights: arguments of `ours`.
    torch: `TorchGCN -> function of x`; a module if it has weights.
    x: input `[B, H, W, C]`.
    into_x: True if the network needs the gradient with respect to `x`.
    inside_encoder: True if the encoder's time includes it.
    logits: True if `x` has one channel per class, to which our side adds channel padding.
  """

  name: str
  count: int
  ours: Callable[[ops.Ops], Callable[[Any, jax.Array], Any]]
  weights: Any
  torch: Callable[[TorchGCN], Callable]
  x: np.ndarray
  into_x: bool = True
  inside_encoder: bool = False
  logits: bool = False


def parts(args: argparse.Namespace, variables: dict) -> list[Part]:
  """Returns all parts of the network that `args` describe, with weights from `variables`."""
  dtype = jnp.dtype(args.dtype)
  weights = {name: variables[name]["encoder"] for name in variables}
  images = noise((args.batch, args.size, args.size, 3))

  def encode(implementation):
    encoder = resnet.BACKBONES[args.backbone](dtype=dtype, ops=implementation)
    return lambda weights, x: encoder.apply(weights, x, train=True, mutable=["batch_stats"])[0]

  shapes = [feature.shape for feature in jax.eval_shape(encode(ops.REFERENCE), weights, images)]
  whole = Part("encoder", 1, encode, weights, lambda replica: replica.encoder, images, into_x=False)
  stem = variables["params"]["encoder"]["conv1"]
  inner = [
    _max_pool(args, stem["kernel"].shape[-1]),
    *_head_parts(args, variables, shapes),
    *_decoder_parts(args, variables),
    _loss(args),
  ]
  # Images are float32, all maps within the network have the dtype of the computation.
  inner = [dataclasses.replace(part, x=part.x.astype(dtype)) for part in inner]
  return [whole, _stem(stem, images, dtype), *inner]


def _stem(weights: dict, images: np.ndarray, dtype: jnp.dtype) -> Part:
  features = weights["kernel"].shape[-1]
  return Part(
    f"stem 7 x 7, stride 2, {_shape(images)}",
    1,
    lambda implementation: _applied(layers.Conv(features, (7, 7), 2, use_bias=False, dtype=dtype), implementation),
    weights,
    lambda replica: replica.encoder.conv1,
    images,
    into_x=False,
    inside_encoder=True,
  )


def _max_pool(args: argparse.Namespace, channels: int) -> Part:
  x = np.maximum(noise((args.batch, args.size // 2, args.size // 2, channels)), 0)  # It follows a ReLU.
  return Part(
    f"max-pool 3 x 3, stride 2, {_shape(x)}",
    1,
    lambda implementation: lambda _, x: implementation.max_pool(x),
    {},
    lambda _: lambda x: F.max_pool2d(x, 3, 2, 1),
    x,
    inside_encoder=True,
  )


def _head_parts(args: argparse.Namespace, variables: dict, shapes: Sequence[tuple[int, ...]]) -> list[Part]:
  module = heads.GlobalConv(args.num_classes, args.kernel_size, dtype=jnp.dtype(args.dtype))
  return [
    _module_part(f"head{level}, k = {args.kernel_size}", 1, module, variables, f"head{level}", noise(shape))
    for level, shape in zip((2, 3, 4, 5), shapes, strict=True)
  ]


def _decoder_parts(args: argparse.Namespace, variables: dict) -> list[Part]:
  """Returns the boundary refinements and deconvolutions, one per resolution."""

  def logits(stride):
    return noise((args.batch, args.size // stride, args.size // stride, args.num_classes))

  dtype = jnp.dtype(args.dtype)
  counts = {"refine0": 1, "refine1": 1, "refine2": 2, "refine3": 2, "refine4": 2, "refine_head5": 1}
  refinements = [
    _module_part("BR", count, heads.BoundaryRefine(dtype), variables, name, logits(2**level), logits=True)
    for level, (name, count) in enumerate(counts.items())
  ]
  deconvolutions = [
    _module_part("deconvolution", 1, layers.Deconv(dtype), variables, f"deconv{level}", logits(2**level), logits=True)
    for level in range(1, 6)
  ]
  return refinements + deconvolutions


def _module_part(
  title: str, count: int, module: nn.Module, variables: dict, name: str, x: np.ndarray, logits: bool = False
) -> Part:
  """Returns the submodule `name` of the network."""
  return Part(
    f"{title}, {_shape(x)}",
    count,
    lambda implementation: _applied(module, implementation, x.shape[-1] if logits else 0),
    variables["params"][name],
    lambda replica: replica.get_submodule(name),
    x,
    logits=logits,
  )


def _applied(module: nn.Module, implementation: ops.Ops, num_classes: int = 0) -> Callable:
  """Returns `(weights, x) -> y`; with `num_classes`, both are class scores with the channel padding of the network."""

  def apply(weights, x):
    with ops.use_ops(implementation):
      if not num_classes:
        return module.apply({"params": weights}, x)
      layout = padded_layout(implementation, num_classes)
      y = module.apply({"params": weights}, FeatureMap(x, layout))
      return y.to(layout).array

  return apply


def padded_layout(implementation: ops.Ops, num_classes: int) -> Layout:
  """Returns the layout of class scores that are not in blocks."""
  return Layout(num_classes, width=implementation.padded(num_classes))


def _loss(args: argparse.Namespace) -> Part:
  x = noise((args.batch, args.size, args.size, args.num_classes))
  labels = np.random.default_rng(1).integers(0, args.num_classes, x.shape[:3], np.uint8)

  def ours(implementation):
    layout = padded_layout(implementation, args.num_classes)
    return lambda labels, x: losses.segmentation_loss(FeatureMap(x, layout), labels)[0]

  def theirs(replica):
    target = torch.from_numpy(labels).long().to(next(replica.parameters()).device)
    return lambda x: F.cross_entropy(x.float(), target, reduction="sum")

  # The labels take the place of the weights; as integers they get no gradient.
  return Part(f"loss, {_shape(x)}", 1, ours, labels, theirs, x, logits=True)


def noise(shape: Sequence[int]) -> np.ndarray:
  """Returns normally distributed float32 numbers, the same for every call."""
  return np.random.default_rng(0).standard_normal(shape, np.float32)


def _shape(x: np.ndarray) -> str:
  return " x ".join(map(str, x.shape[1:]))
