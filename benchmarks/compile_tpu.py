"""What the train step of configs/cityscapes.py costs on TPUs, by their compiler's own account, for many settings.

    python benchmarks/compile_tpu.py --topologies=v5e:2x4 --backbones=resnet50 --batches=2,8 --crops=800 --json=FILE

Compiles each combination for chips that need not be there (`--mode=plan`, each in a process of its own: libtpu and the
partitioner keep what they were loaded with), and prints them in the order of cycles per pixel, then where the cycles of
the cheapest go. Nothing is run: cycles and memory are the compiler's. A ResNet-50 takes 4 to 7 minutes to compile on
2 cores, so a search over many shapes takes a night; what is done is in the JSON file at any time, and a run of the same
commit and libtpu that finds it there goes on.
"""

import argparse
import importlib.metadata
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, str(ROOT))  # The repository, for a run as a script.

from benchmarks import timing  # noqa: E402
from gcn_flax.planning import hardware  # noqa: E402

PACKAGES = ("jax", "jaxlib", "flax", "libtpu")
SETTING = ("topology", "backbone", "kernel_size", "batch", "crop", "spatial")


def main() -> None:
  """Compiles, prints, writes."""
  args = _arguments()
  machine, code = timing.machine(PACKAGES), _code()
  versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
  print(f"{machine['cpu']}, {machine['cores']} cores, {machine['date']}; {versions}; commit {code['commit'][:12]}.")
  print(f"`{machine['command']}`\n", flush=True)
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
    if path:
      _write(path, [row for row in rows if row not in found] + found)
  print(f"\n{_table(found)}\n\n{_parts(min(found, key=_cycles_per_pixel))}")


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


def _code() -> dict[str, str]:
  """What the figures depend on beside the setting."""
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
  """What `--mode=plan` writes. Raises SystemExit where it fails."""
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


def _write(path: pathlib.Path, rows: list[dict]) -> None:
  """In one move, so that a kill leaves the old file or the new one."""
  path.parent.mkdir(parents=True, exist_ok=True)
  fresh = path.with_suffix(".new")
  fresh.write_text(json.dumps({"rows": rows}, indent=2) + "\n")
  fresh.replace(path)


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
