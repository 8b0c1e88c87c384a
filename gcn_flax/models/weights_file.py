"""Reads and writes files of named weights: safetensors, and PyTorch's `.pth` without ever running what it holds."""

import os
import pathlib
import pickle
from collections.abc import Mapping

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

_TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".tar")
_WRAPPERS = ("state_dict", "model", "model_state_dict")  # Under which training scripts save a network's weights.
_FLOATS = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)


def read(path: str | pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Reads every tensor of a file.

  Args:
    path: a `.safetensors` file, or a state dict that PyTorch saved as `.pth`, `.pt`, `.bin` or `.tar`,
      which is read by its `weights_only` loader: it knows tensors and nothing that could be run.

  Returns:
    Name -> tensor, floats of any precision as float32; and the metadata of a safetensors file.

  Raises:
    ValueError: where the file is missing, damaged, of another kind, or holds code; where it
      needs PyTorch and that is not installed; where a number is not finite.
  """
  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    raise ValueError(f"weights {str(path)!r} not found: it must be a local file.")
  if path.suffix == ".safetensors":
    tensors, metadata = _read_safetensors(path)
  elif path.suffix in _TORCH_SUFFIXES:
    tensors, metadata = _read_torch(path), {}
  else:
    raise ValueError(f"weights {path} must end in .safetensors, {', '.join(_TORCH_SUFFIXES)}.")
  tensors = {name: _as_float32(tensor) for name, tensor in tensors.items()}
  broken = [name for name, tensor in tensors.items() if not np.isfinite(tensor).all()]
  if broken:
    raise ValueError(f"{path} holds numbers that are not finite, in {', '.join(broken)}.")
  return tensors, metadata


def read_metadata(path: pathlib.Path) -> dict[str, str]:
  """The metadata of a safetensors file. Raises ValueError as `read`."""
  try:
    with safe_open(path, framework="numpy") as file:
      return file.metadata() or {}
  except (SafetensorError, OSError) as error:
    raise ValueError(f"{path} is no whole safetensors file ({error}): get it again.") from error


def write(path: pathlib.Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
  """Writes a safetensors file in one move, so that a kill leaves the old one or the new one."""
  temporary = path.with_name(path.name + ".tmp")
  # PyTorch's readers want "format": "pt" to take it as theirs.
  save_file(
    {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, temporary, {"format": "pt", **metadata}
  )
  os.replace(temporary, path)


def _as_float32(tensor: np.ndarray) -> np.ndarray:
  return tensor.astype(np.float32) if tensor.dtype in _FLOATS else tensor


def _read_safetensors(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  try:
    with safe_open(path, framework="numpy") as file:
      return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118, no mapping.
  except (SafetensorError, OSError, TypeError) as error:
    raise ValueError(f"{path} is no whole safetensors file ({error}): get it again.") from error


def _read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    import torch
  except ImportError as error:
    raise ValueError(
      f"{path} is a file of PyTorch's, which is not installed: install torch, or save the weights as .safetensors."
    ) from error
  try:
    content = torch.load(path, map_location="cpu", weights_only=True)
  except pickle.UnpicklingError as error:
    raise ValueError(
      f"{path} holds more than tensors, or is damaged; nothing of it was run. Save the network's state_dict() alone, "
      f"best as .safetensors. ({_first_line(error)})"
    ) from error
  except Exception as error:  # Whatever PyTorch's readers stumble over.
    raise ValueError(f"{path} is no whole file of PyTorch weights ({_first_line(error)}).") from error
  for key in _WRAPPERS:
    if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
      content = content[key]
      break
  if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
    raise ValueError(f"{path} is no state dict, a mapping of names to tensors: save the network's state_dict() alone.")
  return {name: _to_numpy(tensor) for name, tensor in content.items()}


def _first_line(error: Exception) -> str:
  return next(iter(str(error).splitlines()), type(error).__name__)


def _to_numpy(tensor) -> np.ndarray:
  tensor = tensor.detach()
  return (tensor.float() if tensor.is_floating_point() else tensor).numpy()  # NumPy knows no bfloat16 of PyTorch's.
