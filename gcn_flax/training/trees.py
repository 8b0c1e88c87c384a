"""Arrays of a tree by their paths: shapes, digests, bytes, and differences between two trees."""

import math
import zlib
from typing import Any

import jax
import numpy as np


def num_bytes(tree: Any) -> int:
  """Returns the bytes of all arrays of a tree, or of a tree of `jax.ShapeDtypeStruct`s."""
  return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  """Returns the shape of each array of a tree by its path, `params/encoder/conv1/kernel`."""
  leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda leaf: hasattr(leaf, "shape"))[0]
  return {"/".join(_name(key) for key in path): tuple(leaf.shape) for path, leaf in leaves if hasattr(leaf, "shape")}


def digests(tree: Any) -> dict[str, int]:
  """Returns the CRC-32 of each array of a tree by its path; arrays must be fully replicated or on one host."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  arrays = {"/".join(_name(key) for key in path): np.asarray(leaf) for path, leaf in leaves}
  return {name: zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8)) for name, array in arrays.items()}


def _name(key: Any) -> str:
  for attribute in ("key", "name", "idx"):
    if hasattr(key, attribute):
      return str(getattr(key, attribute))
  return str(key)


def compare(saved: dict[str, tuple], wanted: dict[str, tuple], max_lines: int = 12) -> list[str]:
  """Lists the leaves of `wanted` that `saved` lacks or has in another shape, and those left over of a whole state."""
  whole = "step" in wanted
  lines = []
  for name in sorted(saved.keys() | wanted.keys()):
    if name not in wanted:
      if whole:
        lines.append(f"{name} {saved[name]} is only in the checkpoint")
    elif name not in saved:
      lines.append(f"{name} {wanted[name]} is not in the checkpoint")
    elif saved[name] != wanted[name]:
      lines.append(f"{name} is {saved[name]} in the checkpoint, {wanted[name]} here")
  if len(lines) > max_lines:
    lines = [*lines[:max_lines], f"and {len(lines) - max_lines} more"]
  return lines
