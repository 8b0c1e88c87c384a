"""From the command to the first step and the last: cold, and once more with what was compiled before.

    python benchmarks/startup.py --config=configs/quickstart.py --json=FILE

Trains on generated scenes in processes of their own: in an empty workdir (cold), then on in the same one (the programs
come from its cache). Both start Python, read a data set, build and restore what a real run does.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # The repository, for a run as a script.

from benchmarks import timing  # noqa: E402

STEPS = 3  # Of a run.
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
  _run(["data.prepare", "--dataset=shapes", f"--data_dir={args.data_dir}"])
  found = {name: [] for name in ("cold_first", "cold_all", "warm_first", "warm_all")}
  for _ in range(args.rounds):
    with tempfile.TemporaryDirectory() as folder:
      for number, kind in enumerate(("cold", "warm")):
        first, whole = _train(args, pathlib.Path(folder) / "run", number * STEPS)
        found[f"{kind}_first"].append(first)
        found[f"{kind}_all"].append(whole)
        print(
          f"{kind}: first step after {first:.1f} s, {STEPS} steps, a checkpoint and the end {whole:.1f} s", flush=True
        )
  summary = timing.summarise(found)
  rows = [(kind, *(_spread(summary, f"{kind}_{what}") for what in ("first", "all"))) for kind in ("cold", "warm")]
  print("\n" + timing.table((f"{args.config}, s: median (min - max)", "to the first step", "to the end"), rows))
  if args.json:
    pathlib.Path(args.json).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(args.json).write_text(
      json.dumps({"settings": vars(args), "machine": machine, **summary}, indent=2) + "\n"
    )


def _train(args: argparse.Namespace, workdir: pathlib.Path, done: int) -> tuple[float, float]:
  """Seconds to the first further step, and to the end, of a run that goes on for STEPS steps after `done`."""
  total = done + STEPS
  metrics = workdir / "metrics.jsonl"
  started = time.monotonic()
  process = subprocess.Popen(
    _command(
      [
        "gcn_flax.main", f"--config={args.config}", f"--workdir={workdir}", f"--config.data.data_dir={args.data_dir}",
        f"--config.total_steps={total}", "--config.log_every_steps=1", f"--config.checkpoint_every_steps={total}",
        f"--config.eval_every_steps={1000 * total}",
      ]
    ),
    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
  )  # fmt: skip
  first = None
  while process.poll() is None:
    if first is None and metrics.exists() and any(f'"step": {done + 1},' in line for line in metrics.open()):
      first = time.monotonic() - started
    time.sleep(POLL_SECONDS)
  if process.returncode or first is None:
    sys.exit(f"error: the run ended with status {process.returncode}:\n{process.stderr.read()[-2000:]}")
  return first, time.monotonic() - started


def _command(arguments: list[str]) -> list[str]:
  return [sys.executable, "-m", *arguments]


def _run(arguments: list[str]) -> None:
  subprocess.run(_command(arguments), check=True, stdout=subprocess.DEVNULL)


def _spread(summary: dict, name: str) -> str:
  return f"{summary[f'{name}_s']:.1f} ({summary[f'{name}_min_s']:.1f} - {summary[f'{name}_max_s']:.1f})"


if __name__ == "__main__":
  main()
