"""What a plan found, as lines to print."""

import collections
import re
from importlib import metadata
from typing import Any

import ml_collections

from gcn_flax.planning import hardware

_SUBLANES = 8


def lines(config: ml_collections.ConfigDict, result: dict[str, Any]) -> list[str]:
  """What is printed of what `plan.plan` returns, line by line."""
  target = hardware.parse_topology(result["topology"])
  by = f"libtpu {metadata.version('libtpu')}" if target.is_tpu else "the program as it is before a compiler"
  model, size = config.model, " x ".join(map(str, config.data.crop_size))
  found = [
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
    found += ["", *_aligned([head, *tried])]
  return [*found, "", *_notes(config, target, result)]


def _rows(config: ml_collections.ConfigDict, target: hardware.Target, result: dict[str, Any]) -> list[tuple[str, str]]:
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
      *_parts(result),
      ("time of a step, estimated", f"{result['seconds']:.3f} s: {rate:.1f} images/s, {share:.0%} of the peak"),
      ("scaling, estimated", f"{result['scaling']:.1%} of one host's {result['devices_per_host']} devices, each"),
    ]
  if result["collective_bytes"] is not None:
    count = f" in {result['collectives']} exchanges" if result["collectives"] else ""
    rows.append(("sent in a step, each device", f"{result['collective_bytes'] / 1e6:.1f} MB{count}"))
  return rows


def _parts(result: dict[str, Any]) -> list[tuple[str, str]]:
  """Cycles by part of the network, levels and layers of one kind together."""
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
      f"{hardware.calibration_errors()} No other generation was compared with anything measured. Times count no "
      "exchange as hidden behind the computation, and no input."
    )
  else:
    notes.append(
      "Memory is that of the program in its own order without fusion, so more than a compiler needs; of exchanges only "
      "the gradient's is counted. Cycles and times are not known for GPUs."
    )
  at_once = result["batch_per_group"] // config.accumulate_steps
  if target.is_tpu and at_once % _SUBLANES:
    notes.append(
      f"{at_once} examples at once cost a device about as much as {-(-at_once // _SUBLANES) * _SUBLANES}, which fill "
      "its registers: fewer devices with more examples each may be the faster (docs/PERFORMANCE.md)."
    )
  if result["batch_size"] != config.batch_size:
    scored = -(-config.eval.batch_size // result["devices"]) * result["devices"]
    notes.append(
      f"config.batch_size={config.batch_size} was not planned: to train with what was, --config.batch_size="
      f"{result['batch_size']} --config.eval.batch_size={scored}, and a learning rate for it."
    )
  if not result["fits"]:
    notes.append(
      "To make it fit: fewer examples on each device, config.model.remat, a smaller crop, or config.mesh.spatial."
    )
  return notes


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _yes(fits: bool) -> str:
  return "yes" if fits else "no"


def _gib(size: int | None) -> str:
  return _number(size and size / 2**30, ".2f", " GiB")


def _number(value: float | None, form: str, unit: str = "") -> str:
  return "-" if value is None else f"{value:{form}}{unit}"
