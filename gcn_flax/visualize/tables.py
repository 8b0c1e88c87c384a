"""Text tables of an evaluation, and the titles of its metrics."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gcn_flax.printable import printable

TITLES = {  # From a metric's key in `eval_<split>.json` to its name in tables, charts and the report.
  "mean_iou": "mean IoU",
  "pixel_accuracy": "pixel accuracy",
  "mean_accuracy": "mean accuracy",
  "frequency_weighted_iou": "frequency-weighted IoU",
  "boundary_accuracy": "boundary accuracy",
  "internal_accuracy": "internal accuracy",
  "boundary_iou": "boundary IoU",
  "mean_category_iou": "category IoU",
  "mean_instance_iou": "iIoU",
  "mean_category_instance_iou": "category iIoU",
  "top1": "top-1",
  "top5": "top-5",
}


def class_table(
  classes: Sequence[str], iou: Sequence[float], share: Sequence[float], totals: Mapping[str, float]
) -> str:
  """Formats IoU and share of the valid pixels of each class, then the metrics of the whole split.

  Args:
    classes: names.
    iou: one for each class, 0 to 1; NaN, shown as `-`, where the class is absent.
    share: share of the valid pixels, one for each class, 0 to 1.
    totals: keys of `TITLES` -> value, 0 to 1 or NaN.
  """
  classes = [printable(name) for name in classes]
  width = max(map(len, [*classes, *map(TITLES.get, totals)]))
  lines = [f"{'class':<{width}}  {'IoU %':>6}  {'pixels %':>8}"]
  for name, value, part in zip(classes, iou, share, strict=True):
    lines.append(f"{name:<{width}}  {_percent(value):>6}  {100 * part:>8.2f}")
  lines += [f"{TITLES[name]:<{width}}  {_percent(value):>6}" for name, value in totals.items()]
  return "\n".join(lines)


def accuracy_table(
  classes: Sequence[str],
  accuracy: Sequence[float],
  num_images: Sequence[int],
  totals: Mapping[str, float],
  max_classes: int,
) -> str:
  """Formats top-1 accuracy and number of images of the least accurate classes, then the metrics of the whole split.

  Args:
    classes: names.
    accuracy: one for each class, 0 to 1; classes without an image are left out.
    num_images: one for each class.
    totals: keys of `TITLES` -> value, 0 to 1 or NaN.
    max_classes: number of classes to list.
  """
  classes = [printable(name) for name in classes]
  width = max(map(len, ["class", *classes, *map(TITLES.get, totals)]))
  present = [index for index in range(len(classes)) if num_images[index]]
  listed = sorted(present, key=lambda index: accuracy[index])[:max_classes]
  lines = [f"{'class':<{width}}  {'top-1 %':>7}  {'images':>8}"]
  for index in listed:
    lines.append(f"{classes[index]:<{width}}  {_percent(accuracy[index]):>7}  {num_images[index]:>8,}")
  if len(present) > max_classes:
    lines.append(f"... and {len(present) - max_classes} classes with higher accuracy")
  lines += [f"{TITLES[name]:<{width}}  {_percent(value):>7}" for name, value in totals.items()]
  return "\n".join(lines)


def receptive_field_table(result: Mapping[str, Any]) -> str:
  """Formats the content of `receptive_field.json`, see `gcn_flax.explain`."""
  pixel = "the centre pixel" if result["pixel"] is None else "pixel {},{}".format(*result["pixel"])
  outside, radii = ("mass_outside_radius", "radius_of_mass")
  header = ["network", *(f"{radius} px" for radius in result["uniform"][outside])]
  header += [f"{100 * float(share):.0f} %" for share in result["uniform"][radii]]
  measured = {f"{name}: {each['network']}": each for name, each in result["networks"].items()}
  measured["every pixel alike"] = result["uniform"]
  rows = [header]
  for name, each in measured.items():
    rows.append([name, *(f"{100 * share:.1f}" for share in each[outside].values()), *map(str, each[radii].values())])
  count = result["num_pictures"]
  title = f"receptive field of {pixel}, mean of {count} picture{'s' if count > 1 else ''} ({result['pictures']}):"
  note = "share of the gradient outside of a radius, in %; then the radius that holds a share of it, in pixels"
  return "\n".join([printable(title), note, aligned(rows)])


def label_errors_table(result: Mapping[str, Any], max_rows: int) -> str:
  """Formats the first rows of the content of `label_errors_<split>.json`, see `gcn_flax.label_errors`."""
  rows = [["", "score", "pixels", "labelled", "predicted", "row, column", "image"]]
  for number, each in enumerate(result["regions"][:max_rows], 1):
    top, left, bottom, right = each["box"]
    place = f"{(top + bottom) // 2}, {(left + right) // 2}"
    row = [f"{each['score']:.0f}", f"{each['pixels']:,}", each["labelled"], each["predicted"], place, each["image_id"]]
    rows.append([str(number), *row])
  title = (
    f"{result['dataset']} {result['split']}, step {result['step']}: {result['num_regions']:,} regions in "
    f"{len(result['images']):,} of {result['num_images']:,} images contradict their masks"
  )
  return "\n".join([printable(title), *([aligned(rows, left=(3, 4, 6))] if result["regions"] else [])])


def aligned(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
  """Formats rows of cells as columns, two spaces apart; `left` numbers the columns that are aligned on the left."""
  rows = [[printable(cell) for cell in row] for row in rows]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = []
  for row in rows:
    cells = zip(row, widths, strict=True)
    lines.append(
      "  ".join(cell.ljust(width) if index in left else cell.rjust(width) for index, (cell, width) in enumerate(cells))
    )
  return "\n".join(line.rstrip() for line in lines)


def _percent(value: float) -> str:
  return "-" if np.isnan(value) else f"{100 * value:.1f}"
