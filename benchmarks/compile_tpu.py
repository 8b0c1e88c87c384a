"""What the train step of configs/cityscapes.py costs on TPUs, by their compiler's own account, for many settings.

    python benchmarks/compile_tpu.py --topologies=v5e:2x4 --backbones=resnet50 --batches=2,8 --crops=800 --json=FILE

Compiles each combination for chips that need not be there (libtpu), one after the other, and prints them in the order
of cycles per pixel, then where the cycles of the cheapest go. Nothing is run: cycles and memory are the compiler's.
A ResNet-50 takes 4 to 7 minutes to compile on 2 cores, so a search over many shapes takes a night; what is done is in
the JSON file at any time, and a run that finds it there goes on.
"""

import argparse
import itertools
import json
import os
import pathlib
import sys
import time

os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # The repository, for a run as a script.

from benchmarks import timing  # noqa: E402
from configs import cityscapes  # noqa: E402
from gcn_flax import hardware, plan  # noqa: E402

PACKAGES = ("jax", "jaxlib", "flax", "libtpu")


def main() -> None:
  """Compiles, prints, writes."""
  args = _arguments()
  path = pathlib.Path(args.json) if args.json else None
  rows = json.loads(path.read_text())["rows"] if path and path.exists() else []
  settings = [
    dict(zip(("topology", "backbone", "kernel_size", "batch", "crop", "spatial"), values, strict=True))
    for values in itertools.product(
      args.topologies, args.backbones, args.kernel_sizes, args.batches, args.crops, args.spatial
    )
  ]
  left = [setting for setting in settings if setting not in [row["setting"] for row in rows]]
  started = time.monotonic()
  for done, setting in enumerate(left):
    rest = f", {(time.monotonic() - started) / done * (len(left) - done) / 60:.0f} min left" if done else ""
    print(f"{done + 1} of {len(left)}{rest}: {_name(setting)}", flush=True)
    rows.append({"setting": setting, "machine": timing.machine(PACKAGES), **_cost(setting)})
    if path:
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(json.dumps({"rows": rows}, indent=2) + "\n")
  rows = [row for row in rows if row["setting"] in settings]
  print(f"\n{_table(rows)}\n\n{_parts(min(rows, key=_cycles_per_pixel))}")


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description="Compiles the train step for TPUs that need not be there.")
  words, numbers = (lambda text: text.split(",")), (lambda text: [int(part) for part in text.split(",")])
  parser.add_argument("--topologies", type=words, default=["v5e:2x4", "v6e:2x4", "v5p:2x2x2"])
  parser.add_argument("--backbones", type=words, default=["resnet50"])
  parser.add_argument("--kernel_sizes", type=numbers, default=[25])
  parser.add_argument("--batches", type=numbers, default=[8], help="images on each chip, or group of chips")
  parser.add_argument("--crops", type=numbers, default=[800], help="sides of the square crops")
  parser.add_argument("--spatial", type=numbers, default=[1], help="chips that share the rows of an image")
  parser.add_argument("--json", default="", help="file to write to, and to go on with")
  args = parser.parse_args()
  for topology in args.topologies:
    if not hardware.parse_topology(topology).is_tpu:
      parser.error(f"--topologies: {topology} is no TPU")
  return args


def _cost(setting: dict) -> dict:
  config = cityscapes.get_config()
  config.model.backbone, config.model.kernel_size = setting["backbone"], setting["kernel_size"]
  config.data.crop_size = (setting["crop"],) * 2
  config.mesh.spatial = setting["spatial"]
  return plan.cost(config, setting["topology"], setting["batch"])


def _cycles_per_pixel(row: dict) -> float:
  return row["cycles_per_pixel"] or float("inf")


def _name(setting: dict) -> str:
  rows = f", rows over {setting['spatial']} chips" if setting["spatial"] > 1 else ""
  return (
    f"{setting['backbone']}, k = {setting['kernel_size']}, {setting['batch']} x {setting['crop']} on "
    f"{setting['topology'].partition(':')[0]}{rows}"
  )


def _table(rows: list[dict]) -> str:
  header = ("compiler-estimated", "cycles per pixel", "M cycles", "T operations", "memory, GiB", "seconds to compile")
  lines = []
  for row in sorted(rows, key=_cycles_per_pixel):
    found = ("does not fit", "-", f"{row['flops'] / 1e12:.2f}", f"{row['hbm_bytes'] / 2**30:.2f}", "-")
    if row["fits"]:
      found = (
        f"{row['cycles_per_pixel']:.1f}",
        f"{row['cycles'] / 1e6:.1f}",
        f"{row['flops'] / 1e12:.2f}",
        f"{row['hbm_bytes'] / 2**30:.2f} of {row['hbm_limit_bytes'] / 2**30:.2f}",
        f"{row['compile_seconds']:.0f}",
      )
    lines.append((_name(row["setting"]), *found))
  return timing.table(header, lines)


def _parts(row: dict) -> str:
  if not row["fits"]:
    return "Nothing fits."
  pixels = row["cycles"] / row["cycles_per_pixel"]
  lines = [
    (part, f"{cycles / 1e6:.1f}", f"{cycles / pixels:.2f}", f"{cycles / row['cycles']:.0%}")
    for part, cycles in row["cycles_by_part"].items()
  ]
  return timing.table((_name(row["setting"]), "M cycles", "per pixel", "share"), lines)


if __name__ == "__main__":
  main()
