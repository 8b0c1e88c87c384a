"""Trains what is missing of one of the paper's tables, and writes the table beside the paper's figures.

  python launch/ablation.py --table=1 --data=shapes --data_dir=runs/data
  python launch/ablation.py --table=1 --data=voc_segmentation --data_dir=DATA --seeds=1

Every cell is a run of configs/ablation.py in ROOT/DATA/NETWORK/seed<N>, one after the other; two cells of the same
network, also of different tables, are one run. Killed and given again, it goes on where it stood. Flags of the config,
such as --config.batch_size=8, are passed on to every run, and must stay the same for all tables of a ROOT/DATA. The
paper starts from ImageNet's weights: --pretrained=resnet152=PATH, for Table 6 one for each of its encoders. Written
are ROOT/DATA/table<N>.md and, of all but Tables 4 and 6, table<N>.svg. The scores are those of the last step, not of
the best.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from configs import ablation  # noqa: E402
from gcn_flax import files  # noqa: E402
from gcn_flax.reporting import paper  # noqa: E402
from gcn_flax.visualize import charts, tables  # noqa: E402

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
  """The scores of the last step of a run, made as its settings say; None where there are none."""
  settings, found = (_read(workdir / name) for name in ("config.json", "eval_validation.json"))
  if not settings or not found or found["step"] != settings["total_steps"]:
    return None
  return found if found.get("eval") == settings["eval"] else None


def is_trained(workdir: pathlib.Path) -> bool:
  """Whether a run has come to its end."""
  settings = _read(workdir / "config.json")
  return bool(settings) and (workdir / "checkpoints" / str(settings["total_steps"])).is_dir()


def _read(path: pathlib.Path) -> dict[str, Any] | None:
  return json.loads(path.read_text()) if path.exists() else None


def run_cell(cell: str, data: str, seed: int, workdir: pathlib.Path, flags: Sequence[str]) -> None:
  """Trains a cell to its end, and scores it, as far as that is not done. Raises RuntimeError where that fails."""
  command = [
    sys.executable, "-m", "gcn_flax.main", f"--config=configs/ablation.py:{cell}:{data}", f"--workdir={workdir}",
    f"--config.seed={seed}", *flags,
  ]  # fmt: skip
  with _owned(workdir) as lock:
    if not is_trained(workdir):
      _start(command, lock)
    if is_trained(workdir) and not scores(workdir):  # Another checkpoint, or in another way, was scored last.
      _start([*command, "--mode=eval", "--checkpoint=last"], lock)
    if not scores(workdir):
      raise RuntimeError(f"{cell}, seed {seed}, was stopped before its end: {' '.join(command)}")


@contextlib.contextmanager
def _owned(workdir: pathlib.Path) -> Iterator[int]:
  """Waits until nobody else works in a workdir, the runs of a runner that was killed included."""
  workdir.mkdir(parents=True, exist_ok=True)
  with open(workdir / "ablation.lock", "w") as file:
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


def check_flags(folder: pathlib.Path, flags: Sequence[str]) -> None:
  """Notes with what flags the runs below a folder are made. Raises ValueError where they were begun with others."""
  path, now = folder / "flags.json", sorted(flags)
  before = _read(path)
  if before not in (None, now):
    raise ValueError(
      f"the runs in {folder} were begun with {' '.join(before) or 'no flags'}, now there are "
      f"{' '.join(now) or 'none'}: give the same ones, or take another --root."
    )
  folder.mkdir(parents=True, exist_ok=True)
  files.write(path, json.dumps(now) + "\n")


def run_table(
  table: int, data: str, root: pathlib.Path, seeds: int, flags: Sequence[str], pretrained: Mapping[str, str]
) -> None:
  """Trains every cell with every seed, those of the first seed first. Raises RuntimeError where one fails."""
  waiting, runs = [], [(cell, seed) for seed in range(seeds) for cell in cells_of(table)]
  for cell, seed in runs:
    workdir = workdir_of(root, data, cell, seed)
    if not scores(workdir):
      waiting.append((cell, seed, workdir))
  print(f"table {table} on {data}: {len(runs) - len(waiting)} of {len(runs)} runs are there", flush=True)
  started = time.monotonic()
  for index, (cell, seed, workdir) in enumerate(waiting):
    left = f", about {(time.monotonic() - started) / index * (len(waiting) - index) / 60:.0f} min left" if index else ""
    print(f"\nrun {index + 1} of {len(waiting)}: {cell}, seed {seed}{left}", flush=True)
    weights = pretrained.get(ablation.get_config(f"{cell}:{data}").model.backbone)
    run_cell(cell, data, seed, workdir, [*flags, *([f"--config.model.pretrained={weights}"] if weights else [])])


def found_by_seed(table: int, data: str, root: pathlib.Path, seeds: int) -> Callable[[paper.Figure], list[float]]:
  """A function that gives the values, in percent, that were measured for a figure of the paper."""
  all_scores = {cell: [scores(workdir_of(root, data, cell, seed)) for seed in range(seeds)] for cell in cells_of(table)}
  return lambda figure: [100 * found[figure.measure] for found in all_scores[figure.cell] if found]


def markdown(table: int, data: str, root: pathlib.Path, seeds: int, command: str) -> str:
  """The table, with the commands and machines it comes from."""
  values = found_by_seed(table, data, root, seeds)
  lines = [
    f"Table {table} on {data}, measured by `{command}`; written on {time.strftime('%Y-%m-%d')}, "
    f"{_facts(table, data, root, seeds)}. The paper's figures are its printed ones, of VOC 2012 validation and "
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
      f"| {figure.row} | {tables.TITLES[figure.measure]} | {mean}{deviation} | {each} | {figure.value:.1f} |"
    )
  return "\n".join(lines) + "\n"


def _facts(table: int, data: str, root: pathlib.Path, seeds: int) -> str:
  """How long, on what and by what the runs of a table were trained."""
  workdirs = [workdir_of(root, data, cell, seed) for cell in cells_of(table) for seed in range(seeds)]
  workdirs = [workdir for workdir in workdirs if scores(workdir)]
  settings, runs = ([_read(workdir / name) for workdir in workdirs] for name in ("config.json", "run.json"))
  steps = {f"{each['total_steps']:,} steps of {each['batch_size']} images" for each in settings}
  devices = {f"{run['devices']['count']} x {run['devices']['kind']}" for run in runs}
  commits = {str(run["commit"]) for run in runs}
  return f"{' or '.join(sorted(steps))} on {' or '.join(sorted(devices))} by commit {', '.join(sorted(commits))}"


def chart(table: int, data: str, root: pathlib.Path, seeds: int) -> str | None:
  """What a table shows as SVG: mean IoU against k, of Table 5 accuracy against distance; None for the others."""
  if table == 5:
    return _boundary_chart(data, root, seeds)
  values, series = found_by_seed(table, data, root, seeds), {}
  figures = [figure for figure in paper.FIGURES if figure.table == table and figure.cell]
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
    kernels, printed = [figure.kernel_size for figure in own], [figure.value for figure in own]
    series[f"{name}, the paper on VOC"] = kernels, printed, [0.0] * len(own)
  return charts.ranges(series, "k", "mean IoU, %")


def _boundary_chart(data: str, root: pathlib.Path, seeds: int) -> str | None:
  """Accuracy of the pixels within so many of a boundary, the mean over the seeds."""
  series = {}
  for figure in (figure for figure in paper.FIGURES if figure.table == 5 and figure.measure == "mean_iou"):
    found = [scores(workdir_of(root, data, figure.cell, seed)) for seed in range(seeds)]
    curves = [each["accuracy_within_pixels"] for each in found if each]
    if curves:
      pixels = [int(name) for name, value in curves[0].items() if value is not None]
      series[figure.row] = pixels, [100 * statistics.mean(curve[str(pixel)] for curve in curves) for pixel in pixels]
  distance = "distance from the nearest boundary, pixels"
  return charts.lines(series, distance, "accuracy, %", (6.2, 3.6)) if series else None


def main(argv: Sequence[str]) -> int:
  """Trains, then writes the table; returns the exit status."""
  parser = argparse.ArgumentParser(prog="launch/ablation.py", description="One of the paper's tables.")
  parser.add_argument("--table", type=int, required=True, choices=range(1, 7))
  parser.add_argument("--data", default="voc_segmentation", choices=ablation.DATA)
  parser.add_argument("--data_dir", default="runs/data", help="where data.prepare wrote the data set")
  parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path("runs/ablation"), help="folder of the runs")
  parser.add_argument("--seeds", type=int, default=3, help="runs of each cell, 1 or more")
  parser.add_argument(
    "--pretrained", action="append", default=[], metavar="BACKBONE=PATH", help="first weights of an encoder"
  )
  options, flags = parser.parse_known_args(argv)
  unknown = [flag for flag in flags if not flag.startswith("--config.")]
  unknown += [f"--pretrained={pair}" for pair in options.pretrained if "=" not in pair]
  if unknown or options.seeds < 1:
    parser.error(f"unknown argument {unknown[0]!r}" if unknown else f"--seeds={options.seeds} must be at least 1")
  pretrained = dict(pair.split("=", 1) for pair in options.pretrained)
  if options.data == "voc_segmentation" and not pretrained:
    print("WARNING: random weights; the paper starts from ImageNet's: --pretrained=resnet152=PATH", file=sys.stderr)
  root = options.root.expanduser().absolute()
  data_dir = pathlib.Path(options.data_dir).expanduser().absolute()
  try:
    check_flags(root / options.data, [*flags, *(f"--pretrained={pair}" for pair in options.pretrained)])
    return _run(options, root, [f"--config.data.data_dir={data_dir}", *flags], pretrained, argv)
  except (OSError, ValueError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 1


def _run(options: argparse.Namespace, root: pathlib.Path, flags: Sequence[str], pretrained, argv) -> int:
  table, data, seeds = options.table, options.data, options.seeds
  failed = None
  try:
    run_table(table, data, root, seeds, flags, pretrained)
  except RuntimeError as error:
    failed = error
  text = markdown(table, data, root, seeds, " ".join(["python launch/ablation.py", *argv]))
  files.write(root / data / f"table{table}.md", text)
  picture = chart(table, data, root, seeds)
  if picture:
    files.write(root / data / f"table{table}.svg", picture)
  print(f"\n{text}\nwrote {root / data / f'table{table}.md'}", flush=True)
  if failed:
    print(f"error: the table is not complete: {failed}", file=sys.stderr)
  return 1 if failed else 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
