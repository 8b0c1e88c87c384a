"""Plans a run: does the train step fit the given chips, and what would a step cost on them."""

import logging
import re
from typing import Any

import ml_collections

from gcn_flax import config_checks, files
from gcn_flax.messages import flag
from gcn_flax.planning import hardware, planners, table
from gcn_flax.rounding import ceil_div
from gcn_flax.run_data import RunData
from gcn_flax.workdir.crop_size import with_crop_size
from gcn_flax.workdir.workdir import Workdir

_log = logging.getLogger(__name__)


def run(
  config: ml_collections.ConfigDict,
  workdir: Workdir | files.Path | str,
  topology: str,
  batch: str = "",
  spatial: str = "",
) -> dict[str, Any]:
  """Estimates memory and time of a train step on chips that need not be there; prints a table, writes `plan.json`.

  For TPUs the step is compiled ahead of time by libtpu; for GPUs memory and FLOPs follow from the jaxpr. No data set is
  needed, unless its classes are known only from its files (`folder`, `class_folder`), or the crop is chosen from it.

  Args:
    config: settings of the run.
    workdir: folder of `plan.json`.
    topology: such as `v5e:4x8` or `h100:8`, see `hardware.parse_topology`.
    batch: examples on each device, as text; with `config.mesh.spatial` above 1, on each group of devices that share an
      image; 0 then counts as 1. "auto" finds the largest that fits; "" takes `config.batch_size`.
    spatial: "all" plans every possible value of `config.mesh.spatial` as well, for TPUs; "" its own, or the one that
      0 chooses.

  Returns:
    The contents of `plan.json`: `fits`, `hbm_bytes`, `hbm_limit_bytes`, `cycles`, `cycles_per_pixel`,
    `collective_bytes` and more, with `layouts` a list of them; what is not known is None.

  Raises:
    ValueError: for an unknown topology, batch or spatial, settings that do not match the devices, or if libtpu is
      missing.
  """
  target = hardware.parse_topology(topology)
  if batch not in ("", "auto") and not re.fullmatch("[1-9][0-9]{0,8}", batch):
    raise ValueError(f"{flag('batch', batch)}: must be auto, or a number of examples from 1 to 999999999.")
  _check_spatial(spatial, target)
  config_checks.check_config(config)
  workdir = Workdir(workdir)
  config = with_crop_size(config, workdir, RunData(config))
  workdir.check_writable("plan.json")
  if batch and not config.mesh.spatial:
    config = _with_spatial(config, 1)
  planner = (planners.TpuPlanner if target.is_tpu else planners.GpuPlanner)(config, target)
  best = _estimate(planner, batch)
  result = {"topology": topology, **best}
  if spatial:
    others = [count for count in planner.layouts if count != planner.spatial]
    found = [best, *(_estimate(planners.TpuPlanner(_with_spatial(config, count), target), batch) for count in others)]
    result["layouts"] = sorted(found, key=lambda row: row["spatial"])
  workdir.write_json("plan.json", result)
  print("\n".join(table.lines(config, result)))
  return result


def _check_spatial(spatial: str, target: hardware.Target) -> None:
  if spatial not in ("", "all"):
    raise ValueError(f"{flag('spatial', spatial)}: must be all. Use --spatial=all, or --config.mesh.spatial=N for one.")
  if spatial and not target.is_tpu:
    raise ValueError(
      f"--spatial=all: how XLA divides an image over GPUs, {target.name}, is not known before compilation, which needs "
      "such a GPU. Leave it out, or plan for a TPU."
    )


def _with_spatial(config: ml_collections.ConfigDict, count: int) -> ml_collections.ConfigDict:
  config = config.copy_and_resolve_references()
  config.mesh.spatial = count
  return config


def _estimate(planner: planners.Planner, batch: str) -> dict[str, Any]:
  """Returns the estimate for a batch as for `run`; for "auto" that of the largest that fits, and all in `tried`."""
  config = planner.config
  if batch != "auto":
    return planner.estimate(int(batch) if batch else max(1, ceil_div(config.batch_size, planner.num_groups)))
  tried = find_max_batch(planner, config.accumulate_steps)
  best = max((row for row in tried if row["fits"]), key=lambda row: row["batch_per_group"], default=tried[-1])
  return best | ({"tried": tried} if len(tried) > 1 else {})


def find_max_batch(planner: planners.Planner, multiple: int) -> list[dict[str, Any]]:
  """Searches the largest batch per group that fits, among multiples of `multiple`: by doubling, then by bisection.

  Returns:
    The estimate for every batch tried, smallest first.
  """
  tried = []

  def fits(count: int) -> bool:
    tried.append(planner.estimate(count * multiple))
    _log.info("%d examples: %s", count * multiple, "fits" if tried[-1]["fits"] else "does not fit")
    return tried[-1]["fits"]

  low, high = 0, 1
  while fits(high):
    low, high = high, 2 * high
  while high - low > 1:
    middle = (low + high) // 2
    low, high = (middle, high) if fits(middle) else (low, middle)
  return sorted(tried, key=lambda row: row["batch_per_group"])
