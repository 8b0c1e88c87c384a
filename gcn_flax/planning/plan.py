"""Whether a config fits chips that are not there, and what a step would take, by their compiler's own account."""

import contextlib
import json
import logging
import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from gcn_flax import build, files, labels, validation
from gcn_flax import config as config_lib
from gcn_flax.planning import cost, hardware, libtpu, table
from gcn_flax.training import sharding, trees

_log = logging.getLogger(__name__)
_TICK = 30  # Seconds between two lines of a compilation that takes minutes.


def plan(config: ml_collections.ConfigDict, workdir: files.Path, topology: str, batch: str) -> dict[str, Any]:
  """Compiles the train step for `topology`, prints what it takes, and writes `plan.json` in the workdir.

  Needs no data set where the classes are known without, and no such chips.

  Args:
    config: of the run.
    workdir: where `plan.json` goes.
    topology: as `hardware.parse_topology` takes it.
    batch: examples on each device (with `config.mesh.spatial` on each group of devices that share an image); `auto`
      for as many as fit; '' for `config.batch_size`.

  Returns:
    What is written: `fits`, `hbm_bytes`, `hbm_limit_bytes`, `cycles`, `cycles_per_pixel`, `collective_bytes` and more,
    None where it is not known.

  Raises:
    ValueError: for an unknown topology or batch, settings that do not fit, or a libtpu that is missing.
  """
  target = hardware.parse_topology(topology)
  if batch not in ("", "auto") and not (batch.isdigit() and int(batch)):
    raise ValueError(f"--batch={batch!r} must be auto, or a number of examples of at least 1.")
  validation.validate(config, training=False)
  planner = _Tpu(config, target) if target.is_tpu else _Gpu(config, target)
  if batch == "auto":
    tried = _search(planner, config.accumulate_steps)
    found = max((row for row in tried if row["fits"]), key=lambda row: row["batch_per_group"], default=tried[-1])
  else:
    found = planner.cost(int(batch) if batch else max(1, -(-config.batch_size // planner.groups)))
    tried = [found]
  result = {"topology": topology, **found, "tried": tried} if len(tried) > 1 else {"topology": topology, **found}
  workdir.mkdir(parents=True, exist_ok=True)
  files.write(workdir / "plan.json", json.dumps(result, indent=2) + "\n")
  print("\n".join(table.lines(config, result)))
  return result


def _search(planner: "_Tpu | _Gpu", unit: int) -> list[dict[str, Any]]:
  """The costs of multiples of `unit` on the way to the largest that fits: doubled until one does not, then between."""
  tried = []

  def fits(units: int) -> bool:
    tried.append(planner.cost(units * unit))
    _log.info("%d examples: %s", units * unit, "fits" if tried[-1]["fits"] else "does not fit")
    return tried[-1]["fits"]

  low, high = 0, 1
  while fits(high):
    low, high = high, 2 * high
  while high - low > 1:
    middle = (low + high) // 2
    low, high = (middle, high) if fits(middle) else (low, middle)
  return sorted(tried, key=lambda row: row["batch_per_group"])


class _Planner:
  """The train step of a config on devices of one kind.

  Attributes:
    count: of devices.
    groups: of devices that share an image; without `config.mesh.spatial` each device is one.
  """

  platform = ""

  def __init__(self, config: ml_collections.ConfigDict, target: hardware.Target, count: int, devices: list):
    self.config, self.target, self.count = config, target, count
    spatial, height = config.mesh.spatial, config.data.crop_size[0]
    if count % spatial or height % (32 * spatial):
      raise ValueError(
        f"config.mesh.spatial={spatial} must divide the {count} devices of {target.name}, and 32 times it the height "
        f"{height} of config.data.crop_size."
      )
    self.groups = count // spatial
    # ImageNet's classes have no names before it is prepared, but everybody knows how many they are.
    num_classes = labels.IMAGENET_CLASSES if config.data.dataset == "imagenet2012" else None
    self.setup = build.build(config, devices, num_classes, self.platform)
    # What is computed, without the zeros of folded kernels and without computing anything twice.
    plain = ml_collections.ConfigDict(config)
    plain.model.remat = False
    self._plain = build.build(plain, devices, num_classes, "plain")

  def cost(self, batch_per_group: int) -> dict[str, Any]:
    """What a step takes with so many examples on each group of devices, as `plan` returns it."""
    parts = self.config.accumulate_steps
    if batch_per_group % parts:
      raise ValueError(
        f"config.accumulate_steps={parts} must divide the {batch_per_group} examples of a device: for instance "
        f"--batch={-(-batch_per_group // parts) * parts}."
      )
    traced_on = self.setup.mesh.devices.size
    batch = self._batch(batch_per_group * traced_on // self.config.mesh.spatial)
    traced, plain = (setup.train_step.trace(self.setup.state_shapes, batch) for setup in (self.setup, self._plain))
    facts = {
      "devices": self.count,
      "batch_size": batch_per_group * self.groups,
      "batch_per_group": batch_per_group,
      "state_bytes": trees.num_bytes(self.setup.state_shapes),
      "flops": cost.flops(plain.jaxpr.jaxpr) // traced_on,
    }
    return facts | self._cost(traced, facts["batch_size"])

  def _batch(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    size = tuple(self.config.data.crop_size)
    label = ((), jnp.int32) if config_lib.is_classifier(self.config) else (size, jnp.uint8)
    parts = {"image": ((*size, 3), jnp.uint8), "label": label}
    return {
      name: jax.ShapeDtypeStruct(
        (batch_size, *shape), dtype, sharding=sharding.batched(self.setup.mesh, 1 + len(shape))
      )
      for name, (shape, dtype) in parts.items()
    }


class _Tpu(_Planner):
  """By libtpu, which compiles for chips that are not there."""

  def __init__(self, config: ml_collections.ConfigDict, target: hardware.Target):
    self.chip = hardware.TPUS[target.generation]
    devices = libtpu.devices(target, self.chip)
    super().__init__(config, target, len(devices), devices)
    self.on_host = len(devices) // len({device.process_index for device in devices})

  def _cost(self, traced, batch_size: int) -> dict[str, Any]:
    started = time.monotonic()
    with _ticking(f"{batch_size} examples on {self.count} devices of {self.target.name}: compiling"):
      try:
        compiled = libtpu.compile_past_cache(traced.lower())
      except jax.errors.JaxRuntimeError as error:
        needed, limit = libtpu.read_shortage(str(error))
        return _UNKNOWN | {"fits": False, "hbm_bytes": needed, "hbm_limit_bytes": limit}
    memory = compiled.memory_analysis()
    kinds = {
      "state and batch": memory.argument_size_in_bytes,
      "results of their own": memory.output_size_in_bytes - memory.alias_size_in_bytes,
      "temporaries": memory.temp_size_in_bytes,
      "program": memory.generated_code_size_in_bytes,
    }
    account = cost.account(compiled.as_text())
    compute = account.cycles / self.chip.clock
    seconds = compute + self._exchange(account, self.count, self.target.sides)
    # One host of the same chips with the same examples on each: the same cycles, other exchanges.
    alone = compute + (self._exchange(account, self.on_host, (self.on_host,)) if self.on_host > 1 else 0)
    return {
      "fits": True,  # Or it would not have compiled.
      "hbm_bytes": sum(kinds.values()),
      "hbm_limit_bytes": libtpu.memory_limit(self.setup.mesh.devices.flat[0]),
      "hbm_by_kind": kinds,
      "cycles": account.cycles,
      "cycles_by_part": account.by_part,
      "cycles_per_pixel": account.cycles * self.count / (batch_size * math.prod(self.config.data.crop_size)),
      "collective_bytes": sum(exchange.sent(self.count) for exchange in account.collectives),
      "collectives": sum(exchange.times for exchange in account.collectives),
      "seconds": seconds * hardware.CALIBRATION,
      "scaling": alone / seconds,
      "devices_per_host": self.on_host,
      "compile_seconds": time.monotonic() - started,
    }

  def _exchange(self, account: cost.Account, count: int, sides: tuple[int, ...]) -> float:
    """Seconds of all exchanges, none of them hidden behind the computation."""
    hops = sum(side // 2 for side in sides)
    times = sum(exchange.times for exchange in account.collectives)
    network = self.chip.network / self.chip.devices_per_chip
    return sum(exchange.sent(count) for exchange in account.collectives) / network + times * hops * hardware.HOP


class _Gpu(_Planner):
  """By the program as it is before a compiler, of one device: XLA compiles for a GPU only where one is."""

  platform = "gpu"

  def __init__(self, config: ml_collections.ConfigDict, target: hardware.Target):
    if config.mesh.spatial > 1:
      raise ValueError(
        f"config.mesh.spatial={config.mesh.spatial}: what each device then holds is known of a compiled program alone, "
        f"and for {target.name} none can be made here: set it to 1, or plan for a TPU."
      )
    self.gpu = hardware.GPUS[target.generation]
    super().__init__(config, target, target.sides[0], jax.devices("cpu")[:1])

  def _cost(self, traced, batch_size: int) -> dict[str, Any]:
    del batch_size
    needed = cost.peak_bytes(traced.jaxpr.jaxpr)
    exchange = cost.Collective("all-reduce", trees.num_bytes(self.setup.state_shapes.params), 1)
    return _UNKNOWN | {
      "fits": needed <= self.gpu.memory,
      "hbm_bytes": needed,
      "hbm_limit_bytes": self.gpu.memory,
      "collective_bytes": exchange.sent(self.count),
    }


@contextlib.contextmanager
def _ticking(what: str) -> Iterator[None]:
  """Says every half minute that something is still going on."""
  done, started = threading.Event(), time.monotonic()

  def tick():
    while not done.wait(_TICK):
      _log.info("%s, %.0f s so far; a large network takes ten minutes", what, time.monotonic() - started)

  _log.info("%s", what)
  thread = threading.Thread(target=tick, daemon=True)
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()


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
