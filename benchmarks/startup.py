"""Measures the time from the command to the first step: cold, and after a preemption with compiled programs at hand.

    python benchmarks/startup.py --config=configs/quickstart.py --json=FILE

Trains in a separate process, by default on generated scenes, which are prepared if they are missing. The first start,
in an empty workdir, gets SIGTERM when its first step is logged, and saves a checkpoint. The same command then starts
again and is stopped after its first step. With `--steps=N` a third start goes on for N steps more; images per second
and the share of time spent waiting for input are then read from metrics.jsonl, without the first fifth, which compiles.
Other flags are passed on to gcn_flax, such as `--config.batch_size=16`.
"""

import argparse
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import script, timing  # noqa: E402
from gcn_flax.distributed import STOPPED  # noqa: E402

POLL_SECONDS = 0.05
LINES = 5  # Of the log, over which --steps are spread.


def main() -> None:
  """Measures, prints the table and writes the JSON file."""
  parser = script.parser("Times the start of a training run, cold and with compiled programs.")
  parser.add_argument("--config", default="configs/quickstart.py", help="recipe to train")
  parser.add_argument("--data_dir", default="runs/data", help="prepared data; generated scenes are added")
  parser.add_argument("--rounds", type=int, default=3, help="number of pairs of starts")
  parser.add_argument("--steps", type=int, default=0, help="also measure so many steps of a run; 0 for none")
  args, args.flags = parser.parse_known_args()
  machine = script.machine(("jax", "jaxlib", "flax", "orbax-checkpoint"))
  print(script.headline(machine), flush=True)
  if "quickstart" in args.config and not (_data_dir(args) / "shapes").exists():
    prepare = [sys.executable, "-m", "data.prepare", "--dataset=shapes", f"--data_dir={_data_dir(args)}"]
    subprocess.run(prepare, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
  found, running = {"cold": [], "warm": []}, {}
  for _ in range(args.rounds):
    with tempfile.TemporaryDirectory() as folder:
      workdir = pathlib.Path(folder) / "run"
      for kind, seconds in found.items():
        seconds.append(_train(args, workdir, every=1, lines=1))
        print(f"{kind}: first step after {seconds[-1]:.1f} s", flush=True)
        _write(args, machine, found, running)
      if args.steps and not running:
        running = _running(args, workdir)
        print(f"{running['images_per_s']:.1f} images/s, input wait {running['input_wait']:.1%}", flush=True)
        _write(args, machine, found, running)
  summary = timing.summarize(found)
  rows = [
    (kind, f"{summary[f'{kind}_s']:.1f} ({summary[f'{kind}_min_s']:.1f} - {summary[f'{kind}_max_s']:.1f})")
    for kind in found
  ]
  print("\n" + timing.table((args.config, "s to the first step: median (min - max)"), rows))


def _write(args: argparse.Namespace, machine: dict, found: dict, running: dict) -> None:
  summary = timing.summarize({kind: seconds for kind, seconds in found.items() if seconds})
  script.write_json(args.json, {"settings": vars(args), "machine": machine, **summary, **running})


def _running(args: argparse.Namespace, workdir: pathlib.Path) -> dict[str, float]:
  """Returns the rate of a run and its share of waiting for input, over the lines of the log after the first one.

  That line has the first step, and the batches that were made while it compiled.
  """
  every = max(args.steps // LINES, 1)
  _train(args, workdir, every, lines=LINES + 1)
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  lines = [line for line in lines if "images_per_second" in line][-LINES:]
  return {
    "images_per_s": statistics.harmonic_mean([line["images_per_second"] for line in lines]),
    "input_wait": statistics.mean(line["input_wait"] for line in lines),
    "steps": LINES * every,
  }


def _train(args: argparse.Namespace, workdir: pathlib.Path, every: int, lines: int) -> float:
  """Trains until so many lines are logged, one every `every` steps, then stops the run; returns the seconds."""
  metrics = workdir / "metrics.jsonl"
  before = _num_lines(metrics)
  environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
  command = [
    sys.executable, "-m", "gcn_flax.main", f"--config={args.config}", f"--workdir={workdir}",
    f"--config.data.data_dir={_data_dir(args)}", f"--config.log_every_steps={every}", *args.flags,
  ]  # fmt: skip
  with tempfile.TemporaryFile("w+") as errors:
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, cwd=ROOT, env=environment)
    while process.poll() is None and _num_lines(metrics) < before + lines:
      time.sleep(POLL_SECONDS)
    seconds = time.monotonic() - started
    process.send_signal(signal.SIGTERM)
    if process.wait() != STOPPED:
      errors.seek(0)
      sys.exit(f"error: the run ended with status {process.returncode}:\n{errors.read()[-2000:]}")
  return seconds


def _data_dir(args: argparse.Namespace) -> pathlib.Path:
  return pathlib.Path(args.data_dir).resolve()


def _num_lines(path: pathlib.Path) -> int:
  return len(path.read_text().splitlines()) if path.exists() else 0


if __name__ == "__main__":
  main()
