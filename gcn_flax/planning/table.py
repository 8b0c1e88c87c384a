"""The printed table of a plan."""

import collections
import re
from importlib import metadata
from typing import Any

import ml_collections

from gcn_flax import out_of_memory
from gcn_flax.planning import hardware
from gcn_flax.rounding import round_up

_SUBLANES = 8  # Rows of a TPU's vector register.
_COMPARED = ("fits", "memory", "cycles per pixel")  # Columns of what `_compared` returns.


def lines(config: ml_collections.ConfigDict, result: dict[str, Any]) -> list[str]:
  """Formats the result of `plan.run` as lines of text."""
  target = hardware.parse_topology(result["topology"])
  model, size = config.model, " x ".join(map(str, config.data.crop_size))
  method = "estimated from the jaxpr"
  if target.is_tpu:
    method = f"compiled ahead of time by libtpu {metadata.version('libtpu')}"
  sharing = f", {result['spatial']} sharing the rows of each image" if result["spatial"] > 1 else ""
  found = [
    f"{model.backbone}, k = {model.kernel_size}, {model.dtype}, {size}, batch {result['batch_size']} on "
    f"{result['devices']} devices of {target.name}{sharing}; {method}, nothing was run.",
    "",
    *_aligned(_rows(target, result)),
  ]
  if "tried" in result:
    group = f"group of {result['spatial']} devices" if result["spatial"] > 1 else "device"
    tried = [(str(row["batch_per_group"]), *_compared(row)) for row in result["tried"]]
    found += ["", *_aligned([(f"examples per {group}", *_COMPARED), *tried])]
  if "layouts" in result:
    tried = [(str(row["spatial"]), str(row["batch_per_group"]), *_compared(row)) for row in result["layouts"]]
    found += ["", *_aligned([("config.mesh.spatial", "examples per group of devices", *_COMPARED), *tried])]
  return [*found, "", *_notes(config, target, result)]


def _compared(row: dict[str, Any]) -> tuple[str, ...]:
  return _yes(row["fits"]), _gib(row["hbm_bytes"]), _number(row["cycles_per_pixel"], ".1f")


def _rows(target: hardware.Target, result: dict[str, Any]) -> list[tuple[str, str]]:
  used = _number(result["hbm_bytes"] / 2**30, ".2f")
  rows = [("fits", f"{_yes(result['fits'])}, {used} of {_gib(result['hbm_limit_bytes'])}")]
  rows += [(f"  {kind}", _gib(size)) for kind, size in (result["hbm_by_kind"] or {}).items()]
  rows += [
    ("train state", _gib(result["state_bytes"])),
    ("FLOPs per step and device", f"{result['flops'] / 1e12:.2f} T"),
  ]
  if not target.is_tpu:
    seconds = result["flops"] / hardware.GPUS[target.generation].peak
    rows.append(("step time at peak FLOP/s", f"{seconds:.3f} s, a lower bound"))
  if result["cycles"] is not None:
    pixels = _number(result["cycles_per_pixel"], ".1f")
    utilization = result["flops"] / result["seconds"] / hardware.TPUS[target.generation].peak
    rate, on_host = result["batch_size"] / result["seconds"], result["devices_per_host"]
    rows += [
      ("cycles per step, compiler's estimate", f"{result['cycles'] / 1e6:.1f} M, {pixels} per pixel"),
      *_parts(result),
      ("step time, estimated", f"{result['seconds']:.3f} s, {rate:.1f} images/s, {utilization:.0%} of peak FLOP/s"),
      ("scaling efficiency, estimated", f"{result['scaling']:.1%} relative to one host ({on_host} devices)"),
    ]
  if result["collective_bytes"] is not None:
    count = f" in {result['collectives']} collectives" if result["collectives"] else ""
    rows.append(("sent per step and device", f"{result['collective_bytes'] / 1e6:.1f} MB{count}"))
  return rows


def _parts(result: dict[str, Any]) -> list[tuple[str, str]]:
  """Returns a row of cycles for each kind of part of the network, summed over levels and layers."""
  merged = collections.Counter()
  for part, cycles in result["cycles_by_part"].items():
    merged[re.sub(r"(_head)?\d$|/.*", "", part)] += cycles
  return [
    (f"  {part}", f"{cycles / 1e6:.1f} M, {cycles / result['cycles']:.0%}") for part, cycles in merged.most_common()
  ]


def _notes(config: ml_collections.ConfigDict, target: hardware.Target, result: dict[str, Any]) -> list[str]:
  notes = []
  if target.is_tpu:
    notes.append(
      f"{hardware.calibration_errors()} No other generation was compared with measurements. Times assume that "
      "collectives do not overlap with computation, and exclude the input pipeline."
    )
  else:
    notes += [
      "Memory follows the jaxpr in its own order without fusion: a compiled step needs less. Of the collectives, only "
      "the all-reduce of the gradients is counted. Cycles and times are not known for GPUs.",
      _gpu_memory(hardware.GPUS[target.generation].memory, result),
    ]
  micro_batch = result["batch_per_group"] // config.accumulate_steps
  if target.is_tpu and micro_batch % _SUBLANES:
    notes.append(
      f"{micro_batch} examples at once cost a device about as much as {round_up(micro_batch, _SUBLANES)}, "
      "which fill its vector registers: fewer devices with more examples each, or devices that share images "
      "(--spatial=all), may be faster (docs/PERFORMANCE.md)."
    )
  if result["batch_size"] != config.batch_size:
    eval_batch = round_up(config.eval.batch_size, result["devices"])
    notes.append(
      f"This is not config.batch_size={config.batch_size}: to train with the planned batch, set "
      f"--config.batch_size={result['batch_size']} --config.eval.batch_size={eval_batch} and adapt "
      "--config.optimizer.learning_rate."
    )
  if not result["fits"]:
    fixes = out_of_memory.training_fixes(config, result["batch_per_group"])
    sharing = ", or devices that share images (config.mesh.spatial)" if target.is_tpu else ""
    notes.append(f"To make it fit: {'; '.join(fixes)}{sharing}.")
  return notes


def _gpu_memory(memory: int, result: dict[str, Any]) -> str:
  """Returns the note on the share of a GPU's memory that a program can use."""
  share, variable = out_of_memory.MAX_SHARE, f"{out_of_memory.SHARE_VARIABLE}={out_of_memory.MAX_SHARE}"
  note = f"JAX uses {out_of_memory.DEFAULT_SHARE:.0%} of the {_gib(memory)} of a GPU; {variable} raises that"
  return f"{note}, and then it fits." if not result["fits"] and result["hbm_bytes"] <= share * memory else f"{note}."


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _yes(fits: bool) -> str:
  return "yes" if fits else "no"


def _gib(size: int | None) -> str:
  return _number(size and size / 2**30, ".2f", " GiB")


def _number(value: float | None, form: str, unit: str = "") -> str:
  return "-" if value is None else f"{value:{form}}{unit}"
