"""The train and inference steps to compare: ours and PyTorch's, of one network with the same initial weights."""

import dataclasses
import functools
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.rival_titles import TITLES as TITLES
from gcn_flax.labels import IGNORE
from gcn_flax.models import initializers, ops
from gcn_flax.models.gcn import GCN
from gcn_flax.models.pretrained import FAMILIES
from gcn_flax.planning import cost
from gcn_flax.training import losses, optimizer, steps
from gcn_flax.training.state import TrainState
from tests.torch_reference import TorchGCN, load_flax

IMPLEMENTATIONS = {"ours": ops.ops_for, "ours_plain": lambda: ops.REFERENCE, "ours_fused": lambda: ops.GPU_FUSED}
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 1e-3, 0.9, 5e-4
_FAMILY = FAMILIES["torchvision"]


@dataclasses.dataclass(frozen=True)
class Setting:
  """The network and the batch.

  Attributes:
    num_classes: classes to predict.
    backbone: name of the encoder.
    kernel_size: k of the heads.
    batch: uint8 `image` `[B, H, W, 3]` and `label` `[B, H, W]`.
    dtype: dtype of activations, float32 or bfloat16 (mixed precision; autocast in PyTorch).
  """

  num_classes: int
  backbone: str
  kernel_size: int
  batch: dict[str, np.ndarray]
  dtype: str

  def network(self, implementation: ops.Ops) -> GCN:
    """Returns our network in the given implementation of its operations."""
    return GCN(self.num_classes, self.backbone, self.kernel_size, dtype=jnp.dtype(self.dtype), ops=implementation)

  def variables(self) -> dict:
    """Returns a copy of the initial variables, which are the same for all rivals."""
    return jax.tree.map(jnp.copy, _initial_variables(self.num_classes, self.backbone, self.kernel_size))


@functools.cache
def _initial_variables(num_classes: int, backbone: str, kernel_size: int) -> dict:
  network = GCN(num_classes, backbone, kernel_size, ops=ops.REFERENCE)
  return initializers.draw(initializers.trace(network), seed=0)  # By NumPy: nothing to compile.


@dataclasses.dataclass(frozen=True)
class Rival:
  """One side of the comparison.

  Attributes:
    run: runs one step to its end, and returns the loss or the predictions.
    memory: returns the peak memory of the step in bytes, or None if its framework does not report it.
    traffic: bytes read and written per step, estimated by XLA; None for PyTorch.
  """

  run: Callable
  memory: Callable[[], int | None]
  traffic: int | None = None


def ours_train(setting: Setting, implementation: ops.Ops) -> Rival:
  """Returns the train step of gcn_flax, compiled as in training."""
  network, variables = setting.network(implementation), setting.variables()
  schedule = optimizer.make_schedule("poly", LEARNING_RATE, total_steps=100_000, warmup_steps=0, poly_power=0.9)
  tx = optimizer.make_optimizer(schedule, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, clip_norm=0.0)
  params = variables["params"]
  opt_state, normalization = tx.init(params), jax.tree.map(jnp.asarray, _FAMILY.arrays())
  state = TrainState(jnp.int32(0), params, variables["batch_stats"], opt_state, normalization, ema={})
  batch = jax.device_put(setting.batch)
  step = jax.jit(steps.make_train_step(network, tx, losses.segmentation_loss), donate_argnums=0)
  step = step.lower(state, batch).compile()

  def run():
    nonlocal state
    state, metrics = jax.block_until_ready(step(state, batch))
    return float(metrics["loss"])

  return Rival(run, lambda: _compiled_bytes(step), _traffic(step))


def torch_device() -> str:
  """Returns PyTorch's name for JAX's platform. Raises SystemExit if PyTorch cannot use it."""
  backend = jax.default_backend()
  if backend == "gpu" and not torch.cuda.is_available():
    sys.exit("error: JAX uses a GPU, but this PyTorch has no CUDA. Install one that has, or set JAX_PLATFORMS=cpu.")
  if backend not in ("cpu", "gpu"):
    sys.exit(f"error: JAX uses {backend!r}, but PyTorch cannot. Set JAX_PLATFORMS=cpu.")
  return "cuda" if backend == "gpu" else "cpu"


def train_flops(setting: Setting) -> int:
  """Returns the FLOPs of a train step in the reference implementation."""
  network, variables = setting.network(ops.REFERENCE), setting.variables()

  def loss(params):
    images = steps.normalize(setting.batch["image"], _FAMILY.arrays())
    rest = {"batch_stats": variables["batch_stats"]}
    logits, _ = network.apply(
      {"params": params, **rest}, images, train=True, mutable=["batch_stats"], method="raw_logits"
    )
    return losses.segmentation_loss(logits, setting.batch["label"])[0]

  return cost.flops(jax.make_jaxpr(jax.grad(loss))(variables["params"]).jaxpr)


def inference_flops(setting: Setting) -> int:
  """Returns the FLOPs of an inference step in the reference implementation."""
  network, variables = setting.network(ops.REFERENCE), setting.variables()
  images = np.float32(setting.batch["image"])
  return cost.flops(jax.make_jaxpr(lambda images: network.apply(variables, images, train=False))(images).jaxpr)


def ours_inference(setting: Setting, implementation: ops.Ops) -> Rival:
  """Returns the step from images to predictions, compiled as in the evaluation of whole images."""
  network, variables = setting.network(implementation), jax.device_put(setting.variables())
  normalization, images = jax.tree.map(jnp.asarray, _FAMILY.arrays()), jax.device_put(setting.batch["image"])

  def predict(variables, images):
    images = steps.normalize(images, normalization)
    return network.apply(variables, images, train=False, method="raw_logits").argmax()

  predict = jax.jit(predict).lower(variables, images).compile()
  return Rival(lambda: np.asarray(predict(variables, images)), lambda: _compiled_bytes(predict), _traffic(predict))


def _compiled_bytes(compiled) -> int:
  memory = compiled.memory_analysis()
  own_results = memory.output_size_in_bytes - memory.alias_size_in_bytes
  return memory.argument_size_in_bytes + own_results + memory.temp_size_in_bytes


def _traffic(compiled) -> int:
  return int(compiled.cost_analysis()["bytes accessed"])


class TorchSide:
  """A replica of the network in PyTorch.

  Attributes:
    device: `cuda` or `cpu`.
    network: the replica, with our initial weights.
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
    """Returns a train step; `run` returns the loss."""
    kernels = [value for value in self.network.parameters() if value.ndim > 1]
    others = [value for value in self.network.parameters() if value.ndim <= 1]
    groups = [{"params": kernels, "weight_decay": WEIGHT_DECAY}, {"params": others}]
    optimizer = torch.optim.SGD(groups, lr=LEARNING_RATE, momentum=MOMENTUM, fused=True)
    self.network.train()

    def loss_of(images, labels):
      with self._precision():
        logits = self.network(self._normalized(images)).float()
      total = F.cross_entropy(logits, labels.long(), ignore_index=IGNORE, reduction="sum")
      return total / (labels != IGNORE).sum()

    find_loss = torch.compile(loss_of) if self._compiled else loss_of

    def run():
      optimizer.zero_grad(set_to_none=True)
      loss = find_loss(self._images, self._labels)
      loss.backward()
      optimizer.step()
      return loss.item()  # Waits for the device.

    return Rival(run, lambda: self._peak(run))

  def inference(self) -> Rival:
    """Returns the step from images to predictions."""
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
      return None  # PyTorch does not track CPU memory.
    others = torch.cuda.memory_allocated() - self._own_bytes()
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() - others

  def _own_bytes(self) -> int:
    """Returns the bytes that stay allocated between steps: weights, gradients, momentum, statistics and the batch."""
    weights = sum(value.nbytes for value in self.network.parameters())
    rest = sum(value.nbytes for value in (*self.network.buffers(), self._images, self._labels))
    return weights * (3 if self.network.training else 1) + rest
