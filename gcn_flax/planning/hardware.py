"""Published figures of the chips that can be planned for, and the calibration of estimated times."""

import dataclasses
import math
import re

from gcn_flax.messages import closest, flag


@dataclasses.dataclass(frozen=True)
class Tpu:
  """A generation of TPUs that libtpu compiles for.

  Attributes:
    clock: clock of a TensorCore, Hz.
    peak: bfloat16 FLOP/s of one device.
    network: bytes per second that one chip sends to its neighbours in an all-reduce.
    devices_per_chip: number of JAX devices per chip.
    chip_config: libtpu's name of the chip configuration that Cloud TPU uses; "" for libtpu's default.
    compile_bytes: host memory that libtpu may take on each core it compiles on; 0 for no limit.
  """

  clock: float
  peak: float
  network: float
  devices_per_chip: int = 1
  chip_config: str = ""
  compile_bytes: int = 0


# Peak and network: docs.cloud.google.com/tpu/docs, the page of each generation ("all-reduce bandwidth per Pod" divided
# by its chips; for v5p and TPU7x half of "bidirectional bandwidth per chip"). Clocks: v3 Jouppi et al., CACM 2020; v4
# Jouppi et al., ISCA 2023; v5e and v5p follow from the peak and their 4 and 8 matrix units of 128 x 128. The clocks of
# v6e and TPU7x are not published. Assumed: for v6e that of v5p; for TPU7x the one at which libtpu's estimate of a large
# copy reaches 80 % of the published memory bandwidth, as it does for v5e.
TPUS = {
  "v3": Tpu(clock=0.94e9, peak=61.5e12, network=332e9, devices_per_chip=2),
  "v4": Tpu(clock=1.05e9, peak=275e12, network=268e9, chip_config="megacore"),
  "v5e": Tpu(clock=1.50e9, peak=197e12, network=200e9),
  "v5p": Tpu(clock=1.75e9, peak=459e12, network=600e9),
  # libtpu 0.0.52 took 8.4 GB to compile ResNet-152 for v6e on one core (docs/PERFORMANCE.md).
  "v6e": Tpu(clock=1.75e9, peak=918e12, network=400e9, compile_bytes=12 << 30),
  "tpu7x": Tpu(clock=2.33e9, peak=1153.5e12, network=600e9, devices_per_chip=2),
}
HOP = 1e-6  # Latency to the next chip, seconds (Austin et al., How to Scale Your Model, 2025: "about 1 us").


@dataclasses.dataclass(frozen=True)
class Gpu:
  """A GPU.

  Attributes:
    memory: bytes.
    peak: bfloat16 FLOP/s with float32 sums, dense (V100, T4: float16).
  """

  memory: int
  peak: float


# Peaks: NVIDIA's data sheets; for the RTX cards its papers on the Ampere, Ada and Blackwell architectures. Memory: data
# sheets; ECC, with which T4, L4, A10 and L40S are shipped, takes a sixteenth of it.
_ECC = 15 / 16
GPUS = {
  "rtx3090": Gpu(24 << 30, 71e12),
  "rtx4090": Gpu(24 << 30, 165.2e12),
  "rtx5090": Gpu(32 << 30, 209.5e12),
  "rtx6000-ada": Gpu(48 << 30, 364.2e12),
  "t4": Gpu(round(_ECC * (16 << 30)), 65e12),
  "l4": Gpu(round(_ECC * (24 << 30)), 121e12),
  "a10": Gpu(round(_ECC * (24 << 30)), 125e12),
  "l40s": Gpu(round(_ECC * (48 << 30)), 362e12),
  "v100": Gpu(16 << 30, 125e12),
  "a100": Gpu(40 << 30, 312e12),  # The smaller one: what fits it fits both.
  "a100-40gb": Gpu(40 << 30, 312e12),
  "a100-80gb": Gpu(80 << 30, 312e12),
  "h100": Gpu(80 << 30, 989e12),
  "h200": Gpu(141_000_000_000, 989e12),
  "b200": Gpu(180_000_000_000, 2250e12),
}


@dataclasses.dataclass(frozen=True)
class Target:
  """The devices to plan for.

  Attributes:
    name: topology as given on the command line, such as `v5e:4x8`.
    generation: key of `TPUS` or `GPUS`.
    sides: chips along each axis of a TPU slice; for GPUs their number.
  """

  name: str
  generation: str
  sides: tuple[int, ...]

  @property
  def is_tpu(self) -> bool:
    """Returns True for a TPU slice, False for GPUs."""
    return self.generation in TPUS


def parse_topology(name: str) -> Target:
  """Parses `v5e:4x8` (a TPU slice) or `h100:8` (GPUs).

  Raises:
    ValueError: for anything else, listing the known chips.
  """
  generation, _, sides = name.partition(":")
  if not _is_topology(generation, sides):
    similar = closest(generation.lower(), (*TPUS, *GPUS))
    hint = f" Did you mean {flag('topology', f'{similar}:{sides}')}?" if _is_topology(similar, sides) else ""
    raise ValueError(
      f"{flag('topology', name)}: must be a TPU slice such as v5e:4x8 or v4:2x2x2 ({', '.join(TPUS)}), or GPUs such "
      f"as h100:8 ({', '.join(GPUS)}).{hint}"
    )
  return Target(name, generation, tuple(map(int, sides.split("x"))))


def _is_topology(generation: str, sides: str) -> bool:
  number = "[1-9][0-9]{0,8}"
  pattern = f"{number}(x{number}){{1,2}}" if generation in TPUS else number
  return generation in {**TPUS, **GPUS} and bool(re.fullmatch(pattern, sides))


@dataclasses.dataclass(frozen=True)
class Benchmark:
  """A published training throughput of ResNet-50 on ImageNet, and the estimate of `plan` for it.

  Attributes:
    topology, batch: flags of `--mode=plan --config=configs/imagenet.py:resnet50`.
    measured: published images per second.
    estimated: images per second before calibration, by libtpu 0.0.52 on 2026-11-26.
    source: source of the published figure.
  """

  topology: str
  batch: int
  measured: float
  estimated: float
  source: str


BENCHMARKS = (
  Benchmark("v3:32x32", 16, 1_050_000, 1_130_271, "Ying et al., arXiv 1811.06992"),
  Benchmark("v3:16x16", 64, 480_000, 395_101, "S. Presser, threadreaderapp.com/thread/1223395022814339073"),
)
# Factor on estimated times, the geometric mean of estimated / measured: it leaves equal errors up and down.
CALIBRATION = math.prod(each.estimated / each.measured for each in BENCHMARKS) ** (1 / len(BENCHMARKS))


def calibration_errors() -> str:
  """Returns a sentence with the error of the calibrated estimate for each published figure."""
  errors = (
    f"{each.estimated / CALIBRATION / each.measured - 1:+.0%} from {each.measured:,.0f} images/s on {each.topology} "
    f"({each.source})"
    for each in BENCHMARKS
  )
  return f"Times are calibrated on published ResNet-50 training, from which they differ by {' and '.join(errors)}."
