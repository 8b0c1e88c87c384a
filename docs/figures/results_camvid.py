"""Blocks of docs/figures/results.py about CamVid."""

import re
import statistics
from typing import Any

from docs.figures.results_format import load, measured_on, provenance, read_all, table
from gcn_flax.reporting.rendering import percent

_TOTALS = ("mean_iou", "pixel_accuracy")
_VIEWS = {"evaluation": "one view", "evaluation_tta": "TTA: scales 0.75, 1, 1.25 and flips"}


def gpu() -> str:
  """Returns what ResNet-50 reached on a GPU: by step, with TTA, in a shorter run, and by class."""
  run, short = load("camvid_resnet50"), load("camvid_resnet50_short")
  speed = statistics.median(line["images_per_second"] for line in run["metrics"])
  lines = [line for line in run["metrics"] if "validation/mean_iou" in line]
  last = {name.removeprefix("validation/"): value for name, value in lines.pop().items()}
  rows = [_row(f"{line['step']:,}", run, *(line[f"validation/{name}"] for name in _TOTALS)) for line in lines]
  rows.append(_row(f"{last['step']:,}, end of the schedule", run, *(last[name] for name in _TOTALS)))
  tta = run["evaluation_tta"]
  rows.append(_row(f"{tta['step']:,}, {_VIEWS['evaluation_tta']}", run, *(tta[name] for name in _TOTALS)))
  other = short["evaluation"]
  title = f"{other['step']:,}, end of the schedule of a shorter run"
  rows.append(_row(title, short, *(other[name] for name in _TOTALS)))
  return (
    f"\nOne {run['devices']['kind']}, bfloat16, seed 0, jax {run['versions']['jax']}, {run['started'][:10]}, commit "
    f"{run['commit'][:7]}; {speed:.0f} images/s, median of the {len(run['metrics'])} lines of the log.\n"
    f"{table(('step', 'learning rate', 'mean IoU, %', 'pixel accuracy, %'), rows)}"
    f"{_by_class(run)}Within 7 pixels of a boundary {percent(last['boundary_accuracy'])} % of the pixels are right, "
    f"elsewhere {percent(last['internal_accuracy'])} % (one view).\n"
  )


def _row(title: str, run: dict[str, Any], *values: float) -> tuple[str, ...]:
  rate = re.search(r"optimizer\.learning_rate=(\S+)", run["command"])
  return title, rate[1], *map(percent, values)


def _by_class(run: dict[str, Any]) -> str:
  classes = run["evaluation"]["iou"]
  rows = [(title, *map(percent, (run[name]["mean_iou"], *run[name]["iou"].values()))) for name, title in _VIEWS.items()]
  return table(("IoU, %", "mean", *classes), rows)


def gpu_in_short() -> str:
  """Returns what ResNet-50 reached on a GPU, by class."""
  run = load("camvid_resnet50")
  kind, day = run["devices"]["kind"], run["started"][:10]
  return f"{_by_class(run)}One {kind}, bfloat16, one seed, {day}.\n"


def cpu() -> str:
  """Returns mean IoU by step and IoU by class of the runs on a CPU."""
  runs = read_all("camvid_cpu_*.json")
  steps = sorted({each["step"] for run in runs.values() for each in run["evaluations"]})
  curves, classes = [], []
  for run in runs.values():
    scores = {each["step"]: each["mean_iou"] for each in run["evaluations"]}
    config = run["config"]
    title = f"{config['model']['backbone']}, rate {config['optimizer']['learning_rate']:g}, seed {config['seed']}"
    curves.append((title, *(percent(scores.get(step)) for step in steps)))
    last = run["last"]
    losses = (f"{[*run['losses'].values()][-1]:.2f}", f"{last['loss']:.2f}")
    classes.append((title, *map(percent, last["iou"].values()), *(percent(last[each]) for each in _TOTALS), *losses))
  names = list(next(iter(runs.values()))["last"]["iou"])
  return (
    f"\n{provenance(runs.values())}. Mean IoU on validation, %, by step:\n"
    + table(("run", *(f"{step:,}" for step in steps)), curves)
    + "IoU of each class at the last step, %:\n"
    + table(("run", *names, "mean", "pixel accuracy", "training loss, last 50 steps", "validation loss"), classes)
  )


def search() -> str:
  """Returns the recipes that were tried, best first, for each encoder."""
  return "".join(map(_search, ("recipe_search_camvid", "recipe_search_camvid_resnet18")))


def _search(name: str) -> str:
  found = load(name)
  settings, trials = found["settings"], sorted(found["trials"], key=lambda trial: -trial["mean_iou"])
  classes = list(trials[0]["iou"])
  columns = ("mean_iou_halfway", *_TOTALS)
  rows = [
    (trial["name"], *(percent(trial[each]) for each in columns), *(percent(trial["iou"][each]) for each in classes))
    for trial in trials
  ]
  steps = settings["steps"]
  header = ("recipe", f"mIoU, %, step {steps // 2}", f"step {steps}", "pixel accuracy, %", *classes)
  return (
    f"\n`{settings['backbone']}`, {steps} steps of 8 crops, seed {settings['seed']}; "
    f"{measured_on(found['machine'])}:\n{table(header, rows)}"
  )
