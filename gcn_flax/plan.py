"""Whether a config fits chips that are not there, and what a step would take, by their compiler's own account."""

import contextlib
import dataclasses
import importlib.util
import json
import logging
import math
import os
import pathlib
import re
import threading
import time
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax.experimental import topologies

from gcn_flax import build, files, hardware, labels, program
from gcn_flax import config as config_lib
from gcn_flax.training import partition

_log = logging.getLogger(__name__)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_NO_MEMORY = re.compile(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)")
_TICK = 30  # Seconds between two lines of a compilation that takes minutes.


@dataclasses.dataclass(frozen=True)
class Target:
  """Devices to plan for.

  Attributes:
    name: as given.
    generation: key of `hardware.TPUS` or `hardware.GPUS`.
    sides: devices along each axis of the network; of GPUs one number.
  """

  name: str
  generation: str
  sides: tuple[int, ...]

  @property
  def is_tpu(self) -> bool:
    return self.generation in hardware.TPUS


def parse_topology(name: str) -> Target:
  """`v5e:4x8` or `h100:8`. Raises ValueError for anything else, with the names there are."""
  generation, _, sides = name.partition(":")
  wanted = r"\d+x\d+(x\d+)?" if generation in hardware.TPUS else r"\d+"
  if generation not in {**hardware.TPUS, **hardware.GPUS} or not re.fullmatch(wanted, sides) or "0" in sides.split("x"):
    raise ValueError(
      f"--topology={name!r} must be a TPU slice such as v5e:4x8 or v4:2x2x2 ({', '.join(hardware.TPUS)}), or GPUs such "
      f"as h100:8 ({', '.join(hardware.GPUS)})."
    )
  return Target(name, generation, tuple(map(int, sides.split("x"))))


def plan(config: ml_collections.ConfigDict, workdir: files.Path, topology: str, batch: str) -> dict[str, Any]:
  """Compiles the train step for `topology`, prints what it takes, and writes `plan.json` in the workdir.

  Needs no data set where the classes are known without, and no such chips.

  Args:
    config: of the run.
    workdir: where `plan.json` goes.
    topology: as `parse_topology` takes it.
    batch: examples on each device (with `config.mesh.spatial` on each group of devices that share an image); `auto`
      for as many as fit; '' for `config.batch_size`.

  Returns:
    What is written: `fits`, `hbm_bytes`, `hbm_limit_bytes`, `cycles`, `cycles_per_pixel`, `collective_bytes` and more,
    None where it is not known.

  Raises:
    ValueError: for an unknown topology or batch, settings that do not fit, or a libtpu that is missing.
  """
  target = parse_topology(topology)
  if batch not in ("", "auto") and not (batch.isdigit() and int(batch)):
    raise ValueError(f"--batch={batch!r} must be auto, or a number of examples of at least 1.")
  config_lib.validate(config, training=False)
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
  print("\n".join(table(config, result)))
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

  def __init__(self, config: ml_collections.ConfigDict, target: Target, count: int, devices: list):
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
    self.setup = build.build(config, devices, num_classes)

  def cost(self, batch_per_group: int) -> dict[str, Any]:
    """What a step takes with so many examples on each group of devices, as `plan` returns it."""
    parts = self.config.accumulate_steps
    if batch_per_group % parts:
      raise ValueError(
        f"config.accumulate_steps={parts} must divide the {batch_per_group} examples of a device: for instance "
        f"--batch={-(-batch_per_group // parts) * parts}."
      )
    traced_on = self.setup.mesh.devices.size
    traced = self.setup.train_step.trace(
      self.setup.state_shapes, self._batch(batch_per_group * traced_on // self.config.mesh.spatial)
    )
    facts = {
      "devices": self.count,
      "batch_size": batch_per_group * self.groups,
      "batch_per_group": batch_per_group,
      "state_bytes": sum(map(_num_bytes, jax.tree.leaves(self.setup.state_shapes))),
      "flops": program.flops(traced.jaxpr.jaxpr) // traced_on,
    }
    return facts | self._cost(traced, facts["batch_size"])

  def _batch(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    size = tuple(self.config.data.crop_size)
    label = ((), jnp.int32) if config_lib.is_classifier(self.config) else (size, jnp.uint8)
    parts = {"image": ((*size, 3), jnp.uint8), "label": label}
    return {
      name: jax.ShapeDtypeStruct(
        (batch_size, *shape), dtype, sharding=partition.batched(self.setup.mesh, 1 + len(shape))
      )
      for name, (shape, dtype) in parts.items()
    }


class _Tpu(_Planner):
  """By libtpu, which compiles for chips that are not there."""

  def __init__(self, config: ml_collections.ConfigDict, target: Target):
    self.chip = hardware.TPUS[target.generation]
    devices = _tpu_devices(target, self.chip)
    super().__init__(config, target, len(devices), devices)
    self.on_host = len(devices) // len({device.process_index for device in devices})

  def _cost(self, traced, batch_size: int) -> dict[str, Any]:
    started = time.monotonic()
    with _ticking(f"{batch_size} examples on {self.count} devices of {self.target.name}: compiling"):
      try:
        compiled = _compile(traced.lower())
      except jax.errors.JaxRuntimeError as error:
        needed, limit = _read_shortage(str(error))
        return _UNKNOWN | {"fits": False, "hbm_bytes": needed, "hbm_limit_bytes": limit}
    memory = compiled.memory_analysis()
    kinds = {
      "state and batch": memory.argument_size_in_bytes,
      "results of their own": memory.output_size_in_bytes - memory.alias_size_in_bytes,
      "temporaries": memory.temp_size_in_bytes,
      "program": memory.generated_code_size_in_bytes,
    }
    account = program.account(compiled.as_text())
    compute = account.cycles / self.chip.clock
    seconds = compute + self._exchange(account, self.count, self.target.sides)
    # One host of the same chips with the same examples on each: the same cycles, other exchanges.
    alone = compute + (self._exchange(account, self.on_host, (self.on_host,)) if self.on_host > 1 else 0)
    return {
      "fits": True,  # Or it would not have compiled.
      "hbm_bytes": sum(kinds.values()),
      "hbm_limit_bytes": _memory_limit(self.setup.mesh.devices.flat[0]),
      "hbm_by_kind": kinds,
      "cycles": account.cycles,
      "cycles_per_pixel": account.cycles * self.count / (batch_size * math.prod(self.config.data.crop_size)),
      "collective_bytes": sum(exchange.sent(self.count) for exchange in account.collectives),
      "collectives": sum(exchange.times for exchange in account.collectives),
      "seconds": seconds * hardware.CALIBRATION,
      "scaling": alone / seconds,
      "devices_per_host": self.on_host,
      "compile_seconds": time.monotonic() - started,
    }

  def _exchange(self, account: program.Account, count: int, sides: tuple[int, ...]) -> float:
    """Seconds of all exchanges, none of them hidden behind the computation."""
    hops = sum(side // 2 for side in sides)
    times = sum(exchange.times for exchange in account.collectives)
    network = self.chip.network / self.chip.devices_per_chip
    return sum(exchange.sent(count) for exchange in account.collectives) / network + times * hops * hardware.HOP


class _Gpu(_Planner):
  """By the program as it is before a compiler, of one device: XLA compiles for a GPU only where one is."""

  def __init__(self, config: ml_collections.ConfigDict, target: Target):
    if config.mesh.spatial > 1:
      raise ValueError(
        f"config.mesh.spatial={config.mesh.spatial}: what each device then holds is known of a compiled program alone, "
        f"and for {target.name} none can be made here: set it to 1, or plan for a TPU."
      )
    self.gpu = hardware.GPUS[target.generation]
    super().__init__(config, target, target.sides[0], jax.devices("cpu")[:1])

  def _cost(self, traced, batch_size: int) -> dict[str, Any]:
    del batch_size
    needed = program.peak_bytes(traced.jaxpr.jaxpr)
    gradient = sum(map(_num_bytes, jax.tree.leaves(self.setup.state_shapes.params)))
    exchange = program.Collective("all-reduce", gradient, 1)
    return _UNKNOWN | {
      "fits": needed <= self.gpu.memory,
      "hbm_bytes": needed,
      "hbm_limit_bytes": self.gpu.memory,
      "collective_bytes": exchange.sent(self.count),
    }


def _num_bytes(leaf: jax.ShapeDtypeStruct) -> int:
  return math.prod(leaf.shape) * leaf.dtype.itemsize


def _tpu_devices(target: Target, chip: hardware.Tpu) -> list:
  """The devices of a slice that need not be there. Raises ValueError where libtpu is missing or has no such slice."""
  # libtpu is to look neither for a TPU on this machine, nor for the service that tells a TPU VM what it is; and it may
  # be in use by a run.
  for name, value in {
    "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-8", "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  }.items():  # fmt: skip
    os.environ.setdefault(name, value)
  if importlib.util.find_spec("libtpu") is None:
    raise ValueError("--mode=plan compiles by libtpu, which is not installed: pip install libtpu -c constraints.txt.")
  options = {"chip_config_name": chip.chip_config} if chip.chip_config else {}
  cores = os.sched_getaffinity(0)
  usable = max(1, _free_memory() // chip.compile_bytes)
  if usable < len(cores):
    _log.info(
      "compiling on %d of %d cores: on each, libtpu may take %d GB for %s",
      usable, len(cores), chip.compile_bytes >> 30, target.generation,
    )  # fmt: skip
  os.sched_setaffinity(0, sorted(cores)[:usable])  # libtpu makes as many threads as it sees cores when it is loaded.
  try:
    return topologies.get_topology_desc(platform="tpu", topology_name=target.name, **options).devices
  except (jax.errors.JaxRuntimeError, NotImplementedError, ValueError) as error:
    raise ValueError(f"--topology={target.name!r}: libtpu has no such slice ({str(error).splitlines()[0]}).") from error
  finally:
    os.sched_setaffinity(0, cores)


def _free_memory() -> int:
  """Bytes that programs can have on this machine; of Linux, as libtpu is."""
  return 1024 * int(re.search(r"MemAvailable:\s+(\d+) kB", pathlib.Path("/proc/meminfo").read_text())[1])


def _compile(lowered: Any) -> Any:
  """Compiles past the cache: what is for chips that are not here cannot be read back from it."""
  before = jax.config.jax_enable_compilation_cache
  jax.config.update("jax_enable_compilation_cache", False)
  try:
    return lowered.compile()
  finally:
    jax.config.update("jax_enable_compilation_cache", before)


def _memory_limit(device: Any) -> int | None:
  """Bytes of a device's memory that programs may fill: libtpu names them only where a program needs more."""
  huge = jax.ShapeDtypeStruct((1 << 20, 1 << 20), jnp.float32, sharding=jax.sharding.SingleDeviceSharding(device))
  try:
    _compile(jax.jit(jnp.negative).lower(huge))
  except jax.errors.JaxRuntimeError as error:
    return _read_shortage(str(error))[1]
  return None


def _read_shortage(message: str) -> tuple[int, int]:
  """(bytes needed, bytes there are) of libtpu's message that a program does not fit. Raises RuntimeError for others."""
  found = _NO_MEMORY.search(message)
  if not found:
    raise RuntimeError(message)
  needed, unit, limit, limit_unit = found.groups()
  return round(float(needed) * _UNITS[unit]), round(float(limit) * _UNITS[limit_unit])


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
  ("hbm_by_kind", "cycles", "cycles_per_pixel", "collective_bytes", "collectives", "seconds", "scaling")
)


def table(config: ml_collections.ConfigDict, result: dict[str, Any]) -> list[str]:
  """The lines that are printed of what `plan` returns."""
  target = parse_topology(result["topology"])
  by = f"libtpu {metadata.version('libtpu')}" if target.is_tpu else "the program as it is before a compiler"
  model, size = config.model, " x ".join(map(str, config.data.crop_size))
  lines = [
    f"{model.backbone}, k = {model.kernel_size}, {model.dtype}, {size}, batch {result['batch_size']} on "
    f"{result['devices']} devices of {target.name}. Nothing was run: by {by}.",
    "",
    *_aligned(_rows(config, target, result)),
  ]
  if "tried" in result:
    head = ("examples on each", "fits", "memory", "cycles per pixel")
    tried = [
      (str(row["batch_per_group"]), _yes(row["fits"]), _gib(row["hbm_bytes"]), _number(row["cycles_per_pixel"], ".1f"))
      for row in result["tried"]
    ]
    lines += ["", *_aligned([head, *tried])]
  return [*lines, "", *_notes(config, target, result)]


def _rows(config: ml_collections.ConfigDict, target: Target, result: dict[str, Any]) -> list[tuple[str, str]]:
  rows = [("fits", f"{_yes(result['fits'])}: {_gib(result['hbm_bytes'])} of {_gib(result['hbm_limit_bytes'])}")]
  rows += [(f"  {kind}", _gib(size)) for kind, size in (result["hbm_by_kind"] or {}).items()]
  rows += [
    ("train state alone", _gib(result["state_bytes"])),
    ("operations of a step, each device", f"{result['flops'] / 1e12:.2f} T"),
  ]
  if not target.is_tpu:
    floor = result["flops"] / hardware.GPUS[target.generation].peak
    rows.append(("time of a step at the chip's peak", f"{floor:.3f} s, which no program reaches"))
  if result["cycles"] is not None:
    pixels = _number(result["cycles_per_pixel"], ".1f")
    share = result["flops"] / result["seconds"] / hardware.TPUS[target.generation].peak
    rate = result["batch_size"] / result["seconds"]
    rows += [
      ("cycles of a step, compiler-estimated", f"{result['cycles'] / 1e6:.1f} M, {pixels} per pixel"),
      ("time of a step, estimated", f"{result['seconds']:.3f} s: {rate:.1f} images/s, {share:.0%} of the peak"),
      ("scaling, estimated", f"{result['scaling']:.1%} of one host's {result['devices_per_host']} devices, each"),
    ]
  if result["collective_bytes"] is not None:
    count = f" in {result['collectives']} exchanges" if result["collectives"] else ""
    rows.append(("sent in a step, each device", f"{result['collective_bytes'] / 1e6:.1f} MB{count}"))
  return rows


def _notes(config: ml_collections.ConfigDict, target: Target, result: dict[str, Any]) -> list[str]:
  lines = []
  if target.is_tpu:
    lines.append(
      f"{hardware.calibration_errors()} No other generation was compared with anything measured. Times count no "
      "exchange as hidden behind the computation, and no input."
    )
  else:
    lines.append(
      "Memory is that of the program in its own order without fusion, so more than a compiler needs; of exchanges only "
      "the gradient's is counted. Cycles and times are not known for GPUs."
    )
  if result["batch_size"] != config.batch_size:
    scored = -(-config.eval.batch_size // result["devices"]) * result["devices"]
    lines.append(
      f"config.batch_size={config.batch_size} was not planned: to train with what was, --config.batch_size="
      f"{result['batch_size']} --config.eval.batch_size={scored}, and a learning rate for it."
    )
  if not result["fits"]:
    lines.append("To make it fit: fewer examples on each device, a smaller crop, or config.mesh.spatial.")
  return lines


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _yes(fits: bool) -> str:
  return "yes" if fits else "no"


def _gib(size: int | None) -> str:
  return _number(size and size / 2**30, ".2f", " GiB")


def _number(value: float | None, form: str, unit: str = "") -> str:
  return "-" if value is None else f"{value:{form}}{unit}"
