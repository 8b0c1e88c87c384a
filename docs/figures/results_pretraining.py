"""Blocks of docs/figures/results.py about pretraining on silhouettes."""

import statistics
from collections.abc import Sequence

from docs.figures.results_format import load, measured_on, table

_ENCODERS = ("ResNet50-GCN", "ResNet-50")


def silhouettes() -> str:
  """Returns the accuracy of two encoders on silhouettes, by step."""
  found = load("pretraining")
  runs = found["silhouettes"]
  rows = []
  for name in _ENCODERS:
    pairs = zip(runs[name]["top1"], runs[name]["top5"], strict=True)
    rows.append((name, *(f"{top1:.1f} ({top5:.1f})" for top1, top5 in pairs), f"{runs[name]['minutes']}"))
  header = ("top-1, % (top-5) at step", *(f"{step:,}" for step in runs["steps"]), "minutes")
  return (
    f"\n{measured_on(found['machine'], found['date'])}, float32, seed 0, while the machine also did other work; "
    f"chance is 8.3 % (41.7 %).\n{table(header, rows)}"
  )


def camvid() -> str:
  """Returns what networks reach on CamVid from pretrained and from random encoders."""
  found = load("pretraining")
  rows = [
    (run["encoder"], run["start"], *_values(run["mean_iou"]), *_values(run["pixel_accuracy"]))
    for run in found["camvid"]
  ]
  header = (
    "encoder",
    "starts from",
    "mean IoU, %, each seed",
    "mean (deviation)",
    "pixel accuracy, %",
    "mean (deviation)",
  )
  return f"\n{measured_on(found['machine'], found['date'])}, float32; seeds 0, 1, 2.\n{table(header, rows)}"


def _values(values: Sequence[float]) -> tuple[str, str]:
  each = " / ".join(f"{value:.1f}" for value in values)
  return each, f"{statistics.mean(values):.1f} ({statistics.stdev(values):.1f})"
