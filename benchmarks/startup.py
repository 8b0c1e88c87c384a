"""From the command to the first step: cold, and after a preemption, when what was compiled comes from the workdir.

    python benchmarks/startup.py --config=configs/quickstart.py --json=FILE

Trains on generated scenes in a process of its own: in an empty workdir until the first step is logged, when it gets a
SIGTERM, saves and stops; then once more by the same command, until the first further step.
"""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # The repository, for a run as a script.
if not list(pathlib.Path("/dev").glob("nvidia[0-9]*")):
  os.environ.setdefault("JAX_PLATFORMS", "cpu")  # Or JAX looks for a TPU where libtpu is installed.

from benchmarks import timing  # noqa: E402
from gcn_flax.distributed import STOPPED  # noqa: E402

POLL_SECONDS = 0.05


def main() -> None:
  """Measures, prints, writes."""
  parser = argparse.ArgumentParser(description="Times the start of a training run, cold and with compiled programs.")
  parser.add_argument("--config", default="configs/quickstart.py")
  parser.add_argument("--data_dir", default="runs/data", help="where the generated scenes are prepared, or shall be")
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--json", default="", help="file to write the numbers to")
  args = parser.parse_args()
  machine = timing.machine(("jax", "jaxlib", "flax", "orbax-checkpoint"))
  print(f"{machine['cpu']}, {machine['cores']} cores, {machine['date']}\n`{machine['command']}`\n", flush=True)
  _run(["data.prepare", "--dataset=shapes", f"--data_dir={pathlib.Path(args.data_dir).resolve()}"])
  found = {"cold": [], "warm": []}
  for _ in range(args.rounds):
    with tempfile.TemporaryDirectory() as folder:
      for kind, seconds in found.items():
        seconds.append(_first_step(args, pathlib.Path(folder) / "run"))
        print(f"{kind}: first step after {seconds[-1]:.1f} s", flush=True)
  summary = timing.summarise(found)
  rows = [
    (kind, f"{summary[f'{kind}_s']:.1f} ({summary[f'{kind}_min_s']:.1f} - {summary[f'{kind}_max_s']:.1f})")
    for kind in found
  ]
  print("\n" + timing.table((args.config, "s to the first step: median (min - max)"), rows))
  if args.json:
    pathlib.Path(args.json).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(args.json).write_text(
      json.dumps({"settings": vars(args), "machine": machine, **summary}, indent=2) + "\n"
    )


def _first_step(args: argparse.Namespace, workdir: pathlib.Path) -> float:
  """Seconds from the command to the first step that is logged; the run is then stopped."""
  metrics = workdir / "metrics.jsonl"
  before = _num_lines(metrics)
  environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
  data_dir = pathlib.Path(args.data_dir).resolve()
  arguments = [f"--config={args.config}", f"--workdir={workdir}", f"--config.data.data_dir={data_dir}"]
  command = _command(["gcn_flax.main", *arguments, "--config.log_every_steps=1"])
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


def _num_lines(path: pathlib.Path) -> int:
  return len(path.read_text().splitlines()) if path.exists() else 0


def _command(arguments: list[str]) -> list[str]:
  return [sys.executable, "-m", *arguments]


def _run(arguments: list[str]) -> None:
  subprocess.run(_command(arguments), check=True, stdout=subprocess.DEVNULL, cwd=ROOT)


if __name__ == "__main__":
  main()
