"""Chips to plan for, and the compiler for those that are TPUs."""

import os
import pathlib
import re

import pytest

from gcn_flax.planning import hardware, libtpu

GIB = 1 << 30


@pytest.mark.parametrize(
  "name",
  [
    "v5e",
    "v5e:0x4",
    "v5e:2",
    "v9:2x2",
    "h100",
    "h100:0",
    "h100:2x2",
    "",
    ":8",
    "h100:²",
    "v5e:٣x٣",
    "h100:" + "9" * 30,
  ],
)
def test_unknown_topologies_are_rejected_with_the_known_ones(name):
  with pytest.raises(ValueError, match=r"must be a TPU slice such as v5e:4x8 .*tpu7x.* or GPUs such as h100:8"):
    hardware.parse_topology(name)


def test_a_misspelled_chip_is_answered_with_the_flag_to_type():
  with pytest.raises(ValueError, match=r"^--topology=v5:4x8: must be .* Did you mean --topology=v5\w:4x8\?$"):
    hardware.parse_topology("v5:4x8")


@pytest.mark.parametrize(
  "name, known", [("4090", "rtx4090"), ("L4", "l4"), ("RTX6000Ada", "rtx6000-ada"), ("A100", "a100")]
)
def test_other_spellings_of_gpus_are_answered_with_the_flag_to_type(name, known):
  with pytest.raises(ValueError, match=rf"Did you mean --topology={known}:1\?$"):
    hardware.parse_topology(f"{name}:1")


def test_the_documentation_lists_every_gpu():
  text = pathlib.Path("docs/CLUSTERS.md").read_text()
  rows = re.findall(r"^\| (`[a-z0-9-]+`(?:, `[a-z0-9-]+`)*) \| [^|]+ \| ([\d.]+) \| ([\d.,]+) \|", text, re.MULTILINE)
  listed = {name: row[1:] for row in rows for name in re.findall(r"`([a-z0-9-]+)`", row[0])}
  assert listed == {
    name: (f"{gpu.memory / GIB:.1f}".removesuffix(".0"), f"{gpu.peak / 1e12:,.1f}".removesuffix(".0"))
    for name, gpu in hardware.GPUS.items()
  }


def test_topologies():
  slice_, gpus = hardware.parse_topology("v4:2x2x4"), hardware.parse_topology("h100:8")
  assert slice_.sides == (2, 2, 4) and slice_.is_tpu
  assert gpus.sides == (8,) and not gpus.is_tpu


def test_calibration_leaves_equal_errors_up_and_down():
  ratios = [each.estimated / hardware.CALIBRATION / each.measured for each in hardware.BENCHMARKS]
  assert ratios[0] * ratios[1] == pytest.approx(1) and 1.1 < ratios[0] < 1.2
  assert "+14% from 1,050,000 images/s" in hardware.calibration_errors()


def test_out_of_memory_error_names_both_sizes():
  message = "RESOURCE_EXHAUSTED: E1000: ... required for HLO temporaries (19.42G) exceeds available HBM (15.75G)."
  assert libtpu.parse_out_of_memory(message) == (round(19.42 * GIB), round(15.75 * GIB))
  with pytest.raises(RuntimeError, match="something else"):
    libtpu.parse_out_of_memory("something else")


@pytest.mark.parametrize(
  "available, cores",
  [(100 * GIB, [0, 1, 2, 5]), (25 * GIB, [0, 1]), (GIB, [0])],
  ids=["enough", "for two", "too little"],
)
def test_compilation_uses_as_many_cores_as_there_is_memory_for(available, cores):
  assert libtpu.compile_cores({0, 1, 2, 5}, 12 * GIB, available) == cores
  assert libtpu.compile_cores({0, 1, 2, 5}, 0, available) == [0, 1, 2, 5]


def test_devices_of_a_slice_leave_the_process_its_cores():
  before = os.sched_getaffinity(0)
  assert len(libtpu.devices(hardware.parse_topology("v6e:2x4"), hardware.TPUS["v6e"])) == 8
  assert os.sched_getaffinity(0) == before
  assert libtpu._available_memory() > 1 << 20
