"""Writes what a finished run reached, and how, as one JSON file for docs/runs.

  python launch/record_run.py runs/camvid docs/runs/camvid_resnet_tiny_0.json

The file has the command, commit, versions, devices and processor, the seed, each evaluation during training, and the
metrics of the last one. Record a run on the machine that trained it.
"""

import argparse
import json
import pathlib
import statistics
import sys
from collections.abc import Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks import script  # noqa: E402
from gcn_flax import files  # noqa: E402

_FROM_RUN = ("command", "commit", "versions", "devices", "starts")
_FROM_CONFIG = ("seed", "total_steps", "batch_size")


def record(workdir: pathlib.Path) -> dict[str, Any]:
  """Returns the record of a run. Raises ValueError if it has not been evaluated at its last step."""
  config, run, scores = (_read(workdir / name) for name in ("config.json", "run.json", "eval_validation.json"))
  if scores["step"] != config["total_steps"]:
    raise ValueError(f"{workdir}: evaluated at step {scores['step']}, not at the last, {config['total_steps']}.")
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  speeds = [line["images_per_second"] for line in lines if line.get("images_per_second")]
  machine = script.machine(())
  return {
    **{name: run[name] for name in _FROM_RUN},
    **{name: config[name] for name in _FROM_CONFIG},
    "machine": {name: machine[name] for name in ("cpu", "cores")},
    "images_per_second": statistics.median(speeds),
    "evaluations": [_evaluation(line) for line in lines if "validation/mean_iou" in line],
    "last": {name: value for name, value in scores.items() if name != "images"},
  }


def _evaluation(line: dict[str, Any]) -> dict[str, Any]:
  return {name.removeprefix("validation/"): value for name, value in line.items()}


def _read(path: pathlib.Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text())
  except OSError as error:
    raise ValueError(f"{path}: not found. Give the workdir of a run that has been evaluated.") from error


def main(argv: Sequence[str]) -> int:
  """Writes the record. Returns the exit status."""
  parser = argparse.ArgumentParser(prog="launch/record_run.py", description="Writes what a run reached as JSON.")
  parser.add_argument("workdir", type=pathlib.Path)
  parser.add_argument("output", type=pathlib.Path)
  args = parser.parse_args(argv)
  try:
    files.write(args.output, json.dumps(record(args.workdir), indent=2) + "\n")
  except (OSError, ValueError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
