"""The train step and the inference step beside the same network in PyTorch, on the CPU, float32.

    python benchmarks/step.py --backbone=resnet50 --size=256 --batch=2 --json=FILE

Prints Markdown tables; `--json` also writes `{"train": {...}, "inference": {...},
"parts": {...}, "machine": {...}}` with medians (`ours_s`, `torch_eager_s`,
`torch_channels_last_s`) and extremes (`ours_min_s`, `ours_max_s`, ...) in seconds.

All rivals start from the same numbers, and the run ends with an error unless
their first losses agree. What is timed:

* train: uint8 in, normalise, forward, loss, backward, SGD with momentum and weight
  decay. Ours is the product's own step, which besides checks that loss, gradient and
  state are finite.
* inference: uint8 in, normalise, forward, argmax, uint8 out.
* parts: forward and backward of one part alone, at the shape it has in the network.
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
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from benchmarks import timing  # noqa: E402
from gcn_flax.labels import IGNORE  # noqa: E402
from gcn_flax.models import heads, layers, resnet  # noqa: E402
from gcn_flax.models.gcn import GCN  # noqa: E402
from gcn_flax.models.pretrained import FAMILIES  # noqa: E402
from gcn_flax.training import losses, optimizer, steps  # noqa: E402
from gcn_flax.training.state import TrainState  # noqa: E402
from tests.torch_reference import TorchGCN, load_flax, to_torch  # noqa: E402

PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch", "numpy")
FORMATS = {"torch_eager": torch.contiguous_format, "torch_channels_last": torch.channels_last}
RIVALS = ("ours", *FORMATS)
TITLES = ("ours", "torch eager", "torch channels_last")
_FAMILY = FAMILIES["torchvision"]
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 1e-3, 0.9, 5e-4
TOLERANCE = 1e-3  # Relative, of the first losses.


def main() -> None:
  """Measures, prints, writes."""
  args = _arguments()
  torch.set_num_threads(timing.num_cores())
  machine = timing.machine(PACKAGES) | {"torch_threads": torch.get_num_threads()}
  print(_introduction(args, machine), flush=True)

  network = GCN(num_classes=args.num_classes, backbone=args.backbone, kernel_size=args.kernel_size)
  draw = jax.jit(lambda: network.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
  variables = draw()
  replicas = {name: _replica(args, variables, memory_format) for name, memory_format in FORMATS.items()}
  batch = _batch(args)

  rivals = {"ours": _ours_inference(network, variables, batch)}
  rivals |= {name: _torch_inference(replica, batch, FORMATS[name]) for name, replica in replicas.items()}
  equal = {name: float(np.mean(rivals[name]() == rivals["ours"]())) for name in replicas}
  inference = timing.summarise(timing.interleave(rivals, args.repeats))

  rivals = {"ours": _ours_train(network, draw(), batch)}
  rivals |= {name: _torch_train(replica, batch, FORMATS[name]) for name, replica in replicas.items()}
  agreement = {"first_loss": _first_losses(rivals), "equal_predictions": equal}
  print(_check(agreement), flush=True)
  train = timing.summarise(timing.interleave(rivals, args.repeats))
  print(_steps_table(train, inference), flush=True)

  parts = {}
  for part in _parts(args, network, variables, batch):
    parts[part.name] = {"count": part.count, "inside_encoder": part.inside_encoder}
    parts[part.name] |= timing.summarise(timing.interleave(_part_rivals(part, replicas), args.repeats))
  print(_parts_table(parts, train))

  if args.json:
    result = {"train": train, "inference": inference, "parts": parts, "agreement": agreement, "machine": machine}
    pathlib.Path(args.json).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(args.json).write_text(json.dumps({"settings": vars(args)} | result, indent=2) + "\n")


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description="Times the network against the same one in PyTorch, on the CPU.")
  parser.add_argument("--backbone", default="resnet50", choices=tuple(resnet.BACKBONES))
  parser.add_argument("--size", type=int, default=256, help="side of the square images, a multiple of 32")
  parser.add_argument("--batch", type=int, default=2, help="images in a batch")
  parser.add_argument("--kernel_size", type=int, default=15, help="k of the heads, odd")
  parser.add_argument("--num_classes", type=int, default=21)
  parser.add_argument("--repeats", type=int, default=7, help="rounds, each of which times every rival once")
  parser.add_argument("--json", default="", help="file to write the numbers to")
  args = parser.parse_args()
  for name in ("size", "batch", "kernel_size", "repeats"):
    if getattr(args, name) < 1:
      parser.error(f"--{name}={getattr(args, name)} must be at least 1")
  if args.size % 32:
    parser.error(f"--size={args.size} must be a multiple of 32: for instance {-(-args.size // 32) * 32}")
  if args.kernel_size % 2 == 0:
    parser.error(f"--kernel_size={args.kernel_size} must be odd: for instance {args.kernel_size + 1}")
  if not 2 <= args.num_classes <= IGNORE:
    parser.error(f"--num_classes={args.num_classes} must be from 2 to {IGNORE}")
  return args


def _batch(args: argparse.Namespace) -> dict[str, np.ndarray]:
  """Noise with labels, some of them void: time does not depend on what is in the picture."""
  rng = np.random.default_rng(0)
  shape = (args.batch, args.size, args.size)
  labels = rng.integers(0, args.num_classes, shape, np.uint8)
  labels[:, : args.size // 16] = IGNORE
  return {"image": rng.integers(0, 256, (*shape, 3), np.uint8), "label": labels}


# Ours.


def _ours_train(network: GCN, variables: dict, batch: dict) -> Callable[[], float]:
  """The product's train step, as the product compiles it; it consumes `variables` and gives the loss."""
  schedule = optimizer.make_schedule("poly", LEARNING_RATE, total_steps=100_000, warmup_steps=0, poly_power=0.9)
  descent = optimizer.sgd(schedule, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, clip_norm=0.0)
  step = jax.jit(steps.make_train_step(network, descent, losses.of_scores), donate_argnums=0)
  params = variables["params"]
  opt_state, normalization = descent.init(params), _FAMILY.arrays()
  state = TrainState(jnp.int32(0), params, variables["batch_stats"], opt_state, normalization, ema={})

  def run():
    nonlocal state
    state, metrics = jax.block_until_ready(step(state, batch))
    return float(metrics["loss"])

  return run


def _ours_inference(network: GCN, variables: dict, batch: dict) -> Callable[[], np.ndarray]:
  """Images to predictions, compiled."""
  normalization = _FAMILY.arrays()

  @jax.jit
  def predict(variables, images):
    logits = network.apply(variables, steps.normalize(images, normalization), train=False)
    return jnp.argmax(logits, -1).astype(jnp.uint8)

  return lambda: np.asarray(predict(variables, batch["image"]))


# PyTorch's.


def _replica(args: argparse.Namespace, variables: dict, memory_format: torch.memory_format) -> TorchGCN:
  """The network in PyTorch, with the same numbers."""
  replica = load_flax(TorchGCN(args.num_classes, args.backbone, args.kernel_size), variables)
  return replica.to(memory_format=memory_format)


def _torch_images(batch: dict, memory_format: torch.memory_format) -> torch.Tensor:
  """uint8 `[B, 3, H, W]`, in memory as `memory_format` wants it."""
  return torch.from_numpy(batch["image"]).permute(0, 3, 1, 2).contiguous(memory_format=memory_format)


def _torch_normalize() -> Callable[[torch.Tensor], torch.Tensor]:
  mean, std = (torch.tensor(values).view(3, 1, 1) for values in (_FAMILY.mean, _FAMILY.std))
  return lambda images: (images.float() - mean) / std


def _torch_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
  """Mean over the pixels that are not void; `labels` uint8."""
  total = F.cross_entropy(logits, labels.long(), ignore_index=IGNORE, reduction="sum")
  return total / (labels != IGNORE).sum()


def _torch_train(replica: TorchGCN, batch: dict, memory_format: torch.memory_format) -> Callable[[], float]:
  """One update; gives the loss."""
  images, labels = _torch_images(batch, memory_format), torch.from_numpy(batch["label"])
  normalize = _torch_normalize()
  kernels = [value for value in replica.parameters() if value.ndim > 1]
  others = [value for value in replica.parameters() if value.ndim <= 1]
  groups = [{"params": kernels, "weight_decay": WEIGHT_DECAY}, {"params": others}]
  descent = torch.optim.SGD(groups, lr=LEARNING_RATE, momentum=MOMENTUM)
  replica.train()

  def run():
    descent.zero_grad(set_to_none=True)
    loss = _torch_loss(replica(normalize(images)), labels)
    loss.backward()
    descent.step()
    return loss.item()

  return run


def _torch_inference(replica: TorchGCN, batch: dict, memory_format: torch.memory_format) -> Callable[[], np.ndarray]:
  """Images to predictions."""
  images, normalize = _torch_images(batch, memory_format), _torch_normalize()
  replica.eval()

  def run():
    with torch.inference_mode():
      return replica(normalize(images)).argmax(1).to(torch.uint8).numpy()

  return run


# Parts.


@dataclasses.dataclass(frozen=True)
class Part:
  """A part of the network on both sides.

  Attributes:
    name: for the tables.
    count: times it stands in the network at this shape.
    ours: `(weights, x) -> outputs`, an array or several.
    weights: of `ours`.
    torch: `TorchGCN -> function of x`; a module where it has weights.
    x: input `[B, H, W, C]`.
    into_x: whether the network needs the gradient with respect to `x`.
    inside_encoder: whether the time of the encoder holds it already.
  """

  name: str
  count: int
  ours: Callable[[Any, jax.Array], Any]
  weights: Any
  torch: Callable[[TorchGCN], Callable]
  x: np.ndarray
  into_x: bool = True
  inside_encoder: bool = False


def _parts(args: argparse.Namespace, network: GCN, variables: dict, batch: dict) -> list[Part]:
  """All parts, with the shapes they have in the network."""
  encoder = resnet.BACKBONES[args.backbone]()
  weights = {name: variables[name]["encoder"] for name in variables}
  images = np.asarray(steps.normalize(batch["image"], _FAMILY.arrays()))

  def encode(weights, x):
    return encoder.apply(weights, x, train=True, mutable=["batch_stats"])[0]

  shapes = [feature.shape for feature in jax.eval_shape(encode, weights, images)]
  whole = Part("encoder", 1, encode, weights, lambda replica: replica.encoder, images, into_x=False)
  stem = [_stem(variables, images), _max_pool(args, encoder.stem)]
  return [whole, *stem, *_head_parts(args, variables, shapes), *_score_parts(args, variables), _loss(args, batch)]


def _stem(variables: dict, images: np.ndarray) -> Part:
  kernel = variables["params"]["encoder"]["conv1"]
  conv = layers.conv(kernel["kernel"].shape[-1], (7, 7), 2, use_bias=False)
  return Part(
    f"stem 7 x 7, stride 2, {_shape(images)}",
    1,
    lambda weights, x: conv.apply({"params": weights}, x),
    kernel,
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
    lambda _, x: resnet.max_pool(x),
    {},
    lambda _: lambda x: F.max_pool2d(x, 3, 2, 1),
    x,
    inside_encoder=True,
  )


def _head_parts(args: argparse.Namespace, variables: dict, shapes: Sequence[tuple[int, ...]]) -> list[Part]:
  head = heads.GlobalConv(args.num_classes, args.kernel_size)
  return [
    _module_part(f"head{level}, k = {args.kernel_size}", 1, head, variables, f"head{level}", _noise(shape))
    for level, shape in zip((2, 3, 4, 5), shapes, strict=True)
  ]


def _score_parts(args: argparse.Namespace, variables: dict) -> list[Part]:
  """BRs and deconvolutions, each resolution once, with its count."""

  def scores(stride):
    return _noise((args.batch, args.size // stride, args.size // stride, args.num_classes))

  refine = heads.BoundaryRefine()
  counts = {"refine0": 1, "refine1": 1, "refine2": 2, "refine3": 2, "refine4": 2, "refine_head5": 1}
  refinements = [
    _module_part("BR", count, refine, variables, name, scores(2**level))
    for level, (name, count) in enumerate(counts.items())
  ]
  deconv = layers.Deconv()
  return refinements + [
    _module_part("deconvolution", 1, deconv, variables, f"deconv{level}", scores(2**level)) for level in range(1, 6)
  ]


def _module_part(title: str, count: int, module, variables: dict, name: str, x: np.ndarray) -> Part:
  """The submodule `name` of the network, which `module` is without its name."""
  return Part(
    f"{title}, {_shape(x)}",
    count,
    lambda weights, x: module.apply({"params": weights}, x),
    variables["params"][name],
    lambda replica: replica.get_submodule(name),
    x,
  )


def _loss(args: argparse.Namespace, batch: dict) -> Part:
  labels = torch.from_numpy(batch["label"])
  x = _noise((args.batch, args.size, args.size, args.num_classes))

  def ours(labels, x):
    total, weight = losses.cross_entropy(x, labels)
    return total / weight

  # The labels take the place of the weights; being integers, they get no gradient.
  return Part(f"loss, {_shape(x)}", 1, ours, batch["label"], lambda _: lambda x: _torch_loss(x, labels), x)


def _part_rivals(part: Part, replicas: dict[str, TorchGCN]) -> dict[str, Callable[[], Any]]:
  """Forward and backward of a part, on both sides."""
  towards = jax.tree.map(lambda leaf: _noise(leaf.shape), jax.eval_shape(part.ours, part.weights, part.x))
  rivals = {"ours": _ours_part(part, towards)}
  return rivals | {name: _torch_part(part, replica, towards, FORMATS[name]) for name, replica in replicas.items()}


def _ours_part(part: Part, towards: Any) -> Callable[[], Any]:
  @jax.jit
  def forward_backward(weights, x, towards):
    if part.into_x:
      outputs, pullback = jax.vjp(part.ours, weights, x)
    else:
      outputs, pullback = jax.vjp(lambda weights: part.ours(weights, x), weights)
    return outputs, pullback(towards)

  inputs = jax.device_put((part.weights, part.x, towards))
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


# Output.


def _first_losses(rivals: dict[str, Callable[[], float]]) -> dict[str, float]:
  """The loss of each rival's first step. Raises SystemExit where they are not the same."""
  first = {name: rival() for name, rival in rivals.items()}
  for name, loss in first.items():
    if not abs(loss - first["ours"]) <= TOLERANCE * abs(first["ours"]):  # Written so that NaN fails.
      sys.exit(f"error: the first loss of {name} is {loss:.6g}, ours is {first['ours']:.6g}: not the same network.")
  return first


def _introduction(args: argparse.Namespace, machine: dict) -> str:
  versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
  busy = (
    ""
    if machine["load_average"] < 0.5
    else "Other programs ran in the last minute: trust the times only if they have ended.\n"
  )
  return (
    f"GCN with {args.backbone}, k = {args.kernel_size}, {args.num_classes} classes; {args.batch} images of "
    f"{args.size} x {args.size}, float32, {args.repeats} rounds.\n"
    f"{machine['cpu']}, {machine['cores']} cores; JAX on all of them, PyTorch on {machine['torch_threads']} threads; "
    f"load average {machine['load_average']:.1f} at the start.\n"
    f"{machine['date']}; {versions}.\n`{machine['command']}`\n{busy}"
  )


def _check(agreement: dict) -> str:
  first = ", ".join(f"{name} {loss:.6f}" for name, loss in agreement["first_loss"].items())
  equal = ", ".join(f"{name} {share:.3%}" for name, share in agreement["equal_predictions"].items())
  return f"The same network: first loss {first}; pixels predicted as by ours {equal}.\n"


def _steps_table(train: dict, inference: dict) -> str:
  header = ("step, ms: median (min - max)", *TITLES, "eager / ours", "channels_last / ours")
  rows = [
    (title, *(_spread(times, name) for name in RIVALS), *_ratios(times))
    for title, times in {"train": train, "inference": inference}.items()
  ]
  return f"{timing.table(header, rows)}\n\nA ratio above 1 says that ours is the faster.\n"


def _parts_table(parts: dict[str, dict], train: dict) -> str:
  header = ("part, ms: median of forward + backward", "in the network", *TITLES, "eager / ours", "channels_last / ours")
  rows = []
  for name, times in parts.items():
    title = f"- of it: {name}" if times["inside_encoder"] else name
    rows.append((title, str(times["count"]), *(_ms(times[f"{rival}_s"]) for rival in RIVALS), *_ratios(times)))
  total = {
    f"{rival}_s": sum(times["count"] * times[f"{rival}_s"] for times in parts.values() if not times["inside_encoder"])
    for rival in RIVALS
  }
  for title, times in {"sum of count x part": total, "whole train step": train}.items():
    rows.append((title, "", *(_ms(times[f"{rival}_s"]) for rival in RIVALS), *_ratios(times)))
  return (
    f"Where the time goes\n\n{timing.table(header, rows)}\n\n"
    "Parts are timed alone, ours each as a compiled function of its own: inside the step XLA fuses and lays out\n"
    "across their borders, and additions, normalisation and the update are in no part. So they do not add up exactly."
  )


def _ratios(times: dict) -> list[str]:
  return [f"{times[f'{name}_s'] / times['ours_s']:.2f}" for name in FORMATS]


def _spread(times: dict, name: str) -> str:
  return f"{_ms(times[f'{name}_s'])} ({_ms(times[f'{name}_min_s'])} - {_ms(times[f'{name}_max_s'])})"


def _ms(seconds: float) -> str:
  return f"{1e3 * seconds:.3g}" if seconds < 0.1 else f"{1e3 * seconds:.0f}"


def _shape(x: np.ndarray) -> str:
  return " x ".join(map(str, x.shape[1:]))


if __name__ == "__main__":
  main()
