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
  config: ml_collections.ConfigDict, workdir: Workdir | files.Path | str, topology: str, batch: str = ""
) -> dict[str, Any]:
  """Estimates memory and time of a train step on chips that need not be there; prints a table, writes `plan.json`.

  For TPUs the step is compiled ahead of time by libtpu; for GPUs memory and FLOPs follow from the jaxpr. No data set is
  needed, unless its classes are known only from its files (`folder`, `class_folder`), or the crop is chosen from it.

  Args:
    config: settings of the run.
    workdir: folder of `plan.json`.
    topology: such as `v5e:4x8` or `h100:8`, see `hardware.parse_topology`.
    batch: examples on each device, as text; with `config.mesh.spatial`, on each group of devices that share an image.
      "auto" finds the largest that fits; "" takes `config.batch_size`.

  Returns:
    The contents of `plan.json`: `fits`, `hbm_bytes`, `hbm_limit_bytes`, `cycles`, `cycles_per_pixel`,
    `collective_bytes` and more; what is not known is None.

  Raises:
    ValueError: for an unknown topology or batch, settings that do not match the devices, or if libtpu is missing.
  """
  target = hardware.parse_topology(topology)
  if batch not in ("", "auto") and not re.fullmatch("[1-9][0-9]{0,8}", batch):
    raise ValueError(f"{flag('batch', batch)}: must be auto, or a number of examples from 1 to 999999999.")
  config_checks.check_config(config)
  workdir = Workdir(workdir)
  config = with_crop_size(config, workdir, RunData(config))
  workdir.check_writable("plan.json")
  planner = (planners.TpuPlanner if target.is_tpu else planners.GpuPlanner)(config, target)
  if batch == "auto":
    tried = find_max_batch(planner, config.accumulate_steps)
    best = max((row for row in tried if row["fits"]), key=lambda row: row["batch_per_group"], default=tried[-1])
  else:
    best = planner.estimate(int(batch) if batch else max(1, ceil_div(config.batch_size, planner.num_groups)))
    tried = [best]
  result = {"topology": topology, **best} | ({"tried": tried} if len(tried) > 1 else {})
  workdir.write_json("plan.json", result)
  print("\n".join(table.lines(config, result)))
  return result


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
