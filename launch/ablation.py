"""Trains the missing runs of one of the paper's tables, and writes the table beside the paper's figures.

  python launch/ablation.py --table=1 --data=shapes --data_dir=runs/data
  python launch/ablation.py --table=1 --data=voc_segmentation --data_dir=DATA --seeds=1

Each cell is a run of configs/ablation.py in ROOT/DATA/NETWORK/seed<N>. The runs follow one another; cells with the
same network share a run, also across tables; --cells=base,k3,k15 trains only these. ROOT/DATA/NETWORK-seed<N>.json
records what a finished run reached; a cell with a record of the same config is not trained again, so that a table can
grow over time and on several machines. With --records=DIR the records are kept there instead. Ctrl-C and SIGTERM save
the run of the moment and end the command with status 75; repeat it to continue. A second Ctrl-C ends it at once. Config
flags, such as --config.batch_size=8, are passed on to every run and must be the same for all tables in ROOT/DATA. The
paper starts from ImageNet weights: --pretrained=resnet152=PATH, for Table 6 once for each of its encoders. Writes
ROOT/DATA/table<N>.md and, except for Tables 4 and 6, table<N>.svg. Metrics are those of the last step, not of the best
one.
"""

import argparse
import json
import pathlib
import shlex
import sys
import time
from collections.abc import Mapping, Sequence

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from configs import ablation  # noqa: E402
from gcn_flax import files, json_files  # noqa: E402
from gcn_flax.distributed import STOPPED  # noqa: E402
from gcn_flax.interrupts import interruptible  # noqa: E402
from gcn_flax.messages import flag, use_one_of  # noqa: E402
from launch.ablation_run import Run  # noqa: E402
from launch.ablation_table import cells_of, chart, markdown  # noqa: E402
from launch.child_process import Stopped  # noqa: E402


def check_flags(folder: pathlib.Path, flags: Sequence[str]) -> None:
  """Records the flags of the runs in a folder. Raises ValueError if earlier runs there had other flags."""
  path, now = folder / "flags.json", sorted(flags)
  before = json_files.read(path, [str], "Put it back, or use another --root.") if path.exists() else None
  if before not in (None, now):
    raise ValueError(
      f"the runs in {folder} were begun with {' '.join(before) or 'no flags'}, but this command has "
      f"{' '.join(now) or 'none'}. Use the same flags or another --root."
    )
  folder.mkdir(parents=True, exist_ok=True)
  files.write(path, json.dumps(now) + "\n")


def train_missing(runs: Sequence[Run]) -> None:
  """Trains every run that has no record. Raises RuntimeError if one fails."""
  waiting = [run for run in runs if not run.record()]
  print(f"{len(runs) - len(waiting)} of {len(runs)} runs are complete", flush=True)
  started = time.monotonic()
  for index, run in enumerate(waiting):
    left = f", about {(time.monotonic() - started) / index * (len(waiting) - index) / 60:.0f} min left" if index else ""
    print(f"\nrun {index + 1} of {len(waiting)}: {run.cell}, seed {run.seed}{left}", flush=True)
    run.train()
    run.record()


@interruptible
def main(argv: Sequence[str]) -> int:
  """Runs a table and writes it. Returns the exit status; `distributed.STOPPED` if a signal stopped a run, saved."""
  options, flags, pretrained = _parse(argv)
  if options.data == "voc_segmentation" and not pretrained:
    print(
      "WARNING: training from random weights; the paper starts from ImageNet's: --pretrained=resnet152=PATH",
      file=sys.stderr,
    )
  try:
    return _run(options, flags, pretrained, argv)
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
  parser.add_argument("--cells", default="", metavar="NAMES", help="cells of the table, such as base,k3 (default: all)")
  parser.add_argument("--data_dir", default="runs/data", help="--data_dir of data.prepare (default: %(default)s)")
  parser.add_argument(
    "--root", type=pathlib.Path, default="runs/ablation", help="folder for the runs (default: %(default)s)"
  )
  parser.add_argument("--records", type=pathlib.Path, help="folder for the records of finished runs (default: ROOT)")
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
  names = [name.removeprefix(f"table{options.table}-") for name in cells_of(options.table)]
  options.cells = [name.strip() for name in options.cells.split(",") if name.strip()] or names
  for name in options.cells:
    if name not in names:
      parser.error(f"{flag('cells', name)}: unknown in table {options.table}. {use_one_of(name, names)}.")
  if options.seeds < 1:
    parser.error(f"--seeds={options.seeds}: must be at least 1")
  return options, flags, dict(pair.split("=", 1) for pair in options.pretrained)


def _command(argv: Sequence[str]) -> str:
  return shlex.join(["python", "launch/ablation.py", *argv])


def _run(options: argparse.Namespace, flags: Sequence[str], pretrained: Mapping[str, str], argv: Sequence[str]) -> int:
  table, data, root = options.table, options.data, options.root.expanduser().absolute()
  records = (options.records or root).expanduser().absolute()
  check_flags(root / data, [*flags, *(f"--pretrained={pair}" for pair in options.pretrained)])
  data_dir = pathlib.Path(options.data_dir).expanduser().absolute()
  cells = [f"table{table}-{name}" for name in options.cells]

  def run_of(cell: str, seed: int) -> Run:
    weights = pretrained.get(ablation.get_config(f"{cell}:{data}").model.backbone)
    own = [f"--config.model.pretrained={weights}"] if weights else []
    return Run(cell, data, seed, root, records, (f"--config.data.data_dir={data_dir}", *flags, *own))

  runs = [run_of(cell, seed) for seed in range(options.seeds) for cell in cells]
  print(f"table {table} on {data}: ", end="")
  failed = None
  try:
    train_missing(runs)
  except RuntimeError as error:
    failed = error
  found = {(run.cell, run.seed): record for run in runs if (record := run.record())}
  text = markdown(table, data, found, _command(argv))
  files.write(root / data / f"table{table}.md", text)
  picture = chart(table, data, found)
  if picture:
    files.write(root / data / f"table{table}.svg", picture)
  print(f"\n{text}\nwrote {root / data / f'table{table}.md'}", flush=True)
  if failed:
    print(f"error: the table is incomplete: {failed}", file=sys.stderr)
  return 1 if failed else 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
