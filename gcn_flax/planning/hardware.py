"""Chips that a run may be planned for: what their makers publish of them, and what the estimates are calibrated on."""

import dataclasses
import math
import re


@dataclasses.dataclass(frozen=True)
class Tpu:
  """A generation of TPU, as libtpu compiles for it.

  Attributes:
    clock: of a TensorCore, Hz.
    peak: bfloat16 operations a second of one device.
    network: bytes a second that one chip sends to its neighbours in an all-reduce.
    devices_per_chip: as JAX counts them.
    chip_config: libtpu's name of the form that Cloud TPU runs the chip in; "" is libtpu's default.
    compile_bytes: memory of this machine that libtpu is given for each core it compiles on; 0 for any.
  """

  clock: float
  peak: float
  network: float
  devices_per_chip: int = 1
  chip_config: str = ""
  compile_bytes: int = 0


# Peak and network: docs.cloud.google.com/tpu/docs, the page of each generation ("all-reduce bandwidth per Pod" by its
# chips; for v5p and TPU7x half of "bidirectional bandwidth per chip"). Clocks: v3 Jouppi et al., CACM 2020; v4 Jouppi
# et al., ISCA 2023; v5e and v5p follow from the peak: 4 and 8 matrix units of 128 x 128. Those of v6e and TPU7x are not
# published: assumed, v5p's for v6e, and for TPU7x so that libtpu's estimate of a large copy takes 80 % of the memory's
# published rate, as it does for v5e.
TPUS = {
  "v3": Tpu(clock=0.94e9, peak=61.5e12, network=332e9, devices_per_chip=2),
  "v4": Tpu(clock=1.05e9, peak=275e12, network=268e9, chip_config="megacore"),
  "v5e": Tpu(clock=1.50e9, peak=197e12, network=200e9),
  "v5p": Tpu(clock=1.75e9, peak=459e12, network=600e9),
  # For v6e, libtpu 0.0.52 took 8.4 GB on one core with ResNet-152 (docs/PERFORMANCE.md).
  "v6e": Tpu(clock=1.75e9, peak=918e12, network=400e9, compile_bytes=12 << 30),
  "tpu7x": Tpu(clock=2.33e9, peak=1153.5e12, network=600e9, devices_per_chip=2),
}
HOP = 1e-6  # Seconds a message takes to the next chip (Austin et al., How to Scale Your Model, 2025: "about 1 us").


@dataclasses.dataclass(frozen=True)
class Gpu:
  """A GPU by its data sheet.

  Attributes:
    memory: bytes.
    peak: bfloat16 operations a second, dense (V100: float16).
  """

  memory: int
  peak: float


GPUS = {
  "v100": Gpu(16 << 30, 125e12),
  "a100-40gb": Gpu(40 << 30, 312e12),
  "a100-80gb": Gpu(80 << 30, 312e12),
  "h100": Gpu(80 << 30, 989e12),
  "h200": Gpu(141_000_000_000, 989e12),
  "b200": Gpu(180_000_000_000, 2250e12),
}


@dataclasses.dataclass(frozen=True)
class Target:
  """Devices to plan for.

  Attributes:
    name: as given.
    generation: key of `TPUS` or `GPUS`.
    sides: devices along each axis of the network; of GPUs one number.
  """

  name: str
  generation: str
  sides: tuple[int, ...]

  @property
  def is_tpu(self) -> bool:
    return self.generation in TPUS


def parse_topology(name: str) -> Target:
  """`v5e:4x8` or `h100:8`. Raises ValueError for anything else, with the names there are."""
  generation, _, sides = name.partition(":")
  wanted = r"\d+x\d+(x\d+)?" if generation in TPUS else r"\d+"
  if generation not in {**TPUS, **GPUS} or not re.fullmatch(wanted, sides) or "0" in sides.split("x"):
    raise ValueError(
      f"--topology={name!r} must be a TPU slice such as v5e:4x8 or v4:2x2x2 ({', '.join(TPUS)}), or GPUs such "
      f"as h100:8 ({', '.join(GPUS)})."
    )
  return Target(name, generation, tuple(map(int, sides.split("x"))))


@dataclasses.dataclass(frozen=True)
class Published:
  """A rate of ResNet-50's training on ImageNet that somebody measured, and what `plan` estimates of it.

  Attributes:
    topology, batch: of --mode=plan, configs/imagenet.py:resnet50.
    measured: images a second, published.
    estimated: images a second, before calibration; libtpu 0.0.52, 2026-11-26.
    source: of the figure.
  """

  topology: str
  batch: int
  measured: float
  estimated: float
  source: str


PUBLISHED = (
  Published("v3:32x32", 16, 1_050_000, 1_130_271, "Ying et al., arXiv 1811.06992"),
  Published("v3:16x16", 64, 480_000, 395_101, "S. Presser, threadreaderapp.com/thread/1223395022814339073"),
)
# Estimated times are multiplied by this: the published figures are then off by the same ratio, up and down.
CALIBRATION = math.prod(figure.estimated / figure.measured for figure in PUBLISHED) ** (1 / len(PUBLISHED))


def calibration_errors() -> str:
  """How far the calibrated estimates are from the published figures, as a sentence."""
  errors = (
    f"{figure.estimated / CALIBRATION / figure.measured - 1:+.0%} of {figure.measured:,.0f} images/s on "
    f"{figure.topology} ({figure.source})"
    for figure in PUBLISHED
  )
  return f"Times are calibrated on ResNet-50's training, where they are off by {' and '.join(errors)}."
