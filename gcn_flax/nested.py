"""Nested dicts of settings: flattened to dotted names, and completed with defaults."""

from collections.abc import Mapping
from typing import Any


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Returns every leaf of a nested mapping by its dotted name, in the mapping's order.

  `flatten({"model": {"head": "gcn"}, "seed": 0}, "config")` is `{"config.model.head": "gcn", "config.seed": 0}`;
  with the empty prefix the names are `model.head` and `seed`. Leaves are returned as they are, and an empty mapping
  has none.
  """
  flat = {}
  for key, value in tree.items():
    name = f"{prefix}.{key}" if prefix else key
    flat.update(flatten(value, name) if isinstance(value, Mapping) else {name: value})
  return flat


def merge(defaults: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
  """Returns `defaults` with the values of `overrides` in their place, mapping by mapping; inputs are not changed."""
  merged = dict(defaults)
  for key, value in overrides.items():
    nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
    merged[key] = merge(merged[key], value) if nested else value
  return merged
