"""ImageNet weights for the encoders, and the input normalisation of each family of weights."""

import contextlib
import dataclasses
import functools
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gcn_flax.models import torch_names, weights_file
from gcn_flax.models.classifier import Classifier
from gcn_flax.models.resnet import BACKBONES

_CLASSIFIER = ("fc.weight", "fc.bias")


@dataclasses.dataclass(frozen=True)
class Family:
  """Conventions shared by the networks that one code base trained.

  Attributes:
    mean, std: pixels 0 to 255 are normalised by them, in the order of the network's channels.
    bgr: True if the network's channels are blue, green, red.
    stride_in_1x1: True if bottlenecks have their stride in the first 1 x 1.
  """

  mean: tuple[float, float, float]
  std: tuple[float, float, float]
  bgr: bool = False
  stride_in_1x1: bool = False

  @property
  def rgb_mean(self) -> tuple[float, float, float]:
    """Mean pixel in RGB, which images are padded with."""
    return self.mean[::-1] if self.bgr else self.mean

  def arrays(self) -> dict[str, np.ndarray]:
    """Returns the normalisation as part of a train state: `mean` and `std` float32 `[3]`, and the bool `bgr`."""
    return {"mean": np.float32(self.mean), "std": np.float32(self.std), "bgr": np.bool_(self.bgr)}


# ImageNet's mean and standard deviation of 0 to 1, RGB (torchvision and timm, "IMAGENET_DEFAULT_MEAN"), times 255.
_IMAGENET = Family((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
FAMILIES = {
  "torchvision": _IMAGENET,
  # For timm's ResNets; weights whose config.json has another mean or std do not belong to this family.
  "timm": _IMAGENET,
  # The original ResNets (He et al.): mean subtraction only, like detectron2's and mmsegmentation's "caffe" models.
  "caffe": Family((103.53, 116.28, 123.675), (1.0, 1.0, 1.0), bgr=True, stride_in_1x1=True),
}


def load_backbone(path: str | pathlib.Path, backbone: str, family: str = "torchvision") -> dict[str, Any]:
  """Reads the weights of an encoder.

  Args:
    path: a `.safetensors` file or a PyTorch state dict, see `weights_file.read`, with the names of torchvision's
      ResNets, which are timm's as well. A classifier (`fc`) is ignored, a prefix of all names (`module.`,
      `backbone.`) is stripped, and biases of convolutions, which some Caffe networks have, are folded into the
      running mean of the normalisation after them.
    backbone: key of `BACKBONES`.
    family: key of `FAMILIES`. The tensors are the same in all; the network must be built with the family's
      `stride_in_1x1` and be given images in its normalisation.

  Returns:
    `{'params': ..., 'batch_stats': ...}` of the encoder, float32.

  Raises:
    ValueError: if the file cannot be read, see `weights_file.read`; if tensors are missing, unexpected or misshapen,
      listing all of them; if the file's metadata names another family.
  """
  return _encoder(_read(path, family, backbone), path, backbone)


def load_classifier(
  path: str | pathlib.Path, backbone: str, num_classes: int, family: str = "torchvision"
) -> dict[str, Any]:
  """Reads the weights of a `Classifier`: the encoder as `load_backbone`, and `fc` if it has `num_classes` outputs."""
  tensors = _read(path, family, backbone)
  encoder = _encoder(tensors, path, backbone)
  result = {name: {"encoder": part} for name, part in encoder.items()}
  shapes = {"params": {"fc": shapes_of(Classifier(num_classes, backbone))["params"]["fc"]}}
  with contextlib.suppress(ValueError):
    fc = {name: tensor for name, tensor in tensors.items() if name in _CLASSIFIER}
    result["params"] |= torch_names.from_tensors(fc, shapes)["params"]
  return result


def read_tensors(path: str | pathlib.Path, family: str) -> dict[str, np.ndarray]:
  """Returns a file's tensors by name. Raises ValueError if it cannot be read or its metadata names another family."""
  tensors, metadata = weights_file.read(path)
  recorded = metadata.get("family", family)
  if FAMILIES.get(recorded) != FAMILIES[family]:
    raise ValueError(f"{path} is of family {recorded!r}, not {family!r}. Use config.model.family={recorded}.")
  return tensors


def _read(path: str | pathlib.Path, family: str, backbone: str) -> dict[str, np.ndarray]:
  for name, value, choices in (("backbone", backbone, BACKBONES), ("family", family, FAMILIES)):
    if value not in choices:
      raise ValueError(f"{name}={value!r}: unknown. Choose one of {', '.join(choices)}.")
  return torch_names.fold_biases(torch_names.strip_prefix(read_tensors(path, family)))


def _encoder(tensors: dict[str, np.ndarray], path: str | pathlib.Path, backbone: str) -> dict[str, Any]:
  try:
    return torch_names.from_tensors(tensors, _shapes(backbone), spare=_CLASSIFIER)
  except ValueError as error:
    raise ValueError(f"{path} does not fit backbone {backbone!r}{_what_fits(tensors, backbone)}: {error}.") from error


def _what_fits(tensors: dict[str, np.ndarray], asked: str) -> str:
  """Returns a hint that names the backbone whose tensors these are, or ""."""
  for backbone in BACKBONES:
    if backbone != asked:
      with contextlib.suppress(ValueError):
        torch_names.from_tensors(tensors, _shapes(backbone), spare=_CLASSIFIER)
        return f" (it fits {backbone!r})"
  return ""


@functools.cache
def _shapes(backbone: str) -> dict[str, Any]:
  return shapes_of(BACKBONES[backbone]())


def shapes_of(network: nn.Module) -> dict[str, Any]:
  """Returns the variables `{'params': ..., 'batch_stats': ...}` of a network as `jax.ShapeDtypeStruct`s."""
  image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  return jax.eval_shape(lambda image: network.init(jax.random.key(0), image, train=False), image)
