"""Reads and writes files of named weights: safetensors, and PyTorch's `.pth` without ever running code in it."""

import argparse
import contextlib
import dataclasses
import json
import pathlib
import pickle
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from gcn_flax import files
from gcn_flax.models.file_kinds import SAFETENSORS, kind_of, whole_pickle_problem

_SAFE_TORCH = (2, 6)  # In older versions weights_only can be bypassed.
_MAX_EXPANSION = 4  # Bytes of tensors per byte of their file; tensors that share memory are stored once.
_PRODUCER = "gcn_flax"  # Only metadata of this package's own files is used.
_FLOATS = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)


@dataclasses.dataclass(frozen=True)
class Weights:
  """Tensors of a file.

  Attributes:
    tensors: name -> tensor, floats of any precision as float32.
    metadata: metadata of the file if this package wrote it, else {}.
    prefix: prefix that was stripped from their names.
    left_aside: names in the file that were not read.
  """

  tensors: dict[str, np.ndarray]
  metadata: dict[str, str]
  prefix: str
  left_aside: tuple[str, ...]


def read(path: str | pathlib.Path, find_prefix: Callable[[Collection[str]], str] = lambda names: "") -> Weights:
  """Reads the tensors of a file, all of them or those under a prefix.

  Args:
    path: a safetensors file, or a file of `torch.save`; its content decides, not its name. The latter is read by
      PyTorch's `weights_only` loader, which knows tensors and nothing that could be run. Tensors in nested
      dictionaries get names such as `state_dict.conv1.weight`.
    find_prefix: names of all tensors -> the prefix of those to read, which is stripped; may raise ValueError.

  Raises:
    ValueError: if the file is missing, damaged, of another kind, or holds code; if it needs PyTorch, which is not
      installed; if a number is not finite.
  """
  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    raise ValueError(f"weights {str(path)!r} not found. Use a local file.")
  if kind_of(path) == SAFETENSORS:
    weights = _from_safetensors(
      path,
      lambda file: _select(file.keys(), file.get_tensor, find_prefix, _ours(file.metadata())),
    )
  else:
    weights = _read_torch(path, find_prefix)
  broken = [name for name, tensor in weights.tensors.items() if not np.isfinite(tensor).all()]
  if broken:
    raise ValueError(f"{path} holds numbers that are not finite, in {', '.join(broken)}. Use another checkpoint.")
  return weights


def _select(
  names: Collection[str],
  get: Callable[[str], np.ndarray],
  find_prefix: Callable[[Collection[str]], str],
  metadata: dict[str, str],
) -> Weights:
  prefix = find_prefix(names)
  chosen = {name.removeprefix(prefix): _as_float32(get(name)) for name in names if name.startswith(prefix)}
  return Weights(chosen, metadata, prefix, tuple(name for name in names if not name.startswith(prefix)))


def extract(path: str | pathlib.Path, prefix: str, target: str | pathlib.Path) -> None:
  """Writes the tensors whose names begin with `prefix`, which is stripped, to a safetensors file `target`."""
  write(pathlib.Path(target), read(path, lambda names: prefix).tensors, {})


def read_metadata(path: pathlib.Path) -> dict[str, str]:
  """Returns the metadata of a safetensors file of this package; {} for other files. Raises ValueError as `read`."""
  if kind_of(path) != SAFETENSORS:
    return {}
  return _from_safetensors(path, lambda file: _ours(file.metadata()))


def _ours(metadata: dict[str, str] | None) -> dict[str, str]:
  return metadata if metadata and metadata.get("producer", "").startswith(_PRODUCER) else {}


def write(path: files.Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> int:
  """Writes a safetensors file atomically, so that a kill leaves the old or the new one; returns its size in bytes.

  The same tensors and metadata give the same bytes.
  """
  content = safetensors.numpy.save(
    {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()},
    # PyTorch's readers require "format": "pt".
    {"format": "pt", "producer": _PRODUCER, **metadata},
  )
  content = _sort_metadata(content)
  files.write(path, content)
  return len(content)


def _sort_metadata(content: bytes) -> bytes:
  """Returns a safetensors file with its metadata in order: safetensors 0.8 shuffles it, and digests would differ."""
  start = 8 + int.from_bytes(content[:8], "little")
  header = json.loads(content[8:start])
  header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
  text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)  # Tensors are aligned to 8 bytes.
  return len(text).to_bytes(8, "little") + text + content[start:]


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


def _read_torch(path: pathlib.Path, find_prefix: Callable[[Collection[str]], str]) -> Weights:
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
    # A Namespace, the arguments of many training scripts, only holds values.
    with torch.serialization.safe_globals([argparse.Namespace]), path.open("rb") as file:
      content = torch.load(file, map_location="cpu", weights_only=True)
  except pickle.UnpicklingError as error:  # Its text is not shown: it advises to run the file's code.
    raise ValueError(f"{path} {whole_pickle_problem(_foreign_classes(path))}") from error
  except Exception as error:  # PyTorch's readers raise many kinds of errors.
    raise ValueError(
      f"{path} is not a complete file of PyTorch weights ({_first_line(error)}). Download it again."
    ) from error
  tensors = dict(_tensors(content))
  if not tensors:
    raise ValueError(
      f"{path} is not a state dict, a mapping of names to tensors. Save the network's state_dict() alone."
    )
  _check_expansion(path, sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()))
  try:
    return _select(tensors, lambda name: _to_numpy(tensors[name]), find_prefix, {})
  except (TypeError, RuntimeError) as error:  # Sparse and quantised tensors, for instance.
    raise ValueError(
      f"{path} holds tensors that are not plain arrays ({_first_line(error)}). Save them dense, as float32."
    ) from error


def _foreign_classes(path: pathlib.Path) -> list[str]:
  """Returns the classes and functions that a PyTorch file calls besides those of tensors; [] if it is damaged."""
  import torch

  with contextlib.suppress(Exception):
    return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
  return []


def _tensors(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
  """Yields the tensors of nested mappings by dotted names; anything else, such as an optimizer's state, is skipped."""
  if isinstance(content, Mapping):
    for key, value in content.items():
      if isinstance(key, str):
        yield from _tensors(value, f"{name}.{key}" if name else key)
  elif name and hasattr(content, "detach"):
    yield name, content


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
