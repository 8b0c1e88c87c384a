"""Trains a network on CamVid with several recipes of equal budget, and prints the mean IoU of each.

  python benchmarks/recipe_search.py --data_dir=DATA --json=runs/recipe_search.json
  python benchmarks/recipe_search.py --data_dir=DATA --trials=base,dice --seed=11 --json=runs/recipe_search_11.json

Every trial is `BASE` with the changes in `TRIALS`; the schedule ends at the last of --steps. Repeat the command to
continue: finished trials are not trained again. Seeds should be others than those of the runs that are reported.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import script  # noqa: E402
from configs.camvid import CLASS_WEIGHTS  # noqa: E402

# Median frequency balancing (Eigen and Fergus, ICCV 2015) over the training photos, in the order of the classes: sky,
# building, pole, road, pavement, tree, sign, fence, car, pedestrian, bicyclist.
MEDIAN_FREQUENCY = (0.28, 0.20, 4.80, 0.15, 1.00, 0.42, 3.85, 1.97, 0.79, 6.38, 8.86)
BASE = {
  "optimizer.kind": "adamw",
  "optimizer.learning_rate": 0.002,
  "optimizer.weight_decay": 0.01,
  "optimizer.warmup_steps": 40,
  "optimizer.clip_norm": 5.0,
  "loss.class_weights": (),
  "loss.dice_weight": 0.0,
  "data.crop_size": (256, 256),
  "data.scales": (0.5, 2.0),
}
_SGD = {"optimizer.kind": "sgd", "optimizer.learning_rate": 0.05, "optimizer.weight_decay": 5e-4}
_ROOTS = {"loss.class_weights": CLASS_WEIGHTS}
_NARROW = {"data.scales": (0.75, 1.5)}
TRIALS = {
  "sgd": _SGD,
  "base": {},
  "rate 0.001": {"optimizer.learning_rate": 0.001},
  "rate 0.004": {"optimizer.learning_rate": 0.004},
  "rate 0.008": {"optimizer.learning_rate": 0.008},
  "dice": {"loss.dice_weight": 1.0},
  "class weights": {"loss.class_weights": MEDIAN_FREQUENCY},
  "square roots of class weights": _ROOTS,
  "roots and dice": _ROOTS | {"loss.dice_weight": 1.0},
  "roots and rate 0.004": _ROOTS | {"optimizer.learning_rate": 0.004},
  "roots and scales 0.75 to 1.5": _ROOTS | _NARROW,
  "roots and scales 1 to 2": _ROOTS | {"data.scales": (1.0, 2.0)},
  "roots and scales 0.75 to 1.5 and rate 0.001": _ROOTS
  | {"data.scales": (0.75, 1.5), "optimizer.learning_rate": 0.001},
}


def main() -> None:
  """Trains the trials that are missing, prints the mean IoU of each and writes the JSON file."""
  parser = script.parser("Trains a network on CamVid with several recipes of equal budget.")
  parser.add_argument("--data_dir", required=True, help="--data_dir of data.prepare")
  parser.add_argument("--root", default="runs/recipe_search", help="folder for the runs (default: %(default)s)")
  parser.add_argument("--backbone", default="resnet_tiny", help="encoder (default: %(default)s)")
  parser.add_argument("--steps", type=int, default=400, help="updates of each trial (default: %(default)s)")
  parser.add_argument("--seed", type=int, default=10, help="seed of each trial (default: %(default)s)")
  parser.add_argument("--trials", default="", help="names, separated by commas (default: all)")
  args = parser.parse_args()
  machine = script.machine(("jax", "jaxlib", "flax", "optax"))
  print(script.headline(machine), flush=True)
  names = [name.strip() for name in args.trials.split(",")] if args.trials else list(TRIALS)
  unknown = [name for name in names if name not in TRIALS]
  if unknown:
    parser.error(f"--trials: {unknown} are unknown. Choose from: {'; '.join(TRIALS)}.")
  rows = []
  for name in names:
    rows.append(_trial(name, args))
    print(f"{name}: {100 * rows[-1]['mean_iou']:.1f}", flush=True)
    script.write_json(args.json, {"settings": vars(args), "base": BASE, "machine": machine, "trials": rows})


def _trial(name: str, args: argparse.Namespace) -> dict:
  """Returns the metrics of a trial, which is trained first if that is not done yet."""
  workdir = ROOT / args.root / f"{args.backbone}-{args.steps}" / name.replace(" ", "_") / f"seed{args.seed}"
  settings = BASE | TRIALS[name]
  fields = {
    "data.data_dir": str(pathlib.Path(args.data_dir).resolve()),
    "total_steps": args.steps,
    "eval_every_steps": args.steps // 2,
    "checkpoint_every_steps": args.steps // 2,
    "seed": args.seed,
    **settings,
  }
  command = [
    sys.executable, "-m", "gcn_flax.main", f"--config=configs/camvid.py:{args.backbone}", f"--workdir={workdir}",
    *(f"--config.{field}={value}" for field, value in fields.items()),
  ]  # fmt: skip
  result, started = workdir / "trial.json", time.monotonic()
  if not result.exists():
    subprocess.run(command, check=True, cwd=ROOT)
    found = json.loads((workdir / "eval_validation.json").read_text())
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    halfway = next(line for line in lines if line["step"] == args.steps // 2 and "validation/mean_iou" in line)
    row = {
      "name": name,
      "changes": TRIALS[name],
      "mean_iou": found["mean_iou"],
      "mean_iou_halfway": halfway["validation/mean_iou"],
      "pixel_accuracy": found["pixel_accuracy"],
      "iou": found["iou"],
      "seconds": round(time.monotonic() - started),
      "commit": json.loads((workdir / "run.json").read_text())["commit"],
    }
    script.write_json(result, row)
  return json.loads(result.read_text())


if __name__ == "__main__":
  main()
