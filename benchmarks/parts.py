"""Times forward and backward of each part of the network alone, ours and PyTorch's, on the CPU.

    python benchmarks/parts.py --backbone=resnet50 --size=256 --batch=2 --json=FILE

Each part has the shape it has in the network, in float32; our logits have the channel padding they have there. Our
parts are compiled on their own, but inside the step XLA fuses and lays out across their borders, and additions,
normalization and the update belong to no part, so the parts do not add up to the step. `--json` writes
`{"parts": {name: {"count", "ours_s", ...}}, "machine": {...}}`, in seconds; `ours_plain` is the reference
implementation.
"""

import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

from benchmarks import network, network_parts, rivals, script, timing  # noqa: E402
from benchmarks.network_parts import Part, noise  # noqa: E402
from gcn_flax.models import layout, ops  # noqa: E402
from tests.torch_reference import TorchGCN, load_flax, to_torch  # noqa: E402

IMPLEMENTATIONS = {"ours": ops.CPU, "ours_plain": ops.REFERENCE}
FORMATS = {"torch_eager": torch.contiguous_format, "torch_channels_last": torch.channels_last}
RIVALS = (*IMPLEMENTATIONS, *FORMATS)


def main() -> None:
  """Measures every part, prints the table and writes the JSON file."""
  args = network.parse(network.parser("Times each part of the network against PyTorch's, on the CPU."))
  torch.set_num_threads(script.num_cores())
  machine = script.machine(("jax", "jaxlib", "flax", "torch", "numpy"))
  print(script.headline(machine), flush=True)
  setting = rivals.Setting(args.num_classes, args.backbone, args.kernel_size, {}, "float32")
  variables = setting.variables()
  replicas = {}
  for name, memory_format in FORMATS.items():
    replica = load_flax(TorchGCN(args.num_classes, args.backbone, args.kernel_size), variables)
    replicas[name] = replica.to(memory_format=memory_format)
  found = {}
  for part in network_parts.parts(args, variables):
    facts = {"count": part.count, "inside_encoder": part.inside_encoder}
    found[part.name] = facts | timing.summarize(timing.interleave(_part_rivals(part, replicas), args.repeats))
  print(_table(found))
  script.write_json(args.json, {"settings": vars(args), "parts": found, "machine": machine})


def _part_rivals(part: Part, replicas: dict[str, TorchGCN]) -> dict[str, Callable[[], Any]]:
  """Returns a function per rival that runs forward and backward of a part."""
  shapes = jax.eval_shape(part.ours(ops.REFERENCE), part.weights, part.x)
  cotangents = jax.tree.map(lambda leaf: noise(leaf.shape), shapes)
  ours = {name: _our_part(part, implementation) for name, implementation in IMPLEMENTATIONS.items()}
  return ours | {name: _torch_part(part, replica, cotangents, FORMATS[name]) for name, replica in replicas.items()}


def _our_part(part: Part, implementation: ops.Ops) -> Callable[[], Any]:
  function = part.ours(implementation)
  x = part.x
  if part.logits:
    x = np.asarray(layout.pad_channels(x, implementation.padded(x.shape[-1])))
  cotangents = jax.tree.map(lambda leaf: noise(leaf.shape), jax.eval_shape(function, part.weights, x))

  @jax.jit
  def forward_backward(weights, x, cotangents):
    if part.into_x:
      outputs, pullback = jax.vjp(function, weights, x)
    else:
      outputs, pullback = jax.vjp(lambda weights: function(weights, x), weights)
    return outputs, pullback(cotangents)

  inputs = jax.device_put((part.weights, x, cotangents))
  return lambda: jax.block_until_ready(forward_backward(*inputs))


def _torch_part(part: Part, replica: TorchGCN, cotangents: Any, memory_format: torch.memory_format) -> Callable:
  def tensor(leaf):
    return to_torch(leaf).contiguous(memory_format=memory_format) if leaf.ndim == 4 else torch.tensor(leaf)

  function = part.torch(replica)
  x = tensor(part.x).requires_grad_(part.into_x)
  cotangents = jax.tree.map(tensor, cotangents)
  leaves = list(function.parameters()) if isinstance(function, nn.Module) else []
  leaves += [x] if part.into_x else []

  def run():
    outputs = function(x)
    return outputs, torch.autograd.grad(outputs, leaves, cotangents)

  return run


def _table(found: dict[str, dict]) -> str:
  ratios = RIVALS[1:]
  header = ("part, ms: median of forward + backward", "in the network", *(rivals.TITLES[name] for name in RIVALS))
  header += tuple(f"{rivals.TITLES[name].removeprefix('ours, ')} / ours" for name in ratios)
  rows = []
  for name, times in found.items():
    title = f"- of it: {name}" if times["inside_encoder"] else name
    rows.append((title, str(times["count"]), *_cells(times)))
  total = {
    f"{rival}_s": sum(times["count"] * times[f"{rival}_s"] for times in found.values() if not times["inside_encoder"])
    for rival in RIVALS
  }
  rows.append(("sum of count x part", "", *_cells(total)))
  return timing.table(header, rows)


def _cells(times: dict) -> list[str]:
  seconds = [times[f"{name}_s"] for name in RIVALS]
  return [f"{1e3 * value:.3g}" for value in seconds] + [f"{value / seconds[0]:.2f}" for value in seconds[1:]]


if __name__ == "__main__":
  main()
