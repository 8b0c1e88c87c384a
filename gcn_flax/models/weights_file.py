"""Reads and writes files of named weights: safetensors, and PyTorch's `.pth` without ever running code in it."""

import pathlib
import pickle
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from gcn_flax import files

_TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".tar")
_WRAPPERS = ("state_dict", "model", "model_state_dict")  # Keys under which training scripts save a network's weights.
_SAFE_TORCH = (2, 6)  # In older versions weights_only can be bypassed.
_MAX_EXPANSION = 4  # Bytes of tensors per byte of their file; tensors that share memory are stored once.
_PRODUCER = "gcn_flax"  # Only metadata of this package's own files is used.
_FLOATS = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)


def read(path: str | pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Reads every tensor of a file.

  Args:
    path: a `.safetensors` file, or a state dict that PyTorch saved as `.pth`, `.pt`, `.bin` or `.tar`. The latter is
      read by PyTorch's `weights_only` loader, which knows tensors and nothing that could be run.

  Returns:
    Name -> tensor, floats of any precision as float32; and the metadata if this package wrote the file, else {}.

  Raises:
    ValueError: if the file is missing, damaged, of another kind, or holds code; if it needs PyTorch, which is not
      installed; if a number is not finite.
  """
  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    raise ValueError(f"weights {str(path)!r} not found. Use a local file.")
  if path.suffix == ".safetensors":
    tensors, metadata = _from_safetensors(
      path,
      lambda file: ({name: file.get_tensor(name) for name in file.keys()}, _ours(file.metadata())),  # noqa: SIM118
    )
  elif path.suffix in _TORCH_SUFFIXES:
    tensors, metadata = _read_torch(path), {}
  else:
    raise ValueError(f"weights {path}: the name must end in .safetensors, {', '.join(_TORCH_SUFFIXES)}.")
  tensors = {name: _as_float32(tensor) for name, tensor in tensors.items()}
  broken = [name for name, tensor in tensors.items() if not np.isfinite(tensor).all()]
  if broken:
    raise ValueError(f"{path} holds numbers that are not finite, in {', '.join(broken)}.")
  return tensors, metadata


def read_metadata(path: pathlib.Path) -> dict[str, str]:
  """Returns the metadata of a safetensors file of this package; {} for other files. Raises ValueError as `read`."""
  return _from_safetensors(path, lambda file: _ours(file.metadata()))


def _ours(metadata: dict[str, str] | None) -> dict[str, str]:
  return metadata if metadata and metadata.get("producer", "").startswith(_PRODUCER) else {}


def write(path: files.Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> int:
  """Writes a safetensors file atomically, so that a kill leaves the old or the new one; returns its size in bytes."""
  content = safetensors.numpy.save(
    {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()},
    # PyTorch's readers require "format": "pt".
    {"format": "pt", "producer": _PRODUCER, **metadata},
  )
  files.write(path, content)
  return len(content)


def _as_float32(tensor: np.ndarray) -> np.ndarray:
  return tensor.astype(np.float32, copy=False) if tensor.dtype in _FLOATS else tensor


def _from_safetensors(path: pathlib.Path, take: Callable[[Any], Any]) -> Any:
  try:
    with safe_open(path, framework="numpy") as file:
      return take(file)
  except (SafetensorError, OSError, TypeError, AttributeError, KeyError) as error:  # KeyError: an unknown dtype.
    raise ValueError(
      f"{path} is not a complete safetensors file of plain floats ({error}). Download it again."
    ) from error


def _read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    import torch
  except ImportError as error:
    raise ValueError(
      f"{path} is a PyTorch file, but PyTorch is not installed. Install torch, or save the weights as .safetensors."
    ) from error
  if tuple(map(int, torch.__version__.split(".")[:2])) < _SAFE_TORCH:
    raise ValueError(
      f"{path}: PyTorch {torch.__version__} is not safe, its weights_only loader can be made to run code "
      "(CVE-2025-32434). Install 2.6 or newer, or save the weights as .safetensors."
    )
  _check_expansion(path, _unpacked_bytes(path))
  try:
    content = torch.load(path, map_location="cpu", weights_only=True)
  except pickle.UnpicklingError as error:  # Its text is not shown: it advises to run the file's code.
    raise ValueError(
      f"{path} holds more than tensors, or is damaged; no code in it was run. Save the network's state_dict() alone, "
      "best as .safetensors."
    ) from error
  except Exception as error:  # PyTorch's readers raise many kinds of errors.
    raise ValueError(f"{path} is not a complete file of PyTorch weights ({_first_line(error)}).") from error
  for key in _WRAPPERS:
    if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
      content = content[key]
      break
  if not isinstance(content, Mapping) or not all(
    isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()
  ):
    raise ValueError(
      f"{path} is not a state dict, a mapping of names to tensors. Save the network's state_dict() alone."
    )
  _check_expansion(path, sum(tensor.numel() * tensor.element_size() for tensor in content.values()))
  try:
    return {name: _to_numpy(tensor) for name, tensor in content.items()}
  except (TypeError, RuntimeError) as error:  # Sparse and quantised tensors, for instance.
    raise ValueError(f"{path} holds tensors that are not plain arrays ({_first_line(error)}).") from error


def _unpacked_bytes(path: pathlib.Path) -> int:
  """Returns the bytes that the members of a zip file claim to have; 0 for another or a damaged file."""
  try:
    with zipfile.ZipFile(path) as file:
      return sum(member.file_size for member in file.infolist())
  except Exception:  # Whatever it is, PyTorch's reader says it better.
    return 0


def _check_expansion(path: pathlib.Path, num_bytes: int) -> None:
  """Raises ValueError for tensors that would take far more memory than their file has bytes."""
  stored = path.stat().st_size
  if num_bytes > _MAX_EXPANSION * stored:
    raise ValueError(
      f"{path} claims {num_bytes:,} bytes of tensors, but has {stored:,}. Save copies of expanded tensors, "
      "tensor.clone(), or download it again."
    )


def _first_line(error: Exception) -> str:
  return next(iter(str(error).splitlines()), type(error).__name__)


def _to_numpy(tensor) -> np.ndarray:
  tensor = tensor.detach()
  return (tensor.float() if tensor.is_floating_point() else tensor).numpy()  # NumPy cannot read PyTorch's bfloat16.
