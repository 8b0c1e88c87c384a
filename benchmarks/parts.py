"""Where the time of a train step goes: forward and backward of each part alone, ours and PyTorch's, on the CPU.

    python benchmarks/parts.py --backbone=resnet50 --size=256 --batch=2 --json=FILE

Each part has the shape that it has in the network, float32; scores of ours are filled up as they are there. Ours are
compiled functions of their own: inside the step XLA fuses and lays out across their borders, and additions,
normalisation and the update are in no part, so parts do not add up to the step. `--json` writes
`{"parts": {name: {"count", "ours_s", ...}}, "machine": {...}}`, seconds.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # The repository, for a run as a script.

import jax  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from benchmarks import rivals, timing  # noqa: E402
from gcn_flax.models import (  # noqa: E402
  heads,
  layers,
  layout,  # noqa: E402
  ops,  # noqa: E402
  resnet,
)
from gcn_flax.training import losses  # noqa: E402
from tests.torch_reference import TorchGCN, load_flax, to_torch  # noqa: E402

FORMS = {"ours": ops.CPU, "ours_plain": ops.PLAIN}
FORMATS = {"torch_eager": torch.contiguous_format, "torch_channels_last": torch.channels_last}
RIVALS = (*FORMS, *FORMATS)


@dataclasses.dataclass(frozen=True)
class Part:
  """A part of the network on both sides.

  Attributes:
    name: for the table.
    count: times it stands in the network at this shape.
    ours: `forms -> (weights, x) -> outputs`, an array or several.
    weights: of `ours`.
    torch: `TorchGCN -> function of x`; a module where it has weights.
    x: input `[B, H, W, C]`.
    into_x: whether the network needs the gradient with respect to `x`.
    inside_encoder: whether the time of the encoder holds it already.
    scores: whether `x` are scores, which ours are filled up to a width that suits the platform.
  """

  name: str
  count: int
  ours: Callable[[ops.Forms], Callable[[Any, jax.Array], Any]]
  weights: Any
  torch: Callable[[TorchGCN], Callable]
  x: np.ndarray
  into_x: bool = True
  inside_encoder: bool = False
  scores: bool = False


def main() -> None:
  """Measures, prints, writes."""
  args = rivals.parse(rivals.parser("Times each part of the network against PyTorch's, on the CPU."))
  torch.set_num_threads(timing.num_cores())
  machine = timing.machine(("jax", "jaxlib", "flax", "torch", "numpy"))
  print(f"{machine['cpu']}, {machine['cores']} cores, {machine['date']}\n`{machine['command']}`\n", flush=True)
  setting = rivals.Setting(args.num_classes, args.backbone, args.kernel_size, {}, "float32")
  variables = setting.variables()
  replicas = {}
  for name, memory_format in FORMATS.items():
    network = load_flax(TorchGCN(args.num_classes, args.backbone, args.kernel_size), variables)
    replicas[name] = network.to(memory_format=memory_format)
  found = {}
  for part in _parts(args, variables):
    facts = {"count": part.count, "inside_encoder": part.inside_encoder}
    found[part.name] = facts | timing.summarise(timing.interleave(_part_rivals(part, replicas), args.repeats))
  print(_table(found))
  if args.json:
    pathlib.Path(args.json).parent.mkdir(parents=True, exist_ok=True)
    result = {"settings": vars(args), "parts": found, "machine": machine}
    pathlib.Path(args.json).write_text(json.dumps(result, indent=2) + "\n")


def _parts(args: argparse.Namespace, variables: dict) -> list[Part]:
  """All parts, with the shapes they have in the network."""
  weights = {name: variables[name]["encoder"] for name in variables}
  images = _noise((args.batch, args.size, args.size, 3))

  def encode(form):
    encoder = resnet.BACKBONES[args.backbone](forms=form)
    return lambda weights, x: encoder.apply(weights, x, train=True, mutable=["batch_stats"])[0]

  shapes = [feature.shape for feature in jax.eval_shape(encode(ops.PLAIN), weights, images)]
  whole = Part("encoder", 1, encode, weights, lambda replica: replica.encoder, images, into_x=False)
  stem = variables["params"]["encoder"]["conv1"]
  return [
    whole,
    _stem(stem, images),
    _max_pool(args, stem["kernel"].shape[-1]),
    *_head_parts(args, variables, shapes),
    *_score_parts(args, variables),
    _loss(args),
  ]


def _stem(weights: dict, images: np.ndarray) -> Part:
  features = weights["kernel"].shape[-1]
  return Part(
    f"stem 7 x 7, stride 2, {_shape(images)}",
    1,
    lambda form: _applied(layers.Conv(features, (7, 7), 2, use_bias=False, forms=form)),
    weights,
    lambda replica: replica.encoder.conv1,
    images,
    into_x=False,
    inside_encoder=True,
  )


def _max_pool(args: argparse.Namespace, channels: int) -> Part:
  x = np.maximum(_noise((args.batch, args.size // 2, args.size // 2, channels)), 0)  # It stands behind a ReLU.
  return Part(
    f"max-pool 3 x 3, stride 2, {_shape(x)}",
    1,
    lambda form: lambda _, x: form.max_pool(x),
    {},
    lambda _: lambda x: F.max_pool2d(x, 3, 2, 1),
    x,
    inside_encoder=True,
  )


def _head_parts(args: argparse.Namespace, variables: dict, shapes: Sequence[tuple[int, ...]]) -> list[Part]:
  def head(form):
    return heads.GlobalConv(args.num_classes, args.kernel_size, forms=form)

  return [
    _module_part(f"head{level}, k = {args.kernel_size}", 1, head, variables, f"head{level}", _noise(shape))
    for level, shape in zip((2, 3, 4, 5), shapes, strict=True)
  ]


def _score_parts(args: argparse.Namespace, variables: dict) -> list[Part]:
  """BRs and deconvolutions, each resolution once, with its count."""

  def scores(stride):
    return _noise((args.batch, args.size // stride, args.size // stride, args.num_classes))

  counts = {"refine0": 1, "refine1": 1, "refine2": 2, "refine3": 2, "refine4": 2, "refine_head5": 1}
  refinements = [
    _module_part(
      "BR",
      count,
      lambda form: heads.BoundaryRefine(forms=form, layouts=(form.plain(args.num_classes),) * 2),
      variables,
      name,
      scores(2**level),
      scores=True,
    )
    for level, (name, count) in enumerate(counts.items())
  ]
  return refinements + [
    _module_part(
      "deconvolution",
      1,
      lambda form: layers.Deconv(forms=form, layouts=(form.plain(args.num_classes),) * 2),
      variables,
      f"deconv{level}",
      scores(2**level),
      scores=True,
    )
    for level in range(1, 6)
  ]


def _module_part(
  title: str, count: int, module: Callable, variables: dict, name: str, x: np.ndarray, scores: bool = False
) -> Part:
  """The submodule `name` of the network, which `module` makes without its name."""
  return Part(
    f"{title}, {_shape(x)}",
    count,
    lambda form: _applied(module(form)),
    variables["params"][name],
    lambda replica: replica.get_submodule(name),
    x,
    scores=scores,
  )


def _applied(module: Any) -> Callable:
  return lambda weights, x: module.apply({"params": weights}, x)


def _loss(args: argparse.Namespace) -> Part:
  x = _noise((args.batch, args.size, args.size, args.num_classes))
  labels = np.random.default_rng(1).integers(0, args.num_classes, x.shape[:3], np.uint8)

  def ours(form):
    layout = form.plain(args.num_classes)
    return lambda labels, x: losses.of_scores(layout.ScoreMap(x, layout), labels)[0]

  def theirs(replica):
    del replica
    return lambda x: F.cross_entropy(x, torch.from_numpy(labels).long(), reduction="sum")

  # The labels take the place of the weights; being integers, they get no gradient.
  return Part(f"loss, {_shape(x)}", 1, ours, labels, theirs, x, scores=True)


def _part_rivals(part: Part, replicas: dict[str, TorchGCN]) -> dict[str, Callable[[], Any]]:
  """Forward and backward of a part, on both sides."""
  shapes = jax.eval_shape(part.ours(ops.PLAIN), part.weights, part.x)
  towards = jax.tree.map(lambda leaf: _noise(leaf.shape), shapes)
  ours = {name: _ours_part(part, form) for name, form in FORMS.items()}
  return ours | {name: _torch_part(part, replica, towards, FORMATS[name]) for name, replica in replicas.items()}


def _ours_part(part: Part, form: ops.Forms) -> Callable[[], Any]:
  function = part.ours(form)
  x = np.asarray(layout.widen(part.x, form.plain(part.x.shape[-1]).width)) if part.scores else part.x
  towards = jax.tree.map(lambda leaf: _noise(leaf.shape), jax.eval_shape(function, part.weights, x))

  @jax.jit
  def forward_backward(weights, x, towards):
    if part.into_x:
      outputs, pullback = jax.vjp(function, weights, x)
    else:
      outputs, pullback = jax.vjp(lambda weights: function(weights, x), weights)
    return outputs, pullback(towards)

  inputs = jax.device_put((part.weights, x, towards))
  return lambda: jax.block_until_ready(forward_backward(*inputs))


def _torch_part(part: Part, replica: TorchGCN, towards: Any, memory_format: torch.memory_format) -> Callable[[], Any]:
  def tensor(leaf):
    return to_torch(leaf).contiguous(memory_format=memory_format) if leaf.ndim == 4 else torch.tensor(leaf)

  function = part.torch(replica)
  x = tensor(part.x).requires_grad_(part.into_x)
  towards = jax.tree.map(tensor, towards)
  leaves = list(function.parameters()) if isinstance(function, nn.Module) else []
  leaves += [x] if part.into_x else []

  def run():
    outputs = function(x)
    return outputs, torch.autograd.grad(outputs, leaves, towards)

  return run


def _noise(shape: Sequence[int]) -> np.ndarray:
  return np.random.default_rng(0).standard_normal(shape, np.float32)


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


def _shape(x: np.ndarray) -> str:
  return " x ".join(map(str, x.shape[1:]))


if __name__ == "__main__":
  main()
