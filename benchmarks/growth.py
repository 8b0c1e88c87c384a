"""How the cost of a train step grows with k, crop, batch, depth and classes, beside what its operations say.

    python benchmarks/growth.py --json=FILE

One setting is the base; each other one differs from it in one thing, which it doubles as nearly as can be. Times are
this machine's, medians of interleaved rounds; operations are those of the network as it is written down.
"""

import argparse
import json
import os
import pathlib
import sys

if not list(pathlib.Path("/dev").glob("nvidia[0-9]*")):
  os.environ.setdefault("JAX_PLATFORMS", "cpu")  # Or JAX looks for a TPU where libtpu is installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # The repository, for a run as a script.

import numpy as np  # noqa: E402

from benchmarks import rivals, timing  # noqa: E402
from gcn_flax.models import ops  # noqa: E402

BASE = dict(backbone="resnet50", kernel_size=15, height=256, width=256, batch=2, num_classes=21)
CHANGES = {
  "the base": {},
  "k = 31": dict(kernel_size=31),
  "crop 256 x 512": dict(width=512),
  "batch 4": dict(batch=4),
  "ResNet-101": dict(backbone="resnet101"),
  "42 classes": dict(num_classes=42),
}


def main() -> None:
  """Measures, prints, writes."""
  parser = argparse.ArgumentParser(description="Times train steps that differ in one thing each.")
  parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
  parser.add_argument("--repeats", type=int, default=7, help="rounds, each of which times every setting once")
  parser.add_argument("--json", default="", help="file to write the numbers to")
  args = parser.parse_args()
  machine = timing.machine(("jax", "jaxlib", "flax"))
  print(f"{machine['cpu']}, {machine['cores']} cores, {machine['date']}\n`{machine['command']}`\n{BASE}\n", flush=True)
  settings = {name: _setting(BASE | change, args.dtype) for name, change in CHANGES.items()}
  flops = {name: rivals.train_flops(setting) for name, setting in settings.items()}
  steps = {name: rivals.ours_train(setting, ops.of_platform()) for name, setting in settings.items()}
  times = timing.summarise(timing.interleave({name: step.run for name, step in steps.items()}, args.repeats))
  print(_table(times, flops))
  if args.json:
    pathlib.Path(args.json).parent.mkdir(parents=True, exist_ok=True)
    result = {"settings": vars(args) | BASE, "train": times, "flops": flops, "machine": machine}
    pathlib.Path(args.json).write_text(json.dumps(result, indent=2) + "\n")


def _setting(values: dict, dtype: str) -> rivals.Setting:
  rng = np.random.default_rng(0)
  shape = values["batch"], values["height"], values["width"]
  batch = {
    "image": rng.integers(0, 256, (*shape, 3), np.uint8),
    "label": rng.integers(0, values["num_classes"], shape, np.uint8),
  }
  network = {name: values[name] for name in ("num_classes", "backbone", "kernel_size")}
  return rivals.Setting(**network, batch=batch, dtype=dtype)


def _table(times: dict, flops: dict) -> str:
  base = "the base"
  rows = []
  for name in CHANGES:
    more, longer = flops[name] / flops[base], times[f"{name}_s"] / times[f"{base}_s"]
    spread = f"{1e3 * times[f'{name}_min_s']:.4g} - {1e3 * times[f'{name}_max_s']:.4g}"
    cells = (f"{1e3 * times[f'{name}_s']:.4g} ({spread})", f"{flops[name] / 1e9:.1f}", f"{longer:.2f}", f"{more:.2f}")
    rows.append((name, *cells, f"{longer / more - 1:+.0%}"))
  header = ("changed", "ms: median (min - max)", "G operations", "time, times", "operations, times", "difference")
  return timing.table(header, rows)


if __name__ == "__main__":
  main()
