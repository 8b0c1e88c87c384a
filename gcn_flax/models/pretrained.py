"""ImageNet weights for the encoders, and the input normalisation of each family of weights."""

import contextlib
import dataclasses
import functools
import logging
import pathlib
import re
from collections.abc import Callable, Collection
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gcn_flax.messages import flag, python_command, use_one_of
from gcn_flax.models import torch_names, weights_file
from gcn_flax.models.classifier import Classifier
from gcn_flax.models.resnet import BACKBONES

_log = logging.getLogger(__name__)

_CLASSIFIER = ("fc.weight", "fc.bias")
# Layers after the encoder, by their first name: classifiers, and what self-supervised methods project with.
_AFTER_ENCODER = ("fc", "head", "classifier", "projection_head", "projector", "predictor", "prototypes")
_DEEP_STEM = re.compile(r"stem\.|conv1\.\d|conv[23]\.weight")


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
    path: a file for `weights_file.read`, with the names of torchvision's ResNets, which are timm's as well, after
      any prefix (`module.`, `state_dict.backbone.`). Tensors without that prefix, such as a decoder's, are left aside,
      as the log says; layers after the encoder (`fc`) are ignored. Biases of convolutions, which some Caffe networks
      have, are folded into the running mean of the normalisation after them.
    backbone: key of `BACKBONES`.
    family: key of `FAMILIES`. The tensors are the same in all; the network must be built with the family's
      `stride_in_1x1` and be given images in its normalisation.

  Returns:
    `{'params': ..., 'batch_stats': ...}` of the encoder, float32.

  Raises:
    ValueError: if the file cannot be read, see `weights_file.read`; if it holds no encoder, or several; if tensors are
      missing, unexpected or misshapen, listing all of them; if the file's metadata names another family.
  """
  return _encoder(_read_encoder(path, family, backbone), path, backbone)


def load_classifier(
  path: str | pathlib.Path, backbone: str, num_classes: int, family: str = "torchvision"
) -> dict[str, Any]:
  """Reads the weights of a `Classifier`: the encoder as `load_backbone`, and `fc` if it has `num_classes` outputs."""
  tensors = _read_encoder(path, family, backbone)
  encoder = _encoder(tensors, path, backbone)
  result = {name: {"encoder": part} for name, part in encoder.items()}
  shapes = {"params": {"fc": shapes_of(Classifier(num_classes, backbone))["params"]["fc"]}}
  with contextlib.suppress(ValueError):
    fc = {name: tensor for name, tensor in tensors.items() if name in _CLASSIFIER}
    result["params"] |= torch_names.from_tensors(fc, shapes)["params"]
  return result


def read_network(path: str | pathlib.Path, family: str) -> dict[str, np.ndarray]:
  """Returns the tensors of a segmentation network, whose encoder is called `encoder`, by name.

  Raises ValueError if the file cannot be read, has no such encoder, or its metadata names another family.
  """

  def find_prefix(names: Collection[str]) -> str:
    prefix = _encoder_prefix(path, names)
    if not f".{prefix}".endswith(".encoder."):
      cure = f"{flag('config.model.pretrained', path)} --config.init_from=''"
      raise ValueError(
        f"config.init_from={str(path)!r}: holds no network of this package. For its encoder, use {cure}."
      )
    return prefix.removesuffix("encoder.")

  return _read(path, family, find_prefix)


def _read_encoder(path: str | pathlib.Path, family: str, backbone: str) -> dict[str, np.ndarray]:
  for name, value, choices in (("backbone", backbone, BACKBONES), ("family", family, FAMILIES)):
    if value not in choices:
      raise ValueError(f"{name}={value!r}: unknown. {use_one_of(value, choices)}.")
  return torch_names.fold_biases(_read(path, family, functools.partial(_encoder_prefix, path)))


def _read(
  path: str | pathlib.Path, family: str, find_prefix: Callable[[Collection[str]], str]
) -> dict[str, np.ndarray]:
  weights = weights_file.read(path, find_prefix)
  recorded = weights.metadata.get("family", family)
  if FAMILIES.get(recorded) != FAMILIES[family]:
    raise ValueError(f"{path} is of family {recorded!r}, not {family!r}. Use --config.model.family={recorded}.")
  if weights.prefix:
    parts = ", ".join(_parts(weights))
    rest = f"; left aside: {parts} ({len(weights.left_aside)} tensors)" if parts else ""
    _log.info("%s: taking the %d tensors of %s%s.", path, len(weights.tensors), weights.prefix.rstrip("."), rest)
  return weights.tensors


def _parts(weights: weights_file.Weights) -> list[str]:
  """Returns the parts of a network, or of a training state, that were left aside: `decode_head`, `optimizer`."""
  parents = weights.prefix.split(".")[:-2]  # Of `state_dict.backbone.`: state_dict.

  def part(name: str) -> str:
    names = name.split(".")
    return ".".join(names[: len(parents) + 1]) if names[: len(parents)] == parents else names[0]

  return list(dict.fromkeys(map(part, weights.left_aside)))


def _encoder_prefix(path: str | pathlib.Path, names: Collection[str]) -> str:
  """Returns the prefix of the encoder's names. Raises ValueError unless there is exactly one encoder."""
  prefixes = torch_names.encoder_prefixes(names)
  if not prefixes:
    shown = ", ".join(list(names)[:3])
    raise ValueError(
      f"{path} holds no ResNet with torchvision's names, its {len(names)} tensors are called {shown}, ... Use the "
      "weights of a ResNet from torchvision or timm."
    )
  if len(prefixes) > 1:
    listed = " and ".join(map(repr, prefixes))
    raise ValueError(
      f"{path} holds {len(prefixes)} encoders, {listed}. Extract one into a file of its own, for instance: "
      f"{_extract_command(path, next(filter(None, prefixes)))}"
    )
  _check_stem(path, prefixes[0], names)
  return prefixes[0]


def _extract_command(path: str | pathlib.Path, prefix: str) -> str:
  path = pathlib.Path(path)
  target = path.with_name(f"{path.stem}_{prefix.strip('.').replace('.', '_')}.safetensors")
  return python_command(
    f"from gcn_flax.models.weights_file import extract; extract({str(path)!r}, {prefix!r}, {str(target)!r})"
  )


def _check_stem(path: str | pathlib.Path, prefix: str, names: Collection[str]) -> None:
  stem = [name for name in names if name.startswith(prefix) and _DEEP_STEM.match(name.removeprefix(prefix))]
  if stem:
    raise ValueError(
      f"{path} has a stem of several convolutions ({stem[0]}, ...), as mmsegmentation's ResNetV1c and timm's "
      "resnet50d, not one of 7 x 7. Use the weights of torchvision's ResNet, or of mmsegmentation's ResNet without V1c."
    )


def _encoder(tensors: dict[str, np.ndarray], path: str | pathlib.Path, backbone: str) -> dict[str, Any]:
  try:
    return _from_tensors(tensors, backbone)
  except ValueError as error:
    fitting = _fitting_backbone(tensors, backbone)
    if fitting:
      raise ValueError(
        f"config.model.backbone={backbone!r}: {path} holds the weights of a {fitting}. Use "
        f"--config.model.backbone={fitting} ({error})."
      ) from error
    raise ValueError(
      f"{path} does not fit backbone {backbone!r}, nor any other: {error}. Use the weights of a ResNet from "
      "torchvision or timm."
    ) from error


def _from_tensors(tensors: dict[str, np.ndarray], backbone: str) -> dict[str, Any]:
  spare = tuple(name for name in tensors if name.split(".")[0] in _AFTER_ENCODER)
  return torch_names.from_tensors(tensors, _shapes(backbone), spare)


def _fitting_backbone(tensors: dict[str, np.ndarray], asked: str) -> str:
  """Returns the backbone whose tensors these are, or ""."""
  for backbone in BACKBONES:
    if backbone != asked:
      with contextlib.suppress(ValueError):
        _from_tensors(tensors, backbone)
        return backbone
  return ""


@functools.cache
def _shapes(backbone: str) -> dict[str, Any]:
  return shapes_of(BACKBONES[backbone]())


def shapes_of(network: nn.Module) -> dict[str, Any]:
  """Returns the variables `{'params': ..., 'batch_stats': ...}` of a network as `jax.ShapeDtypeStruct`s."""
  image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  return jax.eval_shape(lambda image: network.init(jax.random.key(0), image, train=False), image)
