"""ONNX of a trained network, built from its weights, with batch normalisation folded into the convolutions.

The graph follows from PyTorch's names and the shapes of the weights: the blocks of the encoder, the kind of heads,
whether there is boundary refinement. It takes any batch and any sides that are multiples of 32. (A converter of JAX
programs, jax2onnx 0.17.1, fixes the sides, and needs an older Orbax than this package.)
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gcn_flax.models.pretrained import Family

_OPSET, _IR = 17, 8  # Of 2022, so that older runtimes read the file.
_EPSILON = 1e-5  # Of batch normalisation, as in `models.resnet.batch_norm`.


def serialize(
  tensors: Mapping[str, np.ndarray], family: Family, metadata: Mapping[str, str], size: Sequence[int] = ()
) -> bytes:
  """Returns the network as an ONNX model.

  The model maps `images`, RGB uint8 `[B, H, W, 3]`, to `labels`, uint8 `[B, H, W]`, and `probabilities`, float32
  `[B, H, W, num_classes]`, for any B and any H and W that are multiples of 32.

  Args:
    tensors: weights of a `GCN` by name, as from `models.torch_names.to_tensors`.
    family: normalisation of the input, and the place of strides.
    metadata: entries of the model's metadata.
    size: (H, W) to fix; () for any.
  """
  graph = _Graph(_with_rgb_input(tensors) if family.bgr else tensors)
  _preprocess(graph, family)
  scores = _decode(graph, _encode(graph, "pixels", family.stride_in_1x1))
  # Runtimes take the softmax over the last axis several times as fast as over another one.
  scores = graph.add("Transpose", [scores], "logits", perm=(0, 2, 3, 1))
  graph.add("Softmax", [scores], "probabilities", axis=-1)
  graph.add("ArgMax", [scores], "class_index", axis=-1, keepdims=0)
  graph.add("Cast", ["class_index"], "labels", to=TensorProto.UINT8)
  height, width = size or ("H", "W")
  num_classes = tensors["deconv1.weight"].shape[1]
  model = helper.make_model(
    helper.make_graph(
      graph.nodes,
      "gcn",
      [helper.make_tensor_value_info("images", TensorProto.UINT8, ("B", height, width, 3))],
      [
        helper.make_tensor_value_info("labels", TensorProto.UINT8, ("B", height, width)),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ("B", height, width, num_classes)),
      ],
      graph.initializers,
    ),
    producer_name="gcn_flax",
    opset_imports=[helper.make_opsetid("", _OPSET)],
    ir_version=_IR,
  )
  helper.set_model_props(model, dict(metadata))
  onnx.checker.check_model(model)
  return model.SerializeToString()


class _Graph:
  """Nodes and constants of an ONNX graph; maps are `[B, C, H, W]`, and every method returns the name of its result."""

  def __init__(self, tensors: Mapping[str, np.ndarray]):
    self.tensors = tensors
    self.nodes: list[onnx.NodeProto] = []
    self.initializers: list[onnx.TensorProto] = []

  def __contains__(self, name: str) -> bool:
    return f"{name}.weight" in self.tensors

  def add(self, operator: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
    self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
    return name

  def constant(self, name: str, value: np.ndarray) -> str:
    self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name))
    return name

  def relu(self, x: str) -> str:
    return self.add("Relu", [x], f"{x}.relu")

  def sum(self, x: str, y: str, name: str) -> str:
    return self.add("Add", [x, y], name)

  def conv(self, x: str, name: str, stride: int = 1, norm: str = "") -> str:
    """Adds a convolution, with the batch normalisation `norm` folded into it."""
    weight, bias = self.tensors[f"{name}.weight"], self.tensors.get(f"{name}.bias")
    if norm:
      weight, bias = self._folded(weight, norm)
    inputs = [x, self.constant(f"{name}.weight", weight)]
    inputs += [] if bias is None else [self.constant(f"{name}.bias", bias)]
    rows, columns = weight.shape[2] // 2, weight.shape[3] // 2
    return self.add("Conv", inputs, name, strides=(stride, stride), pads=(rows, columns, rows, columns))

  def _folded(self, weight: np.ndarray, norm: str) -> tuple[np.ndarray, np.ndarray]:
    scale, bias, mean, var = (
      self.tensors[f"{norm}.{leaf}"].astype(np.float64) for leaf in ("weight", "bias", "running_mean", "running_var")
    )
    factor = scale / np.sqrt(var + _EPSILON)
    return weight * factor[:, None, None, None], bias - mean * factor


def _with_rgb_input(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the weights of a network for BGR with a first convolution that takes RGB."""
  return {**tensors, "encoder.conv1.weight": tensors["encoder.conv1.weight"][:, ::-1]}


def _preprocess(graph: _Graph, family: Family) -> None:
  """Adds the normalisation of `images`, as `training.steps.normalize`; the result is `pixels`, in RGB."""
  order = slice(None, None, -1) if family.bgr else slice(None)
  mean, std = (np.array(values)[order].reshape(1, 3, 1, 1) for values in (family.mean, family.std))
  graph.add("Cast", ["images"], "images.float", to=TensorProto.FLOAT)
  graph.add("Transpose", ["images.float"], "images.planes", perm=(0, 3, 1, 2))
  graph.add("Sub", ["images.planes", graph.constant("pixel_mean", mean)], "images.centred")
  graph.add("Div", ["images.centred", graph.constant("pixel_std", std)], "pixels")


def _encode(graph: _Graph, x: str, stride_in_1x1: bool) -> list[str]:
  """Adds the encoder; returns its maps of strides 4, 8, 16 and 32."""
  x = graph.relu(graph.conv(x, "encoder.conv1", 2, "encoder.bn1"))
  x = graph.add("MaxPool", [x], "encoder.pool", kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
  maps = []
  for stage in range(1, 5):
    index = 0
    while _block_kind(graph, name := f"encoder.layer{stage}.{index}"):
      stride = 2 if stage > 1 and index == 0 else 1
      x = _block(graph, x, name, stride, stride_in_1x1)
      index += 1
    maps.append(x)
  return maps


def _block_kind(graph: _Graph, name: str) -> str:
  """Returns the kind of a block: `global` (ResNet50-GCN), `bottleneck`, `basic`; "" if there is no such block."""
  if f"{name}.left_first" in graph:
    return "global"
  if f"{name}.conv1" not in graph:
    return ""
  return "bottleneck" if f"{name}.conv3" in graph else "basic"


def _block(graph: _Graph, x: str, name: str, stride: int, stride_in_1x1: bool) -> str:
  """Adds a residual block, `models.resnet.Block`."""

  def conv(x: str, layer: str, norm: str, stride: int = 1) -> str:
    return graph.conv(x, f"{name}.{layer}", stride, f"{name}.{norm}")

  kind = _block_kind(graph, name)
  if kind == "basic":
    y = conv(graph.relu(conv(x, "conv1", "bn1", stride)), "conv2", "bn2")
  elif kind == "bottleneck":
    first, second = (stride, 1) if stride_in_1x1 else (1, stride)
    y = graph.relu(conv(x, "conv1", "bn1", first))
    y = graph.relu(conv(y, "conv2", "bn2", second))
    y = conv(y, "conv3", "bn3")
  else:
    sides = []
    for side in ("left", "right"):
      y = graph.relu(conv(x, f"{side}_first", f"{side}_first_bn", stride))
      sides.append(graph.relu(conv(y, f"{side}_second", f"{side}_second_bn")))
    y = conv(graph.sum(*sides, f"{name}.branches"), "conv3", "bn3")
  if f"{name}.downsample.0" in graph:
    x = conv(x, "downsample.0", "downsample.1", stride)
  return graph.relu(graph.sum(y, x, f"{name}.sum"))


def _decode(graph: _Graph, features: Sequence[str]) -> str:
  """Adds the heads, boundary refinements and deconvolutions of Figure 2; returns the logits."""
  scores = ""
  for level in (5, 4, 3, 2):
    head = _refine(graph, _head(graph, features[level - 2], f"head{level}"), f"refine_head{level}")
    scores = _refine(graph, graph.sum(scores, head, f"sum{level}"), f"refine{level}") if scores else head
    scores = _upsample(graph, scores, f"deconv{level}")
  scores = _upsample(graph, _refine(graph, scores, "refine1"), "deconv1")
  return _refine(graph, scores, "refine0")


def _head(graph: _Graph, x: str, name: str) -> str:
  """Adds a head of Figure 4, of the kind that its weights show."""
  if f"{name}.left_first" in graph:
    left, right = (
      graph.conv(graph.conv(x, f"{name}.{side}_first"), f"{name}.{side}_second") for side in ("left", "right")
    )
    return graph.sum(left, right, f"{name}.branches")
  if f"{name}.conv" in graph:
    return graph.conv(x, f"{name}.conv")
  index = 0
  while f"{name}.conv{index}" in graph:
    x = graph.conv(x, f"{name}.conv{index}")
    index += 1
  return x


def _refine(graph: _Graph, x: str, name: str) -> str:
  """Adds a boundary refinement, if the network has it."""
  if f"{name}.conv1" not in graph:
    return x
  y = graph.conv(graph.relu(graph.conv(x, f"{name}.conv1")), f"{name}.conv2")
  return graph.sum(x, y, f"{name}.sum")


def _upsample(graph: _Graph, x: str, name: str) -> str:
  weight = graph.constant(f"{name}.weight", graph.tensors[f"{name}.weight"])
  return graph.add("ConvTranspose", [x, weight], name, strides=(2, 2), pads=(1, 1, 1, 1))
