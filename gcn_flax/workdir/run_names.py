"""Short names of runs and of their networks, for tables and pictures that show several of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from gcn_flax import files
from gcn_flax.messages import flag

_HEADS = {"pointwise": "1 x 1", "gcn": "GCN, k = {k}", "trivial": "{k} x {k} conv", "stack": "stack of 3 x 3, k = {k}"}


def name_runs(workdir: files.Path, others: Sequence[files.Path | str]) -> dict[str, files.Path]:
  """Returns the paths of a workdir and of others by their short names. Raises ValueError if one is given twice."""
  paths = [workdir, *map(files.path, others)]
  for path, other in zip(paths[1:], others, strict=True):
    if paths.count(path) > 1:
      raise ValueError(f"{flag('other', other)}: is given twice. Use each run once.")
  return dict(zip(short_names(paths), paths, strict=True))


def short_names(paths: Sequence[files.Path]) -> list[str]:
  """Returns the shortest ends of paths that differ: `a` and `b` for `runs/a` and `runs/b`, else `x/a` and `y/a`."""
  parts = [tuple(str(path).rstrip("/").split("/")) for path in paths]
  for length in range(1, max(map(len, parts)) + 1):
    names = ["/".join(each[-length:]) for each in parts]
    if len(set(names)) == len(set(parts)):
      break
  return names


def network_name(model: Mapping[str, Any]) -> str:
  """Returns the name of a network, such as `resnet50, GCN, k = 15, BR`; `model` are the settings `config.model`."""
  if model["head"] == "classifier":
    return f"{model['backbone']}, classifier"
  head = _HEADS[model["head"]].format(k=model["kernel_size"])
  return ", ".join([model["backbone"], head, *(["BR"] if model["boundary_refine"] else [])])
