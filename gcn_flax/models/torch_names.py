"""Converts between this package's parameter trees and flat state dicts with PyTorch's names and layouts.

Encoder and classifier get torchvision's names (`layer1.0.downsample.0.weight`), other modules their own
(`head5.left_first.weight`).
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_FIRST_BLOCK = "layer1.0.conv1.weight"  # In an encoder of any depth.
_COUNTER = ".num_batches_tracked"  # In each of PyTorch's normalisations; not used here.


def to_tensors(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Returns the variables `{'params': ..., 'batch_stats': ...}` as named tensors in PyTorch's layouts."""
  return {_name(path): _to_layout(path, np.asarray(leaf)) for path, leaf in _leaves(variables)}


def from_tensors(
  tensors: Mapping[str, np.ndarray], variables: Mapping[str, Any], spare: tuple[str, ...] = ()
) -> dict[str, Any]:
  """Returns named tensors as a tree like `variables`.

  Args:
    tensors: tensors by name.
    variables: `{'params': ..., 'batch_stats': ...}` of arrays or shapes, the tree to fill.
    spare: names that may be left over, besides PyTorch's counters of batches.

  Raises:
    ValueError: listing every tensor that is missing, left over, or of another shape.
  """
  wanted = {_name(path): path for path, _ in _leaves(variables)}
  shapes = {_name(path): _torch_shape(path, leaf.shape) for path, leaf in _leaves(variables)}
  missing = [name for name in wanted if name not in tensors]
  left = [name for name in tensors if name not in wanted and name not in spare and not name.endswith(_COUNTER)]
  differ = [
    f"{name} is {tensors[name].shape}, not {shape}"
    for name, shape in shapes.items()
    if name in tensors and tensors[name].shape != shape
  ]
  differ += [
    f"{name} holds {tensors[name].dtype}, not floats"
    for name in wanted
    if name in tensors and tensors[name].dtype != np.float32
  ]
  faults = [("missing", missing), ("unexpected", left), ("misshapen", differ)]
  text = "; ".join(f"{len(names)} {kind}: {', '.join(names)}" for kind, names in faults if names)
  if text:
    raise ValueError(text)
  result = {}
  for name, path in wanted.items():
    branch = result
    for key in path[:-1]:
      branch = branch.setdefault(key, {})
    branch[path[-1]] = _from_layout(path, tensors[name])
  return result


def encoder_prefixes(names: Collection[str]) -> list[str]:
  """Returns the prefix of each encoder's names: "", `module.`, `state_dict.backbone.` and the like."""
  starts = [name.removesuffix(_FIRST_BLOCK) for name in names if name.endswith(_FIRST_BLOCK)]
  return [start for start in starts if start.endswith(".") or not start]


def fold_biases(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Folds the biases of convolutions into the normalisation after each: `(x + b) - mean = x - (mean - b)`, exactly.

  The encoders here have no biases, as torchvision's; some networks converted from Caffe do.
  """
  result = dict(tensors)
  for name in tensors:
    mean = re.sub(r"\bconv(\d)\.bias$", r"bn\1.running_mean", name)
    mean = re.sub(r"\bdownsample\.0\.bias$", "downsample.1.running_mean", mean)
    if mean != name and mean in result and result[mean].shape == tensors[name].shape:
      result[mean] = result[mean] - result.pop(name)
  return result


def _leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
  for key, value in tree.items():
    if isinstance(value, Mapping):
      yield from _leaves(value, (*path, key))
    else:
      yield (*path, key), value


def _name(path: tuple[str, ...]) -> str:
  owner = re.sub(r"(layer\d)_(\d+)", r"\1.\2", ".".join(path[1:-1]))
  owner = owner.replace("downsample_conv", "downsample.0").replace("downsample_bn", "downsample.1")
  return f"{owner}.{_LEAVES[path[-1]]}"


def _is_deconv(path: tuple[str, ...]) -> bool:
  return path[-1] == "kernel" and path[-2].startswith("deconv")


def _to_layout(path: tuple[str, ...], leaf: np.ndarray) -> np.ndarray:
  if _is_deconv(path):
    return leaf[::-1, ::-1].transpose(2, 3, 0, 1)  # PyTorch flips the kernel of a transposed convolution.
  return np.moveaxis(leaf, (-1, -2), (0, 1)) if path[-1] == "kernel" else leaf


def _from_layout(path: tuple[str, ...], tensor: np.ndarray) -> np.ndarray:
  if _is_deconv(path):
    return np.ascontiguousarray(tensor.transpose(2, 3, 0, 1)[::-1, ::-1])
  if path[-1] == "kernel":
    return np.ascontiguousarray(np.moveaxis(tensor, (0, 1), (-1, -2)))
  return tensor


def _torch_shape(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
  return _to_layout(path, np.broadcast_to(np.float32(0), shape)).shape
