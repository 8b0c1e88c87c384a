"""Trains what is missing of one of the paper's tables, and writes the table beside the paper's figures.

  python launch/ablation.py --table=1 --data=shapes --data_dir=runs/data
  python launch/ablation.py --table=1 --data=voc_segmentation --data_dir=DATA --seeds=1

Every cell is a run of configs/ablation.py in ROOT/DATA/NETWORK/seed<N>, one after the other; two cells of the same
network, also of different tables, are one run. Killed and given again, it goes on where it stood. Flags of the config,
such as --config.batch_size=8, are passed on to every run. Written are ROOT/DATA/table<N>.md and, where kernels grow,
table<N>.svg.
"""

import argparse
import contextlib
import ctypes
import fcntl
import json
import pathlib
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from configs import ablation  # noqa: E402
from gcn_flax import paper, writers  # noqa: E402
from gcn_flax.visualize import charts, overlay  # noqa: E402

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl.


def cells_of(table: int) -> list[str]:
  """The names of a table's cells."""
  return [name for name in ablation.CELLS if name.startswith(f"table{table}-")]


def workdir_of(root: pathlib.Path, data: str, cell: str, seed: int) -> pathlib.Path:
  """The workdir of a cell, named by its network."""
  model = ablation.get_config(f"{cell}:{data}").model
  parts = [*([model.backbone] if ablation.CELLS[cell]["backbone"] else []), model.head]
  parts += [] if model.head == "pointwise" else [f"k{model.kernel_size}"]
  parts += [f"w{model.stack_width}"] if model.stack_width else []
  parts += ["br"] if model.boundary_refine else []
  return root / data / "-".join(parts) / f"seed{seed}"


def scores(workdir: pathlib.Path) -> dict[str, Any] | None:
  """The scores of a run that was trained to its end; None where it was not."""
  settings, found = (_read(workdir / name) for name in ("config.json", "eval_validation.json"))
  return found if settings and found and found["step"] == settings["total_steps"] else None


def _read(path: pathlib.Path) -> dict[str, Any] | None:
  return json.loads(path.read_text()) if path.exists() else None


def run_cell(cell: str, data: str, seed: int, workdir: pathlib.Path, flags: Sequence[str]) -> None:
  """Trains a cell to its end, and scores it. Raises RuntimeError where that fails."""
  command = [
    sys.executable, "-m", "gcn_flax.main", f"--config=configs/ablation.py:{cell}:{data}", f"--workdir={workdir}",
    f"--config.seed={seed}", *flags,
  ]  # fmt: skip
  with _owned(workdir) as lock:
    found = scores(workdir)
    if not found:
      _start(command, lock)
      found = scores(workdir)
    if found and not _measures(cell) <= found.keys():  # Scored by an older version.
      _start([*command, "--mode=eval", "--checkpoint=last"], lock)


@contextlib.contextmanager
def _owned(workdir: pathlib.Path) -> Iterator[int]:
  """Waits until nobody else works in a workdir, the runs of a runner that was killed included."""
  workdir.mkdir(parents=True, exist_ok=True)
  with open(workdir / "lock", "w") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      print(f"waiting for another process to leave {workdir}", flush=True)
      fcntl.flock(file, fcntl.LOCK_EX)
    yield file.fileno()


def _start(command: Sequence[str], lock: int) -> None:
  """Runs a command, which holds the lock as long as it lives; a SIGTERM is passed on, and the run saves before it ends.

  Raises RuntimeError where it fails.
  """
  libc = ctypes.CDLL(None)
  child = subprocess.Popen(
    command,
    cwd=ROOT,
    pass_fds=(lock,),
    preexec_fn=lambda: libc.prctl(_DIE_WITH_PARENT, signal.SIGTERM) if hasattr(libc, "prctl") else None,
  )
  stopped = []

  def stop(number, _):
    stopped.append(number)
    child.terminate()

  before = signal.signal(signal.SIGTERM, stop)
  try:
    status = child.wait()
  finally:
    signal.signal(signal.SIGTERM, before)
  if stopped:
    raise SystemExit(128 + stopped[0])
  if status:
    raise RuntimeError(f"exit status {status} of: {' '.join(command)}")


def _measures(cell: str) -> set[str]:
  return {figure.measure for figure in paper.FIGURES if figure.cell == cell}


def run_table(table: int, data: str, root: pathlib.Path, seeds: int, flags: Sequence[str]) -> None:
  """Trains every cell with every seed, those of the first seed first. Raises RuntimeError where one fails."""
  waiting, runs = [], [(cell, seed) for seed in range(seeds) for cell in cells_of(table)]
  for cell, seed in runs:
    workdir = workdir_of(root, data, cell, seed)
    found = scores(workdir)
    if not found or not _measures(cell) <= found.keys():
      waiting.append((cell, seed, workdir))
  print(f"table {table} on {data}: {len(runs) - len(waiting)} of {len(runs)} runs are there", flush=True)
  started = time.monotonic()
  for index, (cell, seed, workdir) in enumerate(waiting):
    left = f", about {(time.monotonic() - started) / index * (len(waiting) - index) / 60:.0f} min left" if index else ""
    print(f"\nrun {index + 1} of {len(waiting)}: {cell}, seed {seed}{left}", flush=True)
    run_cell(cell, data, seed, workdir, flags)


def found_by_seed(table: int, data: str, root: pathlib.Path, seeds: int) -> Callable[[paper.Figure], list[float]]:
  """A function that gives the values, in percent, that were measured for a figure of the paper."""
  all_scores = {cell: [scores(workdir_of(root, data, cell, seed)) for seed in range(seeds)] for cell in cells_of(table)}
  return lambda figure: [100 * found[figure.measure] for found in all_scores[figure.cell] if found]


def markdown(table: int, data: str, root: pathlib.Path, seeds: int, command: str) -> str:
  """The table, with the commands and machines it comes from."""
  values = found_by_seed(table, data, root, seeds)
  lines = [
    f"Table {table} on {data}, measured by `{command}`; written on {time.strftime('%Y-%m-%d')}, "
    f"{_machines(table, data, root, seeds)}. The paper's figures are its printed ones, of VOC 2012 validation and "
    f"{'its two encoders' if table == 6 else 'ResNet-152'}.",
    "",
    "| network | figure | measured, %: mean (deviation) | of each seed | the paper, % |",
    "|---|---|---|---|---|",
  ]
  for figure in (figure for figure in paper.FIGURES if figure.table == table):
    measured = values(figure)
    mean = f"{statistics.mean(measured):.1f}" if measured else "-"
    deviation = f" ({statistics.stdev(measured):.1f})" if len(measured) > 1 else ""
    each = " / ".join(f"{value:.1f}" for value in measured)
    lines.append(
      f"| {figure.row} | {overlay.TITLES[figure.measure]} | {mean}{deviation} | {each} | {figure.value:.1f} |"
    )
  return "\n".join(lines) + "\n"


def _machines(table: int, data: str, root: pathlib.Path, seeds: int) -> str:
  runs = [_read(workdir_of(root, data, cell, seed) / "run.json") for cell in cells_of(table) for seed in range(seeds)]
  kinds = {f"{run['devices']['count']} x {run['devices']['kind']}" for run in runs if run}
  return (
    f"trained on {', '.join(sorted(kinds))} by commit {', '.join(sorted({str(run['commit']) for run in runs if run}))}"
  )


def chart(table: int, data: str, root: pathlib.Path, seeds: int) -> str | None:
  """Mean IoU against k as SVG, ours and the paper's; None for a table whose kernels do not grow."""
  values, series = found_by_seed(table, data, root, seeds), {}
  figures = [figure for figure in paper.FIGURES if figure.table == table]
  if len({figure.kernel_size for figure in figures}) < 3:
    return None
  for head in dict.fromkeys(figure.head for figure in figures):
    own = [figure for figure in figures if figure.head == head]
    name = own[0].row.split(", k")[0]
    measured = [(figure.kernel_size, values(figure)) for figure in own if values(figure)]
    if measured:
      means = [statistics.mean(found) for _, found in measured]
      deviations = [statistics.stdev(found) if len(found) > 1 else 0.0 for _, found in measured]
      series[f"{name}, measured on {data}"] = [k for k, _ in measured], means, deviations
    series[f"{name}, the paper on VOC"] = (
      [figure.kernel_size for figure in own], [figure.value for figure in own], [0.0] * len(own)
    )  # fmt: skip
  return charts.ranges(series, "k", "mean IoU, %")


def main(argv: Sequence[str]) -> int:
  """Trains, then writes the table; returns the exit status."""
  parser = argparse.ArgumentParser(prog="launch/ablation.py", description="One of the paper's tables.")
  parser.add_argument("--table", type=int, required=True, choices=range(1, 7))
  parser.add_argument("--data", default="voc_segmentation", choices=ablation.DATA)
  parser.add_argument("--data_dir", default="runs/data", help="where data.prepare wrote the data set")
  parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path("runs/ablation"), help="folder of the runs")
  parser.add_argument("--seeds", type=int, default=3, help="runs of each cell, 1 or more")
  options, flags = parser.parse_known_args(argv)
  unknown = [flag for flag in flags if not flag.startswith("--config.")]
  if unknown or options.seeds < 1:
    parser.error(f"unknown argument {unknown[0]!r}" if unknown else f"--seeds={options.seeds} must be at least 1")
  root = options.root.expanduser().absolute()
  data_dir = pathlib.Path(options.data_dir).expanduser().absolute()
  failed = None
  try:
    run_table(options.table, options.data, root, options.seeds, [f"--config.data.data_dir={data_dir}", *flags])
  except RuntimeError as error:
    failed = error
  command = " ".join(["python launch/ablation.py", *argv])
  text = markdown(options.table, options.data, root, options.seeds, command)
  (root / options.data).mkdir(parents=True, exist_ok=True)
  writers.write_text(root / options.data / f"table{options.table}.md", text)
  picture = chart(options.table, options.data, root, options.seeds)
  if picture:
    writers.write_text(root / options.data / f"table{options.table}.svg", picture)
  print(f"\n{text}\nwrote {root / options.data / f'table{options.table}.md'}", flush=True)
  if failed:
    print(f"error: the table is not complete: {failed}", file=sys.stderr)
  return 1 if failed else 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
