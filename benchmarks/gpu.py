"""Runs the benchmarks of a GPU one after the other, each in a process of its own and under a time limit.

    benchmarks/gpu.sh --data_dir=DATA --out=runs/gpu

Most important first, so that ten minutes on a borrowed GPU suffice; --only= picks rows, and rows that an earlier call
measured are kept. OUT/gpu.json and OUT/gpu.md, the Markdown of docs/PERFORMANCE.md, are written after every row, and
list what was not measured and why. OUT/ROW.json has all figures of a row, as far as it came.

Rows: compile (the train step by torch.compile, which compiles for minutes), step (ours beside PyTorch eager), start
(training started cold and warm, its rate and the share of time it waits for input, on CamVid, or on generated scenes
where CamVid is not prepared), parts, evaluation, fused (the step with Boundary Refinement as one Pallas
operation), fused_parts (that alone), reference (the step without channel padding), voc (start, on VOC), inference,
step_800, compile_800, step_resnet152 and compile_resnet152.

Prepare data on another machine (`python -m data.prepare --dataset=camvid ...`, which needs TensorFlow) and copy it.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import gpu_report, script  # noqa: E402

MIN_SECONDS = 20  # With less time left, no row is begun.
KILL_SECONDS = 20  # For a row to end after SIGTERM.
# Neither evaluation nor checkpoints while the rate is measured.
_ENDLESS = (
  "--config.total_steps=1000000",
  "--config.eval_every_steps=1000000",
  "--config.checkpoint_every_steps=1000000",
)
_RECIPES = {  # Data set -> recipe and what it changes.
  "camvid": ("--config=configs/camvid.py:resnet50",),
  "voc_segmentation": (
    "--config=configs/pascal_voc.py:stage3:modern",
    "--config.init_from=",
    "--config.model.norm=sync",
  ),
  "shapes": ("--config=configs/quickstart.py", "--config.model.boundary_refine=True"),
}


@dataclasses.dataclass(frozen=True)
class Row:
  """One benchmark.

  Attributes:
    name: name for --only.
    limit: seconds that it may take.
    command: script in this folder with its flags.
    missing: why it cannot be measured; "" if it can.
  """

  name: str
  limit: int
  command: Sequence[str]
  missing: str = ""


def rows(small: bool, data_dir: pathlib.Path) -> list[Row]:
  """Returns all rows in order of importance; `small` ones are for trying the script on a CPU."""
  network = ("--backbone=resnet_tiny", "--kernel_size=3") if small else ("--backbone=resnet50", "--kernel_size=15")
  sizes = ("--size=64", "--batch=1", "--repeats=1") if small else ("--size=512", "--batch=16")
  larger = ("--size=96", "--batch=1", "--repeats=1") if small else ("--size=800", "--batch=8")
  deep = ("--backbone=resnet18" if small else "--backbone=resnet152", network[1])

  def step(rivals: str, *flags: str, kinds: str = "train") -> Sequence[str]:
    return ("step.py", f"--rivals={rivals}", f"--kinds={kinds}", *(flags or (*network, *sizes)))

  def needs(dataset: str) -> str:
    return "" if (data_dir / dataset).is_dir() else f"{dataset} is not prepared in {data_dir}"

  rivals = "ours,torch_eager,torch_channels_last"
  first = "shapes" if needs("camvid") else "camvid"
  images = "--images=1" if small else "--images=16"
  return [
    Row("compile", 300, step("torch_compile")),
    Row("step", 240, step(rivals)),
    Row("start", 300, start(first, small, data_dir)),
    Row("parts", 240, ("parts.py", *network, *sizes, "--parts=BR,deconvolution,head2,loss,stem,max-pool")),
    Row("evaluation", 180, ("evaluation.py", *network, images, "--cases=0", *_dtype(small))),
    Row("fused", 180, step("ours_fused")),
    Row("fused_parts", 180, ("parts.py", *network, *sizes, "--parts=BR", "--fused")),
    Row("reference", 180, step("ours_plain")),
    Row("voc", 300, start("voc_segmentation", small, data_dir), needs("voc_segmentation")),
    Row("inference", 240, step(rivals, kinds="inference")),
    Row("step_800", 300, step(rivals, *network, *larger)),
    Row("compile_800", 300, step("torch_compile", *network, *larger)),
    Row("step_resnet152", 400, step(rivals, *deep, *sizes)),
    Row("compile_resnet152", 600, step("torch_compile", *deep, *sizes)),
  ]


def start(dataset: str, small: bool, data_dir: pathlib.Path) -> Sequence[str]:
  """Returns the command that trains on a data set."""
  length = ("--steps=5",) if small else ("--steps=250", "--config.batch_size=16", "--config.model.dtype=bfloat16")
  backbone = f"--config.model.backbone={'resnet_tiny' if small else 'resnet50'}"
  threads = f"--config.data.num_threads={script.num_cores()}"
  flags = (f"--data_dir={data_dir}", "--rounds=1", backbone, *length, *_ENDLESS, threads)
  return ("startup.py", *_RECIPES[dataset], *flags)


def _dtype(small: bool) -> Sequence[str]:
  return () if small else ("--dtype=bfloat16",)


def main(argv: Sequence[str]) -> int:
  """Runs the rows; returns 1 if one of them failed."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--data_dir", default="runs/data", help="folder of prepared data (default: %(default)s)")
  parser.add_argument("--out", default="runs/gpu", help="folder of the results (default: %(default)s)")
  parser.add_argument("--only", default="", help="rows to measure, in their order here (default: all)")
  parser.add_argument("--minutes", type=float, default=10.0, help="time for all rows (default: %(default)s)")
  parser.add_argument("--small", action="store_true", help="tiny networks and images, to try the script on a CPU")
  args = parser.parse_args(argv)
  known = rows(args.small, pathlib.Path(args.data_dir))
  only = args.only.split(",") if args.only else [row.name for row in known]
  if not set(only) <= {row.name for row in known}:
    parser.error(f"--only={args.only}: unknown row. Choose from {','.join(row.name for row in known)}")
  out = pathlib.Path(args.out)
  out.mkdir(parents=True, exist_ok=True)
  path = out / "gpu.json"
  results = json.loads(path.read_text()) if path.exists() else {}
  results = {row.name: results.get(row.name, {"status": "not chosen"}) for row in known}
  end = time.monotonic() + 60 * args.minutes
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # So that the row in progress is stopped too.
  results |= {name: {"status": "not reached"} for name in only if results[name]["status"] != "measured"}
  for row in sorted((row for row in known if row.name in only), key=lambda row: only.index(row.name)):
    left = end - time.monotonic()
    if row.missing:
      results[row.name] = {"status": row.missing}
    elif left >= MIN_SECONDS:
      results[row.name] = _run(row, min(row.limit, left), out)
    print(f"== {row.name}: {results[row.name]['status']}", flush=True)
    script.write_json(path, results)
    (out / "gpu.md").write_text(gpu_report.markdown(results))
  print(f"\n{(out / 'gpu.md').read_text()}\nWritten to {out}/gpu.json and {out}/gpu.md.")
  return int(any(results[name]["status"].startswith("failed") for name in only))


def _run(row: Row, limit: float, out: pathlib.Path) -> dict:
  """Returns the status of a row, the seconds it took and its figures, as far as it came."""
  path = (out / f"{row.name}.json").resolve()
  path.unlink(missing_ok=True)
  script_name, *flags = row.command
  command = [sys.executable, "-u", str(ROOT / "benchmarks" / script_name), *flags, f"--json={path}"]
  print(f"\n== {row.name}, at most {limit:.0f} s: {' '.join((script_name, *flags))}", flush=True)
  started = time.monotonic()
  # A session of its own, so that a row that takes too long is stopped with the processes that it started.
  process = subprocess.Popen(command, start_new_session=True)
  try:
    status = process.wait(limit)
    status = f"failed with status {status}" if status else "measured"
  except subprocess.TimeoutExpired:
    status = f"stopped after {limit:.0f} s"
  finally:
    _stop(process)
  result = {"status": status, "seconds": time.monotonic() - started}
  return result | ({"figures": json.loads(path.read_text())} if path.exists() else {})


def _stop(process: subprocess.Popen) -> None:
  for number, seconds in ((signal.SIGTERM, KILL_SECONDS), (signal.SIGKILL, None)):
    if process.poll() is not None:
      return
    os.killpg(process.pid, number)
    try:
      process.wait(seconds)
    except subprocess.TimeoutExpired:
      continue


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
