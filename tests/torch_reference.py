"""The networks in PyTorch, as a reference for the Flax ones.

Written from the papers and with torchvision's parameter names, without code of `gcn_flax`. All modules take and
return `[B, C, H, W]`. `load_flax` copies the variables of a Flax network.
"""

import re
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

RESNETS = {  # name: (bottleneck?, blocks of each stage, channels of the stem)
  "resnet_tiny": (False, (1, 1, 1, 1), 16),
  "resnet18": (False, (2, 2, 2, 2), 64),
  "resnet34": (False, (3, 4, 6, 3), 64),
  "resnet50": (True, (3, 4, 6, 3), 64),
  "resnet101": (True, (3, 4, 23, 3), 64),
  "resnet152": (True, (3, 8, 36, 3), 64),
  "resnet50_gcn": (True, (3, 4, 6, 3), 64),
}
LARGE_KERNELS = {"resnet50_gcn": {2: (5, 85), 3: (7, 128)}}  # stage: (k, width), Table 11.


class ResidualBlock(nn.Module):
  """relu(shortcut(x) + residual(x)) with a residual of 3-3 or 1-3-1 convolutions, each normalised."""

  def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool, caffe: bool):
    super().__init__()
    outputs = 4 * width if bottleneck else width
    if bottleneck:
      first, second = (stride, 1) if caffe else (1, stride)
      layers = [(inputs, width, 1, first), (width, width, 3, second), (width, outputs, 1, 1)]
    else:
      layers = [(inputs, width, 3, stride), (width, outputs, 3, 1)]
    self.depth = len(layers)
    for number, (before, after, size, step) in enumerate(layers, 1):
      self.add_module(f"conv{number}", nn.Conv2d(before, after, size, step, size // 2, bias=False))
      self.add_module(f"bn{number}", nn.BatchNorm2d(after))
    self.downsample = None
    if stride > 1 or inputs != outputs:
      self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

  def forward(self, x):
    residual = x
    for number in range(1, self.depth + 1):
      residual = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(residual))
      if number < self.depth:
        residual = F.relu(residual)
    return F.relu(residual + (x if self.downsample is None else self.downsample(x)))


class GlobalBlock(nn.Module):
  """relu(shortcut(x) + 1 x 1 of the sum of two branches), k x 1 then 1 x k and the reverse, all normalised."""

  def __init__(self, inputs: int, outputs: int, stride: int, k: int, width: int):
    super().__init__()
    tall, wide = ((k, 1), (k // 2, 0)), ((1, k), (0, k // 2))
    for side, (first, second) in {"left": (tall, wide), "right": (wide, tall)}.items():
      self.add_module(f"{side}_first", nn.Conv2d(inputs, width, first[0], stride, first[1], bias=False))
      self.add_module(f"{side}_first_bn", nn.BatchNorm2d(width))
      self.add_module(f"{side}_second", nn.Conv2d(width, width, second[0], 1, second[1], bias=False))
      self.add_module(f"{side}_second_bn", nn.BatchNorm2d(width))
    self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
    self.downsample = None
    if stride > 1 or inputs != outputs:
      self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

  def forward(self, x):
    left = F.relu(self.left_second_bn(self.left_second(F.relu(self.left_first_bn(self.left_first(x))))))
    right = F.relu(self.right_second_bn(self.right_second(F.relu(self.right_first_bn(self.right_first(x))))))
    return F.relu(self.bn3(self.conv3(left + right)) + (x if self.downsample is None else self.downsample(x)))


class TorchResNet(nn.Module):
  """ResNet without its classifier; returns the four feature maps of strides 4, 8, 16 and 32.

  `caffe` puts the stride of bottlenecks into the first 1 x 1.
  """

  def __init__(self, name: str, caffe: bool = False):
    super().__init__()
    bottleneck, stages, width = RESNETS[name]
    self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
    self.bn1 = nn.BatchNorm2d(width)
    self.channels = []
    inputs = width
    for stage, size in enumerate(stages):
      blocks = []
      for index in range(size):
        outputs = (width << stage) * (4 if bottleneck else 1)
        stride = 2 if stage and not index else 1
        if stage in LARGE_KERNELS.get(name, {}):
          blocks.append(GlobalBlock(inputs, outputs, stride, *LARGE_KERNELS[name][stage]))
        else:
          blocks.append(ResidualBlock(inputs, width << stage, stride, bottleneck, caffe))
        inputs = outputs
      self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
      self.channels.append(inputs)

  def forward(self, images):
    x = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 3, 2, 1)
    features = []
    for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
      x = stage(x)
      features.append(x)
    return features


class TorchGlobalConv(nn.Module):
  """(k x 1, 1 x k) + (1 x k, k x 1)."""

  def __init__(self, inputs: int, outputs: int, k: int, bias: bool = True):
    super().__init__()
    tall, wide = ((k, 1), (k // 2, 0)), ((1, k), (0, k // 2))
    for name, (first, second) in {"left": (tall, wide), "right": (wide, tall)}.items():
      self.add_module(f"{name}_first", nn.Conv2d(inputs, outputs, first[0], padding=first[1], bias=bias))
      self.add_module(f"{name}_second", nn.Conv2d(outputs, outputs, second[0], padding=second[1], bias=bias))

  def forward(self, x):
    return self.left_second(self.left_first(x)) + self.right_second(self.right_first(x))


class TorchConv(nn.Module):
  """One k x k convolution; k = 1 is the baseline."""

  def __init__(self, inputs: int, outputs: int, k: int = 1, bias: bool = True):
    super().__init__()
    self.conv = nn.Conv2d(inputs, outputs, k, padding=k // 2, bias=bias)

  def forward(self, x):
    return self.conv(x)


class TorchConvStack(nn.Module):
  """(k - 1) / 2 convolutions 3 x 3 with `width` channels between them."""

  def __init__(self, inputs: int, outputs: int, k: int, width: int, bias: bool = True):
    super().__init__()
    self.depth = (k - 1) // 2
    channels = [inputs] + [width] * (self.depth - 1) + [outputs]
    for index in range(self.depth):
      self.add_module(f"conv{index}", nn.Conv2d(channels[index], channels[index + 1], 3, padding=1, bias=bias))

  def forward(self, x):
    for index in range(self.depth):
      x = getattr(self, f"conv{index}")(x)
    return x


class TorchBoundaryRefine(nn.Module):
  """S + conv(relu(conv(S)))."""

  def __init__(self, channels: int):
    super().__init__()
    self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
    self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

  def forward(self, x):
    return x + self.conv2(F.relu(self.conv1(x)))


class TorchGCN(nn.Module):
  """Figure 2 of the paper: images `[B, 3, H, W]` -> logits `[B, num_classes, H, W]`."""

  def __init__(
    self,
    num_classes: int,
    backbone: str,
    kernel_size: int,
    head: str = "gcn",
    boundary_refine: bool = True,
    stack_width: int | None = None,
  ):
    super().__init__()
    self.encoder = TorchResNet(backbone)

    def make_head(inputs):
      if head == "gcn":
        return TorchGlobalConv(inputs, num_classes, kernel_size)
      if head == "trivial":
        return TorchConv(inputs, num_classes, kernel_size)
      if head == "stack":
        return TorchConvStack(inputs, num_classes, kernel_size, stack_width or inputs)
      return {"pointwise": TorchConv}[head](inputs, num_classes)

    def refinement():
      return TorchBoundaryRefine(num_classes) if boundary_refine else nn.Identity()

    for level, inputs in zip((2, 3, 4, 5), self.encoder.channels, strict=True):
      self.add_module(f"head{level}", make_head(inputs))
      self.add_module(f"refine_head{level}", refinement())
    for level in range(5):
      self.add_module(f"refine{level}", refinement())
      self.add_module(f"deconv{level + 1}", nn.ConvTranspose2d(num_classes, num_classes, 4, 2, 1, bias=False))

  def forward(self, images):
    res2, res3, res4, res5 = self.encoder(images)
    scores = self.deconv5(self.refine_head5(self.head5(res5)))
    scores = self.deconv4(self.refine4(self.refine_head4(self.head4(res4)) + scores))
    scores = self.deconv3(self.refine3(self.refine_head3(self.head3(res3)) + scores))
    scores = self.deconv2(self.refine2(self.refine_head2(self.head2(res2)) + scores))
    return self.refine0(self.deconv1(self.refine1(scores)))


def load_flax(module: nn.Module, variables: Mapping) -> nn.Module:
  """Copies parameters and running statistics of the same Flax network into `module` and returns it.

  Raises RuntimeError if a tensor is left over on either side or a shape differs.
  """
  state = {}
  for collection in variables.values():
    state |= torch_names(module, collection)
  counters = {name: value for name, value in module.state_dict().items() if name.endswith("num_batches_tracked")}
  module.load_state_dict(state | counters)
  return module


def torch_names(module: nn.Module, tree: Mapping) -> dict[str, torch.Tensor]:
  """Returns a Flax tree of parameters, gradients or statistics with PyTorch's names and layouts."""
  leaves = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
  result = {}
  for path, value in _flatten(tree):
    owner = re.sub(r"(layer\d)_(\d+)", r"\1.\2", ".".join(path[:-1]))
    owner = owner.replace("downsample_conv", "downsample.0").replace("downsample_bn", "downsample.1")
    value = np.asarray(value, np.float32)
    if path[-1] == "kernel":
      if isinstance(module.get_submodule(owner), nn.ConvTranspose2d):
        value = value[::-1, ::-1].transpose(2, 3, 0, 1)  # PyTorch flips the kernel, Flax does not.
      else:
        value = value.transpose(3, 2, 0, 1)
    result[".".join(filter(None, (owner, leaves[path[-1]])))] = torch.from_numpy(value.copy())
  return result


def _flatten(tree: Mapping, path: tuple[str, ...] = ()):
  for key, value in tree.items():
    if isinstance(value, Mapping):
      yield from _flatten(value, (*path, key))
    else:
      yield (*path, key), value


def to_torch(x) -> torch.Tensor:
  """Converts an array `[B, H, W, C]` to a float32 tensor `[B, C, H, W]`."""
  return torch.from_numpy(np.asarray(x, np.float32).transpose(0, 3, 1, 2).copy())


def to_numpy(x: torch.Tensor) -> np.ndarray:
  """Converts a tensor `[B, C, H, W]` to an array `[B, H, W, C]`."""
  return x.detach().numpy().transpose(0, 2, 3, 1)
