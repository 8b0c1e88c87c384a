"""Trains the missing runs of one of the paper's tables, and writes the table beside the paper's figures.

  python launch/ablation.py --table=1 --data=shapes --data_dir=runs/data
  python launch/ablation.py --table=1 --data=voc_segmentation --data_dir=DATA --seeds=1

Each cell is a run of configs/ablation.py in ROOT/DATA/NETWORK/seed<N>. The runs follow one another; cells with the
same network share a run, also across tables. Ctrl-C and SIGTERM save the run of the moment and end the command with
status 75; repeat it to continue. A second Ctrl-C ends it at once. Config flags, such as --config.batch_size=8, are
passed on to every run and must be the same for all tables in ROOT/DATA. The paper starts from ImageNet weights:
--pretrained=resnet152=PATH, for Table 6 once for each of its encoders. Writes ROOT/DATA/table<N>.md and, except for
Tables 4 and 6, table<N>.svg. Metrics are those of the last step, not of the best one.
"""

import argparse
import contextlib
import ctypes
import json
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from configs import ablation  # noqa: E402
from gcn_flax import file_locks, files  # noqa: E402
from gcn_flax.distributed import STOPPED  # noqa: E402
from gcn_flax.interrupts import interruptible  # noqa: E402
from gcn_flax.messages import flag  # noqa: E402
from launch.ablation_table import cells_of, chart, final_metrics, markdown, read_json, workdir_of  # noqa: E402

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl.


class Stopped(Exception):
  """Says that a signal stopped the run of the moment, which has saved its state if it had one."""


def is_trained(workdir: pathlib.Path) -> bool:
  """Returns whether a run has reached its last step."""
  settings = read_json(workdir / "config.json")
  return bool(settings) and (workdir / "checkpoints" / str(settings["total_steps"])).is_dir()


def run_cell(cell: str, data: str, seed: int, workdir: pathlib.Path, flags: Sequence[str]) -> None:
  """Trains and evaluates a cell, as far as that is not done yet. Raises RuntimeError if that fails."""
  command = [
    sys.executable, "-m", "gcn_flax.main", f"--config=configs/ablation.py:{cell}:{data}", f"--workdir={workdir}",
    f"--config.seed={seed}", *flags,
  ]  # fmt: skip
  with _locked(workdir) as lock:
    if not is_trained(workdir):
      _run_command(command, lock)
    if is_trained(workdir) and not final_metrics(workdir):  # The last evaluation was of another step or setting.
      _run_command([*command, "--mode=eval", "--checkpoint=last"], lock)
    if not final_metrics(workdir):
      raise RuntimeError(f"{cell}, seed {seed}, was stopped before its last step: {shlex.join(command)}")


@contextlib.contextmanager
def _locked(workdir: pathlib.Path) -> Iterator[int]:
  """Waits until no other process works in a workdir, including runs whose runner was killed."""
  workdir.mkdir(parents=True, exist_ok=True)
  with open(workdir / "ablation.lock", "w") as file:
    try:
      file_locks.lock(file.fileno())
    except BlockingIOError:
      print(f"waiting for another process to leave {workdir}", flush=True)
      file_locks.lock(file.fileno(), wait=True)
    yield file.fileno()


def _run_command(command: Sequence[str], lock: int) -> None:
  """Runs a command that holds the lock while it lives; SIGTERM and SIGINT reach it as SIGTERM, so that it saves.

  Raises RuntimeError if it fails, Stopped after a signal.
  """
  libc = ctypes.CDLL(None)
  child = subprocess.Popen(
    command,
    cwd=ROOT,
    pass_fds=(lock,),
    preexec_fn=lambda: libc.prctl(_DIE_WITH_PARENT, signal.SIGTERM) if hasattr(libc, "prctl") else None,
  )
  stopped = []

  def stop(*_):
    stopped.append(True)
    child.terminate()

  before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
  try:
    status = child.wait()
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
  if stopped:
    raise Stopped
  if status:
    raise RuntimeError(f"exit status {status} of: {shlex.join(command)}")


def check_flags(folder: pathlib.Path, flags: Sequence[str]) -> None:
  """Records the flags of the runs in a folder. Raises ValueError if earlier runs there had other flags."""
  path, now = folder / "flags.json", sorted(flags)
  before = read_json(path)
  if before not in (None, now):
    raise ValueError(
      f"the runs in {folder} were begun with {' '.join(before) or 'no flags'}, but this command has "
      f"{' '.join(now) or 'none'}. Use the same flags or another --root."
    )
  folder.mkdir(parents=True, exist_ok=True)
  files.write(path, json.dumps(now) + "\n")


def run_table(
  table: int, data: str, root: pathlib.Path, seeds: int, flags: Sequence[str], pretrained: Mapping[str, str]
) -> None:
  """Runs every cell with every seed, all cells of the first seed first. Raises RuntimeError if one fails."""
  runs = [(cell, seed, workdir_of(root, data, cell, seed)) for seed in range(seeds) for cell in cells_of(table)]
  waiting = [run for run in runs if not final_metrics(run[-1])]
  print(f"table {table} on {data}: {len(runs) - len(waiting)} of {len(runs)} runs are complete", flush=True)
  started = time.monotonic()
  for index, (cell, seed, workdir) in enumerate(waiting):
    left = f", about {(time.monotonic() - started) / index * (len(waiting) - index) / 60:.0f} min left" if index else ""
    print(f"\nrun {index + 1} of {len(waiting)}: {cell}, seed {seed}{left}", flush=True)
    weights = pretrained.get(ablation.get_config(f"{cell}:{data}").model.backbone)
    run_cell(cell, data, seed, workdir, [*flags, *([f"--config.model.pretrained={weights}"] if weights else [])])


@interruptible
def main(argv: Sequence[str]) -> int:
  """Runs a table and writes it. Returns the exit status; `distributed.STOPPED` if a signal stopped a run, saved."""
  options, flags, pretrained = _parse(argv)
  if options.data == "voc_segmentation" and not pretrained:
    print(
      "WARNING: training from random weights; the paper starts from ImageNet's: --pretrained=resnet152=PATH",
      file=sys.stderr,
    )
  root = options.root.expanduser().absolute()
  data_dir = pathlib.Path(options.data_dir).expanduser().absolute()
  try:
    check_flags(root / options.data, [*flags, *(f"--pretrained={pair}" for pair in options.pretrained)])
    return _run(options, root, [f"--config.data.data_dir={data_dir}", *flags], pretrained, argv)
  except Stopped:
    print(f"stopped by a signal. To continue from here: {_command(argv)}", file=sys.stderr, flush=True)
    return STOPPED
  except (OSError, ValueError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 1


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str], dict[str, str]]:
  """Returns (options, config flags for every run, weights by backbone)."""
  parser = argparse.ArgumentParser(
    prog="launch/ablation.py",
    description="Trains the missing runs of one of the paper's tables, and writes the table. --config flags are passed "
    "on to every run.",
  )
  parser.add_argument("--table", type=int, required=True, choices=range(1, 7), help="number of the table in the paper")
  parser.add_argument(
    "--data", default="voc_segmentation", choices=ablation.DATA, help="data set (default: %(default)s)"
  )
  parser.add_argument("--data_dir", default="runs/data", help="--data_dir of data.prepare (default: %(default)s)")
  parser.add_argument(
    "--root", type=pathlib.Path, default="runs/ablation", help="folder for the runs (default: %(default)s)"
  )
  parser.add_argument("--seeds", type=int, default=3, help="number of runs per cell (default: %(default)s)")
  parser.add_argument(
    "--pretrained",
    action="append",
    default=[],
    metavar="BACKBONE=PATH",
    help="weights of an encoder; repeatable",
  )
  options, flags = parser.parse_known_args(argv)
  for argument in flags:
    if not argument.startswith("--config."):
      parser.error(f"{argument}: unknown argument. Fields of the config are --config.FIELD=VALUE.")
  for pair in options.pretrained:
    if "=" not in pair:
      parser.error(f"--pretrained={pair}: must be BACKBONE=PATH, for instance resnet152=resnet152.safetensors")
    backbone, path = pair.split("=", 1)
    trained = {ablation.get_config(f"{cell}:{options.data}").model.backbone for cell in cells_of(options.table)}
    if backbone not in trained:
      fix = " or ".join(sorted(flag("pretrained", f"{name}={path}") for name in trained))
      parser.error(f"--pretrained={pair}: table {options.table} on {options.data} trains no {backbone}. Use {fix}.")
  if options.seeds < 1:
    parser.error(f"--seeds={options.seeds}: must be at least 1")
  return options, flags, dict(pair.split("=", 1) for pair in options.pretrained)


def _command(argv: Sequence[str]) -> str:
  return shlex.join(["python", "launch/ablation.py", *argv])


def _run(
  options: argparse.Namespace, root: pathlib.Path, flags: Sequence[str], pretrained: Mapping[str, str], argv
) -> int:
  table, data, seeds = options.table, options.data, options.seeds
  failed = None
  try:
    run_table(table, data, root, seeds, flags, pretrained)
  except RuntimeError as error:
    failed = error
  text = markdown(table, data, root, seeds, _command(argv))
  files.write(root / data / f"table{table}.md", text)
  picture = chart(table, data, root, seeds)
  if picture:
    files.write(root / data / f"table{table}.svg", picture)
  print(f"\n{text}\nwrote {root / data / f'table{table}.md'}", flush=True)
  if failed:
    print(f"error: the table is incomplete: {failed}", file=sys.stderr)
  return 1 if failed else 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
