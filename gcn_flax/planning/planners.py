"""Estimates of one train step: for TPUs from libtpu's compiled step, for GPUs from the jaxpr."""

import abc
import contextlib
import logging
import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import ml_collections

from gcn_flax import build, labels, out_of_memory, spatial
from gcn_flax.input_pipeline import datasets
from gcn_flax.planning import cost, hardware, libtpu
from gcn_flax.rounding import round_up
from gcn_flax.training import trees

_log = logging.getLogger(__name__)
_HEARTBEAT = 30  # Seconds between log lines during a compilation of minutes.
_UNKNOWN = dict.fromkeys(
  (
    "hbm_by_kind",
    "cycles",
    "cycles_by_part",
    "cycles_per_pixel",
    "collective_bytes",
    "collectives",
    "seconds",
    "scaling",
  )
)


class Planner(abc.ABC):
  """The train step of a config, traced for some devices.

  Attributes:
    num_devices: devices of the target.
    spatial: number of devices that share the rows of an image.
    num_groups: number of such groups.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    target: hardware.Target,
    num_devices: int,
    devices: list,
    platform: str = "",
  ):
    self.config, self.target, self.num_devices = config, target, num_devices
    _check_groups(config, target, num_devices)
    num_classes = _num_classes(config)
    self._setup = build.build(config, num_classes=num_classes, devices=devices, platform=platform)
    self.spatial = self._setup.mesh.shape["spatial"]
    self.num_groups = num_devices // self.spatial
    # FLOPs are counted without the zeros of space-to-depth kernels, and without what `remat` computes twice.
    plain = ml_collections.ConfigDict(config)
    plain.model.remat = False
    self._reference = build.build(plain, num_classes=num_classes, devices=devices, platform="reference")

  def estimate(self, batch_per_group: int) -> dict[str, Any]:
    """Returns the cost of a step as `plan.run` does.

    Args:
      batch_per_group: examples on each group of devices.

    Raises:
      ValueError: if `config.accumulate_steps` does not divide it.
    """
    num_micro_batches = self.config.accumulate_steps
    if batch_per_group % num_micro_batches:
      raise ValueError(
        f"config.accumulate_steps={num_micro_batches} must divide the {batch_per_group} examples of a device. Use "
        f"--batch={round_up(batch_per_group, num_micro_batches)}."
      )
    num_traced = self._setup.mesh.devices.size
    batch = build.train_batch_shapes(self.config, self._setup.mesh, batch_per_group * num_traced // self.spatial)
    traced, reference = (setup.train_step.trace(setup.state_shapes, batch) for setup in (self._setup, self._reference))
    batch_size = batch_per_group * self.num_groups
    return {
      "devices": self.num_devices,
      "spatial": self.spatial,
      "batch_size": batch_size,
      "batch_per_group": batch_per_group,
      "state_bytes": trees.num_bytes(self._setup.state_shapes),
      "flops": cost.flops(reference.jaxpr.jaxpr) // num_traced,
    } | self._estimate(traced, batch_size)

  @abc.abstractmethod
  def _estimate(self, traced: Any, batch_size: int) -> dict[str, Any]:
    """Returns memory, cycles and collectives of the traced step, `batch_size` being that of all devices."""


class TpuPlanner(Planner):
  """Estimates from the step as libtpu compiles it for all devices of a slice.

  Attributes:
    layouts: values of `config.mesh.spatial` that could be planned.
  """

  def __init__(self, config: ml_collections.ConfigDict, target: hardware.Target):
    self._chip = hardware.TPUS[target.generation]
    devices = libtpu.devices(target, self._chip)
    super().__init__(config, target, len(devices), devices)
    self._devices_per_host = len(devices) // len({device.process_index for device in devices})
    self.layouts = spatial.layouts(config, devices)
    spatial.log_choice(config, devices)

  def _estimate(self, traced: Any, batch_size: int) -> dict[str, Any]:
    started = time.monotonic()
    with _heartbeat(f"compiling for {self.num_devices} devices of {self.target.name}, batch {batch_size}"):
      try:
        compiled = libtpu.compile_uncached(traced.lower())
      except jax.errors.JaxRuntimeError as error:
        needed, limit = libtpu.parse_out_of_memory(str(error))
        return _UNKNOWN | {"fits": False, "hbm_bytes": needed, "hbm_limit_bytes": limit}
    by_kind = _memory_by_kind(compiled.memory_analysis())
    compiled_cost = cost.compiled_cost(compiled.as_text())
    pixels = batch_size * math.prod(self.config.data.crop_size)
    return {
      "fits": True,  # It would not have compiled otherwise.
      "hbm_bytes": sum(by_kind.values()),
      "hbm_limit_bytes": libtpu.memory_limit(self._setup.mesh.devices.flat[0]),
      "hbm_by_kind": by_kind,
      "cycles": compiled_cost.cycles,
      "cycles_by_part": compiled_cost.cycles_by_part,
      "cycles_per_pixel": compiled_cost.cycles * self.num_devices / pixels,
      "collective_bytes": sum(each.bytes_sent(self.num_devices) for each in compiled_cost.collectives),
      "collectives": sum(each.count for each in compiled_cost.collectives),
      **self._times(compiled_cost),
      "devices_per_host": self._devices_per_host,
      "compile_seconds": time.monotonic() - started,
    }

  def _times(self, compiled_cost: cost.CompiledCost) -> dict[str, float]:
    """Returns the calibrated seconds of a step, and its throughput per device relative to that of a single host."""
    compute = compiled_cost.cycles / self._chip.clock
    seconds = compute + self._communication(compiled_cost, self.num_devices, self.target.sides)
    # One host with as many examples on each device: the same cycles, cheaper collectives.
    on_host = self._devices_per_host
    alone = compute + (self._communication(compiled_cost, on_host, (on_host,)) if on_host > 1 else 0)
    return {"seconds": seconds * hardware.CALIBRATION, "scaling": alone / seconds}

  def _communication(self, compiled_cost: cost.CompiledCost, num_devices: int, sides: tuple[int, ...]) -> float:
    """Returns the seconds of all collectives; none is assumed to overlap with computation."""
    hops = sum(side // 2 for side in sides)
    count = sum(each.count for each in compiled_cost.collectives)
    sent = sum(each.bytes_sent(num_devices) for each in compiled_cost.collectives)
    return sent / (self._chip.network / self._chip.devices_per_chip) + count * hops * hardware.HOP


class GpuPlanner(Planner):
  """Estimates from the jaxpr of one device, because XLA compiles for a GPU only where there is one."""

  def __init__(self, config: ml_collections.ConfigDict, target: hardware.Target):
    if config.mesh.spatial > 1:
      raise ValueError(
        f"config.mesh.spatial={config.mesh.spatial} cannot be planned for {target.name}: how XLA divides an image is "
        "known only after compilation, which needs such a GPU. Set it to 1, or plan for a TPU."
      )
    self._gpu = hardware.GPUS[target.generation]
    super().__init__(config, target, target.sides[0], jax.devices("cpu")[:1], "gpu")

  def _estimate(self, traced: Any, batch_size: int) -> dict[str, Any]:
    del batch_size
    needed, limit = cost.peak_bytes(traced.jaxpr.jaxpr), round(out_of_memory.DEFAULT_SHARE * self._gpu.memory)
    gradients = cost.Collective("all-reduce", trees.num_bytes(self._setup.state_shapes.params), 1)
    return _UNKNOWN | {
      "fits": needed <= limit,
      "hbm_bytes": needed,
      "hbm_limit_bytes": limit,
      "collective_bytes": gradients.bytes_sent(self.num_devices),
    }


def _check_groups(config: ml_collections.ConfigDict, target: hardware.Target, num_devices: int) -> None:
  """Raises ValueError if `config.mesh.spatial` does not divide the devices."""
  group = config.mesh.spatial or 1
  if num_devices % group:
    divisors = ", ".join(str(count) for count in range(1, num_devices + 1) if num_devices % count == 0)
    raise ValueError(
      f"config.mesh.spatial={group} must divide the {num_devices} devices of {target.name}. Use one of {divisors}."
    )


def _num_classes(config: ml_collections.ConfigDict) -> int:
  """Returns the number of classes, from prepared data only for data sets of the user's own."""
  dataset = config.data.dataset
  if dataset in labels.LABELS:
    return labels.LABELS[dataset].num_classes
  if dataset == "imagenet2012":
    return labels.IMAGENET_CLASSES
  return datasets.open_label_set(dataset, config.data.data_dir).num_classes


def _memory_by_kind(memory: Any) -> dict[str, int]:
  return {
    "state and batch": memory.argument_size_in_bytes,
    "outputs": memory.output_size_in_bytes - memory.alias_size_in_bytes,
    "temporaries": memory.temp_size_in_bytes,
    "program": memory.generated_code_size_in_bytes,
  }


@contextlib.contextmanager
def _heartbeat(task: str) -> Iterator[None]:
  """Logs every half minute that a task is still running."""
  done, started = threading.Event(), time.monotonic()

  def log():
    while not done.wait(_HEARTBEAT):
      _log.info("%s, %.0f s so far; a large network takes about ten minutes", task, time.monotonic() - started)

  _log.info("%s", task)
  thread = threading.Thread(target=log, daemon=True)
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()
