"""The trained segmentation network of `network.safetensors`, in PyTorch (2.0 or newer) and nothing else.

Written by `--mode=export` of gcn_flax, which is not needed here. Keep this file beside `network.safetensors`:

  import network
  model = network.load()  # Or network.load("path/to/network.safetensors").to("cuda").
  labels = model.predict(image)  # RGB uint8 [H, W, 3], NumPy or PyTorch -> uint8 [H, W], indices of model.classes.

On the command line, with Pillow installed: python network.py PICTURE [OUTPUT.png]

It computes in float32 and takes a picture whole and once, without the sliding window, test-time augmentation or CRF
that the run may have been evaluated with. The network is the Global Convolutional Network (GCN) of Peng et al.,
"Large Kernel Matters", CVPR 2017. Licence of this file: Apache 2.0, http://www.apache.org/licenses/LICENSE-2.0.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import sys

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WEIGHTS = pathlib.Path(__file__).with_name("network.safetensors")

BACKBONES = {  # name: (bottlenecks?, blocks of res-2 to res-5, channels of the first convolution)
  "resnet_tiny": (False, (1, 1, 1, 1), 16),
  "resnet18": (False, (2, 2, 2, 2), 64),
  "resnet34": (False, (3, 4, 6, 3), 64),
  "resnet50": (True, (3, 4, 6, 3), 64),
  "resnet101": (True, (3, 4, 23, 3), 64),
  "resnet152": (True, (3, 8, 36, 3), 64),
  "resnet50_gcn": (True, (3, 4, 6, 3), 64),
}
LARGE_KERNELS = {"resnet50_gcn": {4: (5, 85), 5: (7, 128)}}  # res-4 and res-5: (k, width) of a GlobalBlock.

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # Of ImageNet's RGB pixels, 0 to 255.
FAMILIES = {  # Family of the pretrained weights: (mean, std, is_caffe)
  "torchvision": (MEAN, STD, False),
  "timm": (MEAN, STD, False),
  "caffe": (MEAN, (1.0, 1.0, 1.0), True),  # BGR; the stride of a bottleneck is in its first 1 x 1 convolution.
}


def conv(inputs: int, outputs: int, size: tuple[int, int], stride: int = 1, bias: bool = False) -> nn.Conv2d:
  """Returns a convolution padded by half its kernel."""
  return nn.Conv2d(inputs, outputs, size, stride, (size[0] // 2, size[1] // 2), bias=bias)


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
  """Returns the shortcut of a residual block."""
  if stride == 1 and inputs == outputs:
    return nn.Identity()
  return nn.Sequential(conv(inputs, outputs, (1, 1), stride), nn.BatchNorm2d(outputs))


class ResidualBlock(nn.Module):
  """Convolutions, each given by (kernel size, channels, stride), whose result is added to the shortcut."""

  def __init__(self, inputs: int, layers: list[tuple[int, int, int]]):
    super().__init__()
    self.depth, outputs = len(layers), layers[-1][1]
    self.downsample = shortcut(inputs, outputs, math.prod(stride for _, _, stride in layers))
    for number, (size, channels, stride) in enumerate(layers, 1):
      self.add_module(f"conv{number}", conv(inputs, channels, (size, size), stride))
      self.add_module(f"bn{number}", nn.BatchNorm2d(channels))
      inputs = channels

  def forward(self, x: Tensor) -> Tensor:
    y = x
    for number in range(1, self.depth + 1):
      y = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(y if number == 1 else F.relu(y)))
    return F.relu(y + self.downsample(x))


class GlobalBlock(nn.Module):
  """A bottleneck of ResNet50-GCN: k x 1 then 1 x k, plus 1 x k then k x 1, and a 1 x 1 convolution of the sum."""

  def __init__(self, inputs: int, outputs: int, stride: int, k: int, width: int):
    super().__init__()
    self.downsample = shortcut(inputs, outputs, stride)
    for side, first, second in (("left", (k, 1), (1, k)), ("right", (1, k), (k, 1))):
      self.add_module(f"{side}_first", conv(inputs, width, first, stride))
      self.add_module(f"{side}_first_bn", nn.BatchNorm2d(width))
      self.add_module(f"{side}_second", conv(width, width, second))
      self.add_module(f"{side}_second_bn", nn.BatchNorm2d(width))
    self.conv3, self.bn3 = conv(width, outputs, (1, 1)), nn.BatchNorm2d(outputs)

  def forward(self, x: Tensor) -> Tensor:
    left = F.relu(self.left_second_bn(self.left_second(F.relu(self.left_first_bn(self.left_first(x))))))
    right = F.relu(self.right_second_bn(self.right_second(F.relu(self.right_first_bn(self.right_first(x))))))
    return F.relu(self.bn3(self.conv3(left + right)) + self.downsample(x))


class ResNet(nn.Module):
  """The encoder: normalised images `[B, 3, H, W]` -> the maps res-2 to res-5, of strides 4, 8, 16 and 32."""

  def __init__(self, backbone: str, stride_in_1x1: bool):
    super().__init__()
    has_bottlenecks, sizes, inputs = BACKBONES[backbone]
    self.conv1, self.bn1 = conv(3, inputs, (7, 7), 2), nn.BatchNorm2d(inputs)
    self.channels, width = [], inputs
    for level, size in enumerate(sizes, 2):
      blocks = []
      for index in range(size):
        stride = 2 if level > 2 and index == 0 else 1
        if level in LARGE_KERNELS.get(backbone, {}):
          blocks.append(GlobalBlock(inputs, 4 * width, stride, *LARGE_KERNELS[backbone][level]))
        elif has_bottlenecks:
          first, second = (stride, 1) if stride_in_1x1 else (1, stride)
          blocks.append(ResidualBlock(inputs, [(1, width, first), (3, width, second), (1, 4 * width, 1)]))
        else:
          blocks.append(ResidualBlock(inputs, [(3, width, stride), (3, width, 1)]))
        inputs = 4 * width if has_bottlenecks else width
      self.add_module(f"layer{level - 1}", nn.Sequential(*blocks))
      self.channels.append(inputs)
      width *= 2

  def forward(self, x: Tensor) -> list[Tensor]:
    x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
    res2 = self.layer1(x)
    res3 = self.layer2(res2)
    res4 = self.layer3(res3)
    return [res2, res3, res4, self.layer4(res4)]


class GlobalConv(nn.Module):
  """The head `gcn`: k x 1 then 1 x k, plus 1 x k then k x 1."""

  def __init__(self, inputs: int, classes: int, k: int):
    super().__init__()
    for side, first, second in (("left", (k, 1), (1, k)), ("right", (1, k), (k, 1))):
      self.add_module(f"{side}_first", conv(inputs, classes, first, bias=True))
      self.add_module(f"{side}_second", conv(classes, classes, second, bias=True))

  def forward(self, x: Tensor) -> Tensor:
    return self.left_second(self.left_first(x)) + self.right_second(self.right_first(x))


class BoundaryRefine(nn.Module):
  """Boundary Refinement (BR): adds two 3 x 3 convolutions, with a ReLU between them."""

  def __init__(self, classes: int):
    super().__init__()
    self.conv1, self.conv2 = conv(classes, classes, (3, 3), bias=True), conv(classes, classes, (3, 3), bias=True)

  def forward(self, x: Tensor) -> Tensor:
    return x + self.conv2(F.relu(self.conv1(x)))


def make_head(kind: str, inputs: int, classes: int, k: int, stack_width: int) -> nn.Module:
  """Returns a head, from features `[B, inputs, H, W]` to class scores `[B, classes, H, W]`."""
  if kind == "gcn":
    return GlobalConv(inputs, classes, k)
  head = nn.Sequential()
  if kind == "stack":
    depth, width = (k - 1) // 2, stack_width or inputs
    for index in range(depth):
      outputs = classes if index == depth - 1 else width
      head.add_module(f"conv{index}", conv(inputs, outputs, (3, 3), bias=True))
      inputs = outputs
    return head
  size = {"trivial": (k, k), "pointwise": (1, 1)}[kind]
  head.add_module("conv", conv(inputs, classes, size, bias=True))
  return head


class GCN(nn.Module):
  """The network, from pixels to classes.

  Attributes:
    classes: names of the classes, in the order of the labels; () if the run did not record them.
    palette: RGB of each class, 0 to 255; () if the run did not record it.
    pixel_mean, pixel_std: the normalisation of RGB pixels, 0 to 255.
    canvas: (height, width) that every picture is padded to; () for the rule of `pad`.
  """

  def __init__(self, settings: dict, data: dict, family: str, num_classes: int):
    super().__init__()
    model = settings["model"]
    self.classes, self.palette = tuple(data.get("classes", ())), tuple(map(tuple, data.get("palette", ())))
    self.canvas = tuple(settings["data"]["eval_size"])
    self.pixel_mean, self.pixel_std, self._is_caffe = FAMILIES[family]
    self.encoder = ResNet(model["backbone"], stride_in_1x1=self._is_caffe)

    def refinement() -> nn.Module:
      return BoundaryRefine(num_classes) if model["boundary_refine"] else nn.Identity()

    for level, inputs in enumerate(self.encoder.channels, 2):
      head = make_head(model["head"], inputs, num_classes, model["kernel_size"], model["stack_width"])
      self.add_module(f"head{level}", head)
      self.add_module(f"refine_head{level}", refinement())
    for level in range(5):
      self.add_module(f"refine{level}", refinement())
      self.add_module(f"deconv{level + 1}", nn.ConvTranspose2d(num_classes, num_classes, 4, 2, 1, bias=False))

  def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
    """Predicts a batch.

    Args:
      images: RGB `[B, H, W, 3]`, uint8 or floats from 0 to 255; H and W are multiples of 32.

    Returns:
      Labels uint8 `[B, H, W]`, and the probability of each class, float32 `[B, H, W, num_classes]`.

    Raises ValueError for another shape.
    """
    if images.ndim != 4 or images.shape[3] != 3 or images.shape[1] % 32 or images.shape[2] % 32:
      fix = "Pad them with model.pad, or use model.predict"
      raise ValueError(f"images: {list(images.shape)}; must be [B, H, W, 3], H and W multiples of 32. {fix}.")
    images = images.float()
    x = (images - images.new_tensor(self.pixel_mean)) / images.new_tensor(self.pixel_std)
    logits = self.logits((x.flip(3) if self._is_caffe else x).permute(0, 3, 1, 2))
    return logits.argmax(1).to(torch.uint8), logits.softmax(1).permute(0, 2, 3, 1).contiguous()

  def logits(self, x: Tensor) -> Tensor:
    """Returns the logits `[B, num_classes, H, W]` of normalised images `[B, 3, H, W]`."""
    res2, res3, res4, res5 = self.encoder(x)
    scores = self.deconv5(self.refine_head5(self.head5(res5)))
    scores = self.deconv4(self.refine4(scores + self.refine_head4(self.head4(res4))))
    scores = self.deconv3(self.refine3(scores + self.refine_head3(self.head3(res3))))
    scores = self.deconv2(self.refine2(scores + self.refine_head2(self.head2(res2))))
    return self.refine0(self.deconv1(self.refine1(scores)))

  @torch.no_grad()
  def predict(self, image) -> Tensor:
    """Predicts one picture of any size.

    Args:
      image: RGB uint8 `[H, W, 3]`, a tensor or a NumPy array.

    Returns:
      Labels uint8 `[H, W]`, on the device of the image, which is the CPU for NumPy.

    Raises ValueError for anything else, and as `pad`.
    """
    if type(image).__module__ == "numpy":
      image = torch.from_numpy(image.copy())  # PyTorch takes no negative strides, such as those of image[..., ::-1].
    is_image = isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3 and image.numel() > 0
    if not is_image or image.shape[2] != 3:
      kind = f"{image.dtype} {list(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
      raise ValueError(f"image: {kind}; must be RGB uint8 [H, W, 3].")
    height, width, _ = image.shape
    labels, _ = self(self.pad(image)[None].to(self.encoder.conv1.weight.device))
    return labels[0, :height, :width].to(image.device)

  def pad(self, image: Tensor) -> Tensor:
    """Pads RGB uint8 `[H, W, 3]` at the bottom and on the right with the mean pixel, as the run did.

    A side is rounded up to a multiple of 32, above 512 to one of 128, unless the run has one `canvas` for all pictures.
    Raises ValueError if the picture is larger than that.
    """
    height, width, _ = image.shape
    steps = [32 if side <= 512 else 128 for side in (height, width)]
    rows, columns = self.canvas or (-(-height // steps[0]) * steps[0], -(-width // steps[1]) * steps[1])
    if height > rows or width > columns:
      raise ValueError(f"image: {height} x {width}; must fit into the run's canvas, {rows} x {columns}. Shrink it.")
    padded = image.new_tensor([round(mean) for mean in self.pixel_mean]).repeat(rows, columns, 1)
    padded[:height, :width] = image
    return padded


def load(path: str | os.PathLike = WEIGHTS) -> GCN:
  """Loads the network, ready to predict on the CPU.

  Args:
    path: `network.safetensors`, by default the one beside this file.

  Raises ValueError if the file is damaged or holds no network for this one, OSError if it cannot be opened.
  """
  tensors, metadata = read_safetensors(path)
  try:
    settings, data = json.loads(metadata["config"]), json.loads(metadata["data"])
    network = GCN(settings, data, metadata["family"], num_classes=len(tensors["deconv1.weight"]))
  except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
    cure = "Use the network.safetensors that --mode=export wrote beside this file"
    raise ValueError(f"{path}: holds no network with a class per pixel ({error!r}). {cure}.") from error
  wanted = {name: value.shape for name, value in network.state_dict().items() if "num_batches" not in name}
  found = {name: value.shape for name, value in tensors.items()}
  faults = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
  if faults:
    names = ", ".join(faults[:3]) + ", ..." * (len(faults) > 3)
    raise ValueError(f"{path}: {len(faults)} tensors are missing, unexpected or misshapen: {names}. Export it again.")
  network.load_state_dict(tensors)
  return network.eval()


def read_safetensors(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, str]]:
  """Reads the tensors of a safetensors file, all float32, and its metadata. Raises ValueError for other files.

  Such a file is the length of its header in 8 bytes, the header in JSON, and the numbers.
  """
  content = bytearray(os.path.getsize(path))
  with open(path, "rb") as file:
    file.readinto(content)
  if content[8:9] != b"{":
    raise ValueError(f"{path}: is no safetensors file. Use the network.safetensors that --mode=export wrote.")
  start = 8 + int.from_bytes(content[:8], "little")
  try:
    header, tensors = json.loads(content[8:start].decode()), {}
    metadata = header.pop("__metadata__", {})
    for name, entry in header.items():
      shape, (begin, end) = entry["shape"], entry["data_offsets"]
      if entry["dtype"] != "F32" or end - begin != 4 * math.prod(shape) or not 0 <= begin < end:
        raise ValueError(f"{name} is {entry['dtype']} {shape} in bytes {begin} to {end}")
      numbers = torch.frombuffer(content, dtype=torch.float32, count=(end - begin) // 4, offset=start + begin)
      tensors[name] = numbers.view(shape)
  except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
    raise ValueError(f"{path}: is cut short, damaged or not float32 ({error}). Copy it again.") from error
  return tensors, metadata


def read_picture(path: str) -> Tensor:
  """Reads a picture file as RGB uint8 `[H, W, 3]`, upright, with Pillow. Raises ValueError if it is none."""
  from PIL import Image, ImageOps

  try:
    picture = ImageOps.exif_transpose(Image.open(path))
    if picture.mode[0] in "IF":
      raise ValueError(f"its pixels are {picture.mode}, not 8-bit")
    rgb = picture.convert("RGB")
  except Exception as error:  # Pillow raises errors of many kinds.
    raise ValueError(f"{path}: cannot be read as a picture ({error}).") from error
  return torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8).view(rgb.height, rgb.width, 3)


def write_labels(path: str, labels: Tensor, palette: tuple) -> None:
  """Writes labels uint8 `[H, W]` as a PNG of one channel, shown in the colours of the classes if there are any."""
  from PIL import Image

  image = Image.frombytes("L", tuple(labels.shape[::-1]), bytes(labels.flatten().tolist()))
  if palette:
    image.putpalette([channel for colour in palette for channel in colour])
  image.save(path, "PNG")


def main() -> None:
  """Runs the command line."""
  if len(sys.argv) not in (2, 3):
    sys.exit("usage: python network.py PICTURE [OUTPUT.png]")
  picture, output = (*sys.argv[1:], "labels.png")[:2]
  try:
    image, model = read_picture(picture), load()
    write_labels(output, model.predict(image), model.palette)
  except ImportError as error:
    sys.exit(f"error: {error}. Pictures are read by Pillow: python -m pip install pillow")
  except (ValueError, OSError) as error:
    sys.exit(f"error: {error}")
  print(f"wrote {output}")


if __name__ == "__main__":
  main()
