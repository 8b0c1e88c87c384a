"""Measures how the cost of a train step grows with k, crop, batch, depth and classes, compared with its FLOPs.

    python benchmarks/growth.py --json=FILE

Each setting differs from the base setting in one value, which it doubles as nearly as possible. Times are medians of
interleaved rounds on this machine; FLOPs are those of the reference implementation.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402

from benchmarks import rivals, script, timing  # noqa: E402
from gcn_flax import distributed  # noqa: E402
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
  """Measures every setting, prints the table and writes the JSON file."""
  distributed.skip_libtpu()
  parser = script.parser("Times train steps that differ from a base setting in one value each.")
  parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of activations")
  parser.add_argument("--repeats", type=int, default=7, help="number of rounds; each times every setting once")
  args = parser.parse_args()
  machine = script.machine(("jax", "jaxlib", "flax"))
  print(f"{script.headline(machine)}{BASE}\n", flush=True)
  settings = {name: _setting(BASE | change, args.dtype) for name, change in CHANGES.items()}
  flops = {name: rivals.train_flops(setting) for name, setting in settings.items()}
  steps = {name: rivals.ours_train(setting, ops.ops_for()) for name, setting in settings.items()}
  times = timing.summarize(timing.interleave({name: step.run for name, step in steps.items()}, args.repeats))
  print(_table(times, flops))
  script.write_json(args.json, {"settings": vars(args) | BASE, "train": times, "flops": flops, "machine": machine})


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
    flops_ratio, time_ratio = flops[name] / flops[base], times[f"{name}_s"] / times[f"{base}_s"]
    spread = f"{1e3 * times[f'{name}_min_s']:.4g} - {1e3 * times[f'{name}_max_s']:.4g}"
    rows.append(
      (
        name,
        f"{1e3 * times[f'{name}_s']:.4g} ({spread})",
        f"{flops[name] / 1e9:.1f}",
        f"{time_ratio:.2f}",
        f"{flops_ratio:.2f}",
        f"{time_ratio / flops_ratio - 1:+.0%}",
      )
    )
  header = ("changed", "ms: median (min - max)", "GFLOP", "time / base", "FLOPs / base", "difference")
  return timing.table(header, rows)


if __name__ == "__main__":
  main()
