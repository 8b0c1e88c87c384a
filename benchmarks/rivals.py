"""The train and the inference step, ours and PyTorch's, of the same network with the same numbers."""

import argparse
import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn import functional as F

from gcn_flax.labels import IGNORE
from gcn_flax.models import ops, resnet
from gcn_flax.models.gcn import GCN
from gcn_flax.models.pretrained import FAMILIES
from gcn_flax.planning import cost
from gcn_flax.training import losses, optimizer, steps
from gcn_flax.training.state import TrainState
from tests.torch_reference import TorchGCN, load_flax

TITLES = {
  "ours": "ours",
  "ours_plain": "ours, plain forms",
  "torch_eager": "torch eager",
  "torch_channels_last": "torch channels_last",
  "torch_compile": "torch.compile, channels_last",
}
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 1e-3, 0.9, 5e-4
_FAMILY = FAMILIES["torchvision"]


@dataclasses.dataclass(frozen=True)
class Setting:
  """What is trained.

  Attributes:
    num_classes: of the network.
    backbone: of the network.
    kernel_size: k of the heads.
    batch: uint8 `image` `[B, H, W, 3]` and `label` `[B, H, W]`.
    dtype: float32 or bfloat16; in PyTorch the latter is autocast.
  """

  num_classes: int
  backbone: str
  kernel_size: int
  batch: dict[str, np.ndarray]
  dtype: str

  def network(self, form: ops.Forms) -> GCN:
    """Ours, in a platform's forms or the plain ones."""
    return GCN(self.num_classes, self.backbone, self.kernel_size, dtype=jnp.dtype(self.dtype), forms=form)

  def variables(self) -> dict:
    """The numbers that all start from, a copy of their own."""
    return jax.tree.map(jnp.copy, _first_variables(self.num_classes, self.backbone, self.kernel_size))


def parser(description: str) -> argparse.ArgumentParser:
  """What all comparisons of one network are told."""
  result = argparse.ArgumentParser(description=description)
  result.add_argument("--backbone", default="resnet50", choices=tuple(resnet.BACKBONES))
  result.add_argument("--size", type=int, default=256, help="side of the square images, a multiple of 32")
  result.add_argument("--batch", type=int, default=2, help="images in a batch")
  result.add_argument("--kernel_size", type=int, default=15, help="k of the heads, odd")
  result.add_argument("--num_classes", type=int, default=21)
  result.add_argument("--repeats", type=int, default=7, help="rounds, each of which times every rival once")
  result.add_argument("--json", default="", help="file to write the numbers to")
  return result


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
  """The arguments. Exits with a message where one is out of range."""
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


@functools.cache
def _first_variables(num_classes: int, backbone: str, kernel_size: int) -> dict:
  network = GCN(num_classes, backbone, kernel_size, forms=ops.PLAIN)
  key = jax.random.key(0, impl="rbg")
  return jax.jit(lambda: network.init(key, jnp.zeros((1, 32, 32, 3)), train=False))()


@dataclasses.dataclass(frozen=True)
class Rival:
  """One side of the comparison.

  Attributes:
    run: does one step and returns when it is done: the loss, or the predictions.
    memory: bytes that the step holds at its peak, as far as its framework says.
    traffic: bytes that it reads and writes in all, as XLA says; None of PyTorch's.
  """

  run: Callable
  memory: Callable[[], int | None]
  traffic: int | None = None


def ours_train(setting: Setting, form: ops.Forms) -> Rival:
  """The product's train step, as the product compiles it."""
  network, variables = setting.network(form), setting.variables()
  schedule = optimizer.make_schedule("poly", LEARNING_RATE, total_steps=100_000, warmup_steps=0, poly_power=0.9)
  descent = optimizer.sgd(schedule, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, clip_norm=0.0)
  params = variables["params"]
  opt_state, normalization = descent.init(params), jax.tree.map(jnp.asarray, _FAMILY.arrays())
  state = TrainState(jnp.int32(0), params, variables["batch_stats"], opt_state, normalization, ema={})
  batch = jax.device_put(setting.batch)
  step = jax.jit(steps.make_train_step(network, descent, losses.of_scores), donate_argnums=0)
  step = step.lower(state, batch).compile()

  def run():
    nonlocal state
    state, metrics = jax.block_until_ready(step(state, batch))
    return float(metrics["loss"])

  return Rival(run, lambda: _compiled_bytes(step), _traffic(step))


def train_flops(setting: Setting) -> int:
  """Multiplications and additions of a train step, as the plain network has them."""
  network, variables = setting.network(ops.PLAIN), setting.variables()

  def loss(params):
    images = steps.normalize(setting.batch["image"], _FAMILY.arrays())
    rest = {"batch_stats": variables["batch_stats"]}
    scores, _ = network.apply({"params": params, **rest}, images, train=True, mutable=["batch_stats"], method="scores")
    return losses.of_scores(scores, setting.batch["label"])[0]

  return cost.flops(jax.make_jaxpr(jax.grad(loss))(variables["params"]).jaxpr)


def inference_flops(setting: Setting) -> int:
  """Multiplications and additions of an inference step, as the plain network has them."""
  network, variables = setting.network(ops.PLAIN), setting.variables()
  images = np.float32(setting.batch["image"])
  return cost.flops(jax.make_jaxpr(lambda images: network.apply(variables, images, train=False))(images).jaxpr)


def ours_inference(setting: Setting, form: ops.Forms) -> Rival:
  """Images to predictions, compiled as the evaluation of whole images does."""
  network, variables = setting.network(form), jax.device_put(setting.variables())
  normalization, images = jax.tree.map(jnp.asarray, _FAMILY.arrays()), jax.device_put(setting.batch["image"])

  def predict(variables, images):
    images = steps.normalize(images, normalization)
    return network.apply(variables, images, train=False, method="scores").classes()

  predict = jax.jit(predict).lower(variables, images).compile()
  return Rival(lambda: np.asarray(predict(variables, images)), lambda: _compiled_bytes(predict), _traffic(predict))


def _compiled_bytes(compiled) -> int:
  memory = compiled.memory_analysis()
  own_results = memory.output_size_in_bytes - memory.alias_size_in_bytes
  return memory.argument_size_in_bytes + own_results + memory.temp_size_in_bytes


def _traffic(compiled) -> int:
  return int(compiled.cost_analysis()["bytes accessed"])


class TorchSide:
  """PyTorch's side.

  Attributes:
    device: `cuda` or `cpu`.
  """

  def __init__(self, setting: Setting, name: str, device: str):
    self.device = device
    self._setting = setting
    self._format = torch.contiguous_format if name == "torch_eager" else torch.channels_last
    network = TorchGCN(setting.num_classes, setting.backbone, setting.kernel_size)
    self.network = load_flax(network, setting.variables()).to(device, memory_format=self._format)
    self._compiled = name == "torch_compile"
    images = torch.from_numpy(setting.batch["image"]).permute(0, 3, 1, 2)
    self._images = images.to(device).contiguous(memory_format=self._format)
    self._labels = torch.from_numpy(setting.batch["label"]).to(device)
    self._mean, self._std = (
      torch.tensor(values, device=device).view(3, 1, 1) for values in (_FAMILY.mean, _FAMILY.std)
    )

  def train(self) -> Rival:
    """One update; gives the loss."""
    kernels = [value for value in self.network.parameters() if value.ndim > 1]
    others = [value for value in self.network.parameters() if value.ndim <= 1]
    groups = [{"params": kernels, "weight_decay": WEIGHT_DECAY}, {"params": others}]
    descent = torch.optim.SGD(groups, lr=LEARNING_RATE, momentum=MOMENTUM, fused=True)
    self.network.train()

    def loss_of(images, labels):
      with self._precision():
        logits = self.network(self._normalized(images)).float()
      total = F.cross_entropy(logits, labels.long(), ignore_index=IGNORE, reduction="sum")
      return total / (labels != IGNORE).sum()

    find_loss = torch.compile(loss_of) if self._compiled else loss_of

    def run():
      descent.zero_grad(set_to_none=True)
      loss = find_loss(self._images, self._labels)
      loss.backward()
      descent.step()
      return loss.item()  # Waits for the device.

    return Rival(run, lambda: self._peak(run))

  def inference(self) -> Rival:
    """Images to predictions."""

    self.network.eval()

    def classes_of(images):
      with self._precision():
        return self.network(self._normalized(images)).argmax(1).to(torch.uint8)

    find_classes = torch.compile(classes_of) if self._compiled else classes_of

    def run():
      with torch.inference_mode():
        return find_classes(self._images).cpu().numpy()

    return Rival(run, lambda: self._peak(run))

  def _normalized(self, images: torch.Tensor) -> torch.Tensor:
    return (images.float() - self._mean) / self._std

  def _precision(self) -> torch.autocast:
    return torch.autocast(self.device, torch.bfloat16, enabled=self._setting.dtype == "bfloat16")

  def _peak(self, run: Callable) -> int | None:
    if self.device != "cuda":
      return None  # PyTorch does not count the memory of a CPU.
    others = torch.cuda.memory_allocated() - self._own_bytes()
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() - others

  def _own_bytes(self) -> int:
    """Of weights, their gradients and momentum, statistics and the batch, which stay between steps."""
    weights = sum(value.nbytes for value in self.network.parameters())
    rest = sum(value.nbytes for value in (*self.network.buffers(), self._images, self._labels))
    return weights * (3 if self.network.training else 1) + rest
