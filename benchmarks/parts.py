"""Times forward and backward of each part of the network alone, ours and PyTorch's, on this machine's GPU or CPU.

    python benchmarks/parts.py --backbone=resnet50 --size=256 --batch=2 --json=FILE

Each part has the shape and dtype it has in the network; our logits have the channel padding they have there. Our
parts are compiled on their own, but inside the step XLA fuses and lays out across their borders, and additions,
normalization and the update belong to no part, so the parts do not add up to the step. `--json` writes
`{"parts": {name: {"count", "ours_s", ...}}, "machine": {...}}`, in seconds, after each part; `ours_plain` is the
reference implementation, and `ours_fused`, only for BR and with --fused, that as one Pallas operation.
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # Leaves GPU memory to PyTorch.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

from benchmarks import network, network_parts, rivals, script, timing  # noqa: E402
from benchmarks.network_parts import Part, noise  # noqa: E402
from gcn_flax import distributed  # noqa: E402
from gcn_flax.models import layout, ops  # noqa: E402
from tests.torch_reference import TorchGCN, load_flax, to_torch  # noqa: E402

IMPLEMENTATIONS = ("ours", "ours_plain")
FORMATS = {"torch_eager": torch.contiguous_format, "torch_channels_last": torch.channels_last}
RIVALS = (*IMPLEMENTATIONS, *FORMATS)


def main() -> None:
  """Measures every part, prints the table and writes the JSON file."""
  distributed.skip_libtpu()
  parser = network.parser("Times each part of the network against PyTorch's.")
  network.add_dtype(parser)
  parser.add_argument("--parts", default="", help="first words of the parts to time, as BR,loss (default: all)")
  parser.add_argument("--fused", action="store_true", help="also time BR as one Pallas operation")
  args = network.parse(parser)
  torch.set_num_threads(script.num_cores())
  torch.backends.cudnn.benchmark = True
  device = rivals.torch_device()
  machine = script.machine(("jax", "jaxlib", "flax", "torch", "numpy"))
  print(script.headline(machine), flush=True)
  setting = rivals.Setting(args.num_classes, args.backbone, args.kernel_size, {}, args.dtype)
  variables = setting.variables()
  replicas = {}
  for name, memory_format in FORMATS.items():
    replica = load_flax(TorchGCN(args.num_classes, args.backbone, args.kernel_size), variables)
    replicas[name] = replica.to(device, memory_format=memory_format)
  found = {}
  for part in network_parts.parts(args, variables):
    if not part.name.startswith(tuple(args.parts.split(","))):
      continue
    facts = {"count": part.count, "inside_encoder": part.inside_encoder}
    found[part.name] = facts | timing.summarize(timing.interleave(_part_rivals(part, replicas, args), args.repeats))
    print(f"{part.name}: ours {1e3 * found[part.name]['ours_s']:.3g} ms", flush=True)
    script.write_json(args.json, {"settings": vars(args), "parts": found, "machine": machine})
  print(_table(found))


def _part_rivals(part: Part, replicas: dict[str, TorchGCN], args: argparse.Namespace) -> dict[str, Callable[[], Any]]:
  """Returns a function per rival that runs forward and backward of a part."""
  shapes = jax.eval_shape(part.ours(ops.REFERENCE), part.weights, part.x)
  cotangents = jax.tree.map(lambda leaf: noise(leaf.shape), shapes)
  fused = ("ours_fused",) if args.fused and part.name.startswith("BR") else ()
  ours = {name: _our_part(part, rivals.IMPLEMENTATIONS[name]()) for name in (*IMPLEMENTATIONS, *fused)}
  theirs = {
    name: _torch_part(part, replica, cotangents, FORMATS[name], args.dtype) for name, replica in replicas.items()
  }
  return ours | theirs


def _our_part(part: Part, implementation: ops.Ops) -> Callable[[], Any]:
  function = part.ours(implementation)
  x = part.x
  if part.logits:
    x = np.asarray(layout.pad_channels(x, implementation.padded(x.shape[-1])))
  shapes = jax.eval_shape(function, part.weights, x)
  cotangents = jax.tree.map(lambda leaf: noise(leaf.shape).astype(leaf.dtype), shapes)

  @jax.jit
  def forward_backward(weights, x, cotangents):
    if part.into_x:
      outputs, pullback = jax.vjp(function, weights, x)
    else:
      outputs, pullback = jax.vjp(lambda weights: function(weights, x), weights)
    return outputs, pullback(cotangents)

  inputs = jax.device_put((part.weights, x, cotangents))
  return lambda: jax.block_until_ready(forward_backward(*inputs))


def _torch_part(
  part: Part, replica: TorchGCN, cotangents: Any, memory_format: torch.memory_format, dtype: str
) -> Callable[[], Any]:
  device = rivals.torch_device()

  def tensor(leaf):
    result = to_torch(leaf).contiguous(memory_format=memory_format) if leaf.ndim == 4 else torch.tensor(leaf)
    return result.to(device, torch.float32 if leaf.dtype == np.float32 else getattr(torch, dtype))

  def forward():
    with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
      return function(x)

  function = part.torch(replica)
  x = tensor(part.x).requires_grad_(part.into_x)
  # Autocast decides the dtype of the results.
  cotangents = jax.tree.map(lambda leaf, y: tensor(leaf).to(y.dtype), cotangents, _like(forward(), cotangents))
  leaves = list(function.parameters()) if isinstance(function, nn.Module) else []
  leaves += [x] if part.into_x else []

  def run():
    outputs = forward()
    gradients = torch.autograd.grad(outputs, leaves, cotangents)
    if device == "cuda":
      torch.cuda.synchronize()
    return outputs, gradients

  return run


def _like(outputs: Any, tree: Any) -> Any:
  """Returns PyTorch's outputs, a tensor or a list of them, in the structure of ours."""
  leaves = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
  return jax.tree.unflatten(jax.tree.structure(tree), leaves)


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
