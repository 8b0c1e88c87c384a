"""Measures the time from the command to the first step: cold, and after a preemption with compiled programs at hand.

    python benchmarks/startup.py --config=configs/quickstart.py --json=FILE

Trains on generated scenes in a separate process. The first start, in an empty workdir, gets SIGTERM when its first
step is logged, and saves a checkpoint. The same command then starts again and is stopped after its first step.
"""

import argparse
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import script, timing  # noqa: E402
from gcn_flax.distributed import STOPPED  # noqa: E402

POLL_SECONDS = 0.05


def main() -> None:
  """Measures, prints the table and writes the JSON file."""
  parser = script.parser("Times the start of a training run, cold and with compiled programs.")
  parser.add_argument("--config", default="configs/quickstart.py", help="recipe to train")
  parser.add_argument("--data_dir", default="runs/data", help="folder of the generated scenes; prepared if missing")
  parser.add_argument("--rounds", type=int, default=3, help="number of pairs of starts")
  args = parser.parse_args()
  machine = script.machine(("jax", "jaxlib", "flax", "orbax-checkpoint"))
  print(script.headline(machine), flush=True)
  prepare = [sys.executable, "-m", "data.prepare", "--dataset=shapes", f"--data_dir={_data_dir(args)}"]
  subprocess.run(prepare, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
  found = {"cold": [], "warm": []}
  for _ in range(args.rounds):
    with tempfile.TemporaryDirectory() as folder:
      for kind, seconds in found.items():
        seconds.append(_first_step(args, pathlib.Path(folder) / "run"))
        print(f"{kind}: first step after {seconds[-1]:.1f} s", flush=True)
  summary = timing.summarize(found)
  rows = [
    (kind, f"{summary[f'{kind}_s']:.1f} ({summary[f'{kind}_min_s']:.1f} - {summary[f'{kind}_max_s']:.1f})")
    for kind in found
  ]
  print("\n" + timing.table((args.config, "s to the first step: median (min - max)"), rows))
  script.write_json(args.json, {"settings": vars(args), "machine": machine, **summary})


def _first_step(args: argparse.Namespace, workdir: pathlib.Path) -> float:
  """Returns the seconds from the command to the first logged step, then stops the run."""
  metrics = workdir / "metrics.jsonl"
  before = _num_lines(metrics)
  environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
  command = [
    sys.executable, "-m", "gcn_flax.main", f"--config={args.config}", f"--workdir={workdir}",
    f"--config.data.data_dir={_data_dir(args)}", "--config.log_every_steps=1",
  ]  # fmt: skip
  with tempfile.TemporaryFile("w+") as errors:
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, cwd=ROOT, env=environment)
    while process.poll() is None and _num_lines(metrics) == before:
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
