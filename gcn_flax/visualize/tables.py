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
  rows = {printable(f"{name}  {each['network']}"): each for name, each in result["networks"].items()}
  rows["every pixel alike"] = result["uniform"]
  width = max(map(len, rows))
  radii, shares = (list(result["uniform"][key]) for key in ("mass_outside_radius", "radius_of_mass"))
  lines = [
    f"effective receptive field of {pixel}, mean of {result['num_pictures']} pictures ({printable(result['pictures'])})",
    f"{'':<{width}}  {'gradient outside, %':^{9 * len(radii) - 2}}  {'radius of gradient, px':^{9 * len(shares) + 3}}",
    "  ".join(
      [
        f"{'network':<{width}}",
        *(f"{radius + ' px':>7}" for radius in radii),
        *(f"{100 * float(share):>7.0f} %" for share in shares),
      ]
    ),
  ]
  for name, each in rows.items():
    outside = (f"{100 * each['mass_outside_radius'][radius]:>7.1f}" for radius in radii)
    within = (f"{each['radius_of_mass'][share]:>9}" for share in shares)
    lines.append("  ".join([f"{name:<{width}}", *outside, *within]))
  return "\n".join(lines)


def _percent(value: float) -> str:
  return "-" if np.isnan(value) else f"{100 * value:.1f}"
