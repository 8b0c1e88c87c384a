"""The page `report.html`: one file with its pictures inside, readable without a network."""

from collections.abc import Iterator, Mapping
from typing import Any

from gcn_flax import nested
from gcn_flax.reporting import rendering
from gcn_flax.reporting.rendering import decimal, percent
from gcn_flax.tasks.metrics import Metrics, Row
from gcn_flax.visualize import charts
from gcn_flax.visualize.tables import TITLES

_COLUMNS = {  # Of the table of classes, as far as the task has them.
  "iou": "IoU %",
  "accuracy": "accuracy %",
  "boundary_iou_by_class": "boundary IoU %",
  "instance_iou": "iIoU %",
}
_MAX_CLASSES = 150  # In the table and the confusion matrix; report.json has all.


def render(content: Mapping[str, Any], metrics: Metrics) -> str:
  """Renders the page.

  Args:
    content: content of `report.json`.
    metrics: metrics of the same evaluation.

  Raises:
    ImportError: if Jinja or matplotlib is not installed.
  """
  return rendering.render("report.html", **_variables(content, metrics))


def _variables(content: Mapping[str, Any], metrics: Metrics) -> dict[str, Any]:
  """Returns the variables of the template."""
  result, run = content["scores"], content["run"]
  columns = {key: name for key, name in _COLUMNS.items() if key in result}
  method = prediction_method(content["config"]["eval"])
  return {
    "title": f"{result['dataset']} {result['split']}",
    "subtitle": f"step {result['step']:,}, {result['num_images']:,} images, {content['time']}; {method}",
    "partial": [f"{dataset} {', '.join(lacks)}" for dataset, lacks in result["partial"].items()],
    "metrics": [(TITLES[name], percent(value)) for name, value in metrics.scalars.items()],
    "loss": "-" if result["loss"] is None else f"{result['loss']:.4f}",
    "has_iou": "iou" in result,
    "columns": columns.values(),
    "classes": _class_rows(result, columns, metrics),
    "categories": [
      (name, percent(value), percent(result["category_instance_iou"][name]))
      for name, value in result.get("category_iou", {}).items()
    ],
    "confusion": _confusion(metrics),
    "charts": _charts(content, metrics),
    "sheets": _sheets(metrics),
    "paper": [row | {"value": decimal(row["value"]), "ours": decimal(row["ours"])} for row in content["paper"]],
    "command": content["command"],
    "training_command": run.get("command", ""),
    "data": [
      (name, ", ".join(f"{split} {size:,}" for split, size in sizes.items())) for name, sizes in content["data"].items()
    ],
    "environment": _environment(content["machine"], run),
    "settings": _settings_text(content["config"]),
  }


def prediction_method(settings: Mapping[str, Any]) -> str:
  """Describes sliding window, test-time augmentation and CRF post-processing of `config.eval`."""
  tile, scales, flip = settings["tile"], settings["scales"], settings["flip"]
  parts = [f"sliding window of {tile[0]} x {tile[1]}" if tile else "whole images"]
  views = [f"scales {', '.join(map(str, scales))}"] if scales != [1.0] else []
  views += ["horizontal flip"] if flip else []
  parts += [f"test-time augmentation: {' and '.join(views)}"] if views else []
  parts += ["dense CRF post-processing"] if settings["crf"]["iterations"] else []
  return "; ".join(parts)


def _class_rows(result: Mapping[str, Any], columns: Mapping[str, str], metrics: Metrics) -> list[dict[str, Any]]:
  rows = []
  for index, name in enumerate(metrics.label_set.classes[:_MAX_CLASSES]):
    values = [result[key][name] for key in columns]
    colour = rendering.colour(metrics.label_set.palette[index]) if metrics.label_set.palette else ""
    rows.append({"name": name, "colour": colour, "cells": map(percent, values), "bar": round(120 * (values[0] or 0))})
  return rows


def _confusion(metrics: Metrics) -> str:
  if "confusion" not in metrics.counts or metrics.label_set.num_classes > _MAX_CLASSES:
    return ""
  return rendering.svg_source(charts.confusion(metrics.counts["confusion"], metrics.label_set.classes))


def _charts(content: Mapping[str, Any], metrics: Metrics) -> list[tuple[str, str, str]]:
  """Returns (title, note, source) of each chart that there is data for."""
  metric = next(iter(metrics.scalars))
  found = (*_training_charts(content, metric), *_split_charts(content, TITLES[metric]))
  return [(title[0].upper() + title[1:], note, rendering.svg_source(svg)) for title, note, svg in found]


def _training_charts(content: Mapping[str, Any], metric: str) -> Iterator[tuple[str, str, str]]:
  """Yields (title, note, SVG) of the curves in `metrics.jsonl`."""
  split, title = content["scores"]["split"], TITLES[metric]
  losses = {"training": _series(content["metrics"], "loss", 1), split: _series(content["metrics"], f"{split}/loss", 1)}
  losses = {name: points for name, points in losses.items() if len(points[0]) > 1}
  if losses:
    yield "loss during training", "", charts.lines(losses, "step", "loss")
  curve = _series(content["metrics"], f"{split}/{metric}", 100)
  if len(curve[0]) > 1:
    yield f"{title} on {split} during training", "", charts.lines({title: curve}, "step", f"{title}, %")


def _split_charts(content: Mapping[str, Any], title: str) -> Iterator[tuple[str, str, str]]:
  """Yields (title, note, SVG) of what was measured on the split; `title` is that of the task's main metric."""
  within = content["scores"].get("accuracy_within_pixels", {})
  points = [(int(pixels), 100 * value) for pixels, value in within.items() if value is not None]
  if points:
    note = (
      "Accuracy over the pixels up to each distance from a boundary of the ground truth; the edge of a void region is "
      "a boundary, too."
    )
    series = {"accuracy": tuple(zip(*points, strict=True))}
    chart = charts.lines(series, "distance to the nearest boundary, pixels", "accuracy, %")
    yield "accuracy near boundaries", note, chart
  by_image = [100 * score for score in content["image_scores"] if score is not None]
  if by_image:
    note = "Each image is scored by itself; the metrics above are those of all images together."
    yield f"{title} by image", note, charts.histogram(by_image, f"{title} of an image, %", "images")


def _series(metrics: list[dict[str, Any]], key: str, factor: float) -> tuple[list[float], list[float]]:
  points = [(line["step"], factor * line[key]) for line in metrics if line.get(key) is not None]
  return [step for step, _ in points], [value for _, value in points]


def _sheets(metrics: Metrics) -> list[tuple[str, str]]:
  def source(rows: list[Row]) -> str:
    return rendering.jpeg_source(metrics.sheet(rows, over_image=True))

  sheets = (("Worst", metrics.worst), ("Best", metrics.best), ("Evenly spaced over the split", metrics.sample))
  return [(name, source(rows)) for name, rows in sheets if rows]


def _environment(machine: Mapping[str, Any], run: Mapping[str, Any]) -> list[tuple[str, str]]:
  """Returns (name, value) of commits, devices and packages of the evaluation and, from `run.json`, of the training."""
  rows = [("evaluation commit", machine["commit"] or "unknown"), ("evaluation devices", _devices(machine["devices"]))]
  if run:
    rows.append(("training commit", run.get("commit") or "unknown"))
  if "devices" in run:
    rows.append(("training devices", _devices(run["devices"])))
  if run.get("starts"):
    rows.append(("training starts", f"{len(run['starts'])}, the first at {run['starts'][0]['time']}"))
  return [*rows, ("packages", ", ".join(f"{name} {version}" for name, version in machine["versions"].items()))]


def _devices(devices: Mapping[str, Any]) -> str:
  hosts = devices["hosts"]
  return f"{devices['count']} x {devices['kind']} on {hosts} host{'s' if hosts > 1 else ''}"


def _settings_text(settings: Mapping[str, Any]) -> str:
  """Returns a line for each field of the config, in the form that `--config.field=value` takes."""
  flat = sorted(nested.flatten(settings, "config").items())
  return "\n".join(f"{name} = {tuple(value) if isinstance(value, list) else value}" for name, value in flat)
