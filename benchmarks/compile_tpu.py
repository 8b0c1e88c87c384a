"""Compares what the train step of configs/cityscapes.py costs on TPUs for many settings, as estimated by libtpu.

    python benchmarks/compile_tpu.py --topologies=v5e:2x4 --backbones=resnet50 --batches=2,8 --crops=800 --json=FILE

Compiles each combination ahead of time with `--mode=plan`, without a TPU and each in a separate process, because
libtpu and the partitioner keep the options they were loaded with. Prints all settings, ordered by cycles per pixel,
then the cycles of the cheapest one by part of the network. Nothing runs: cycles and memory are the compiler's
estimates. A ResNet-50 takes 4 to 7 minutes to compile on 2 cores, so a search over many shapes takes a night. The JSON
file always holds the finished rows; a run with the same file, commit and libtpu continues from there.
"""

import argparse
import importlib.metadata
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import script, timing  # noqa: E402
from gcn_flax.planning import hardware  # noqa: E402

PACKAGES = ("jax", "jaxlib", "flax", "libtpu")
SETTING = ("topology", "backbone", "kernel_size", "batch", "crop", "spatial")


def main() -> None:
  """Compiles every setting, prints the tables and writes the JSON file."""
  args = _arguments()
  machine, code = script.machine(PACKAGES), _code()
  print(f"commit {code['commit'][:12]}; {script.headline(machine)}", flush=True)
  path = pathlib.Path(args.json) if args.json else None
  rows = json.loads(path.read_text())["rows"] if path and path.exists() else []
  settings = [
    dict(zip(SETTING, values, strict=True))
    for values in itertools.product(
      args.topologies, args.backbones, args.kernel_sizes, args.batches, args.crops, args.spatial
    )
  ]
  found = [row for row in rows if row["code"] == code and row["setting"] in settings]
  left = [setting for setting in settings if setting not in [row["setting"] for row in found]]
  started = time.monotonic()
  for done, setting in enumerate(left):
    rest = f", {(time.monotonic() - started) / done * (len(left) - done) / 60:.0f} min left" if done else ""
    print(f"{done + 1} of {len(left)}{rest}: {_name(setting)}", flush=True)
    found.append({"setting": setting, "code": code, "machine": machine, **_cost(setting)})
    script.write_json(args.json, {"rows": [row for row in rows if row not in found] + found})
  print(f"\n{_table(found)}\n\n{_parts(min(found, key=_cycles_per_pixel))}")


def _arguments() -> argparse.Namespace:
  parser = script.parser("Compiles the train step ahead of time for TPU topologies you don't have.")
  words, numbers = (lambda text: text.split(",")), (lambda text: [int(part) for part in text.split(",")])
  parser.add_argument("--topologies", type=words, default=["v5e:2x4", "v6e:2x4", "v5p:2x2x2"], help="TPU slices")
  parser.add_argument("--backbones", type=words, default=["resnet50"], help="encoders")
  parser.add_argument("--kernel_sizes", type=numbers, default=[25], help="k of the heads, odd")
  parser.add_argument("--batches", type=numbers, default=[8], help="images per chip, or per group of --spatial chips")
  parser.add_argument("--crops", type=numbers, default=[800], help="sides of the square crops, in pixels")
  parser.add_argument("--spatial", type=numbers, default=[1], help="chips that share the rows of an image")
  args = parser.parse_args()
  for topology in args.topologies:
    if not hardware.parse_topology(topology).is_tpu:
      parser.error(f"--topologies={topology}: not a TPU. Use, for instance, v5e:2x4")
  return args


def _code() -> dict[str, str]:
  """Returns what the figures depend on besides the setting: the commit and the version of libtpu."""
  git = ["git", "-C", str(ROOT)]
  commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
  changed = subprocess.run(
    [*git, "status", "--porcelain", "gcn_flax"], check=True, capture_output=True, text=True
  ).stdout
  return {
    "commit": commit + (f", changed at {time.time()}" if changed else ""),
    "libtpu": importlib.metadata.version("libtpu"),
  }


def _cost(setting: dict) -> dict:
  """Returns the plan.json of a setting. Raises SystemExit if planning fails."""
  crop = setting["crop"]
  with tempfile.TemporaryDirectory() as workdir:
    command = [
      sys.executable, "-m", "gcn_flax.main", "--config=configs/cityscapes.py", f"--workdir={workdir}", "--mode=plan",
      f"--topology={setting['topology']}", f"--batch={setting['batch']}",
      f"--config.model.backbone={setting['backbone']}",
      f"--config.model.kernel_size={setting['kernel_size']}", f"--config.data.crop_size=({crop}, {crop})",
      f"--config.mesh.spatial={setting['spatial']}",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
      sys.exit(f"error: {_name(setting)}: status {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads((pathlib.Path(workdir) / "plan.json").read_text())


def _cycles_per_pixel(row: dict) -> float:
  return row["cycles_per_pixel"] or float("inf")


def _name(setting: dict) -> str:
  rows = f", rows over {setting['spatial']} chips" if setting["spatial"] > 1 else ""
  return (
    f"{setting['backbone']}, k = {setting['kernel_size']}, {setting['batch']} x {setting['crop']} on "
    f"{setting['topology'].partition(':')[0]}{rows}"
  )


def _table(rows: list[dict]) -> str:
  header = ("estimated by the compiler", "cycles per pixel", "M cycles", "TFLOP", "memory, GiB", "seconds to compile")
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
    return "No setting fits."
  pixels = row["cycles"] / row["cycles_per_pixel"]
  lines = [
    (part, f"{cycles / 1e6:.1f}", f"{cycles / pixels:.2f}", f"{cycles / row['cycles']:.0%}")
    for part, cycles in row["cycles_by_part"].items()
  ]
  return timing.table((_name(row["setting"]), "M cycles", "per pixel", "share"), lines)


if __name__ == "__main__":
  main()
