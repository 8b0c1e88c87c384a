"""Writes the tables of README.md and docs/RESULTS.md that are marked `results:` from the files in docs/runs.

  python docs/figures/results.py

A block begins with `<!-- results: NAME -->` and ends with `<!-- end -->`; its content is that of the function `NAME` in
`BLOCKS`.
"""

import json
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import timing  # noqa: E402
from gcn_flax.reporting.rendering import percent  # noqa: E402

PAGES = ("README.md", "docs/RESULTS.md")
_RUNS = ROOT / "docs" / "runs"
_BLOCK = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
  """Writes the blocks of all pages."""
  for page in PAGES:
    path = ROOT / page
    path.write_text(refreshed(path.read_text()))


def refreshed(text: str) -> str:
  """Returns a page with the content of its blocks written anew. Raises KeyError for a block of unknown name."""
  return _BLOCK.sub(lambda match: f"{match[1]}{BLOCKS[match[2]]()}{match[3]}", text)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  return f"\n{timing.table(header, rows)}\n\n"


def _load(name: str) -> dict[str, Any]:
  return json.loads((_RUNS / f"{name}.json").read_text())


def _where(machine: dict[str, Any], date: str) -> str:
  return f"{machine['cores']} cores of an {machine['cpu']} CPU, {date[:10]}"


def camvid_search() -> str:
  """Returns the table of recipes that were tried on CamVid, best first."""
  found = _load("recipe_search_camvid")
  settings, trials = found["settings"], sorted(found["trials"], key=lambda trial: -trial["mean_iou"])
  classes = list(trials[0]["iou"])
  rows = [
    (trial["name"], *(percent(trial[name]) for name in _SEARCHED), *(percent(trial["iou"][name]) for name in classes))
    for trial in trials
  ]
  steps = settings["steps"]
  header = ("recipe", f"mIoU, %, step {steps // 2}", f"step {steps}", "pixel accuracy, %", *classes)
  return (
    f"\n`{settings['backbone']}`, {steps} steps of 8 crops, seed {settings['seed']}; "
    f"{_where(found['machine'], found['machine']['date'])}:\n{_table(header, rows)}"
  )


_SEARCHED = ("mean_iou_halfway", "mean_iou", "pixel_accuracy")


def camvid_cpu() -> str:
  """Returns mean IoU by step and IoU by class of the runs on CamVid on a CPU."""
  runs = {path.stem.removeprefix("camvid_cpu_"): _load(path.stem) for path in sorted(_RUNS.glob("camvid_cpu_*.json"))}
  steps = sorted({each["step"] for run in runs.values() for each in run["evaluations"]})
  curves, classes = [], []
  for name, run in runs.items():
    scores = {each["step"]: each["mean_iou"] for each in run["evaluations"]}
    title = f"{name.rsplit('_', 1)[0]}, seed {run['config']['seed']}"
    curves.append((title, *(percent(scores.get(step)) for step in steps)))
    last = run["last"]
    classes.append((title, *map(percent, last["iou"].values()), *(percent(last[each]) for each in _LAST)))
  names = list(next(iter(runs.values()))["last"]["iou"])
  first = next(iter(runs.values()))
  return (
    f"\n{_where(first['machine'], first['starts'][0]['time'])}, float32. Mean IoU on validation, %, by step:\n"
    + _table(("run", *(f"{step:,}" for step in steps)), curves)
    + "IoU of each class at the last step, %:\n"
    + _table(("run", *names, "mean", "pixel accuracy"), classes)
  )


_LAST = ("mean_iou", "pixel_accuracy")
BLOCKS: dict[str, Callable[[], str]] = {"camvid_cpu": camvid_cpu, "camvid_search": camvid_search}


if __name__ == "__main__":
  main()
