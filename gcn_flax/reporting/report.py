"""One page about a run: `report.html`, which needs no network, and what it was made from, `report.json`."""

import base64
import json
import logging
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections
import numpy as np

from gcn_flax import build, files
from gcn_flax.reporting import paper
from gcn_flax.tasks.metrics import Row, Scores
from gcn_flax.visualize import charts, overlay
from gcn_flax.workdir import writers
from gcn_flax.workdir.compatibility import settings_of

_log = logging.getLogger(__name__)
_TEMPLATE = pathlib.Path(__file__).parent / "report.html"
_COLUMNS = {  # Of the table by class, as far as a task has them.
  "iou": "IoU %",
  "accuracy": "accuracy %",
  "boundary_iou_by_class": "boundary IoU %",
  "instance_iou": "iIoU %",
}
_MOST_CLASSES = 150  # In the table and the matrix; more are in report.json alone.


def write(workdir: files.Path, config: ml_collections.ConfigDict, result: Mapping[str, Any], scores: Scores) -> None:
  """Writes `report.json` and `report.html` into the workdir, in place of those of an earlier evaluation.

  Without Jinja or matplotlib there is no page, and the log says so.

  Args:
    workdir: of the run, whose `metrics.jsonl` and `run.json` are shown, if they are there.
    config: that was scored.
    result: what `eval_<split>.json` holds.
    scores: of the split.
  """
  settings = _settings(workdir, config)
  content = {
    "scores": dict(result),
    "image_scores": [None if np.isnan(score) else score for score in scores.image_scores.tolist()],
    "command": writers.command(),
    "time": time.strftime("%Y-%m-%d %H:%M %z"),
    "machine": writers.machine(),
    "run": writers.read_run_json(workdir),
    "data": build.data_counts(config),
    "config": settings,
    "metrics": writers.read_metrics(workdir / "metrics.jsonl"),
    "paper": paper_rows(settings, result),
  }
  files.write(workdir / "report.json", json.dumps(content, indent=1) + "\n")
  try:
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(_TEMPLATE.read_text()).render(_page(content, scores))
  except ImportError as error:  # Of Jinja or, for the charts, matplotlib: a training machine may lack them.
    _log.warning("no report.html (%s): report.json alone is written.", error)
  else:
    files.write(workdir / "report.html", page)


def _settings(workdir: files.Path, config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Those the run was trained with, as far as the workdir tells, and those that were scored with."""
  now, settings = json.loads(config.to_json()), settings_of(config, workdir)
  scored = ("dataset", "data_dir", "eval_split", "eval_size", "eval_resize")
  return settings | {"eval": now["eval"], "data": settings["data"] | {name: now["data"][name] for name in scored}}


def paper_rows(settings: Mapping[str, Any], result: Mapping[str, Any]) -> list[dict[str, Any]]:
  """The paper's figures of the data set and split, each with ours where the run is what the figure was printed of."""
  rows = []
  for figure in paper.FIGURES:
    if (figure.dataset, figure.split) == (result["dataset"], result["split"]):
      ours = result.get(figure.measure) if paper.describes(figure, settings) else None
      rows.append(
        {
          "table": figure.table,
          "row": figure.row,
          "measure": overlay.TITLES[figure.measure],
          "value": figure.value,
          "ours": None if ours is None else 100 * ours,
        }
      )
  return rows


def _page(content: Mapping[str, Any], scores: Scores) -> dict[str, Any]:
  """What the template shows."""
  result, run = content["scores"], content["run"]
  columns = {key: name for key, name in _COLUMNS.items() if key in result}
  settings = content["config"]["eval"]
  return {
    "title": f"{result['dataset']} {result['split']}",
    "subtitle": f"step {result['step']:,}, {result['num_images']:,} images, {content['time']}; {_views(settings)}",
    "partial": [f"{dataset} {', '.join(lacks)}" for dataset, lacks in result["partial"].items()],
    "figures": [(overlay.TITLES[name], _percent(value)) for name, value in scores.scalars.items()],
    "columns": columns.values(),
    "classes": _class_rows(result, columns, scores),
    "categories": [
      (name, _percent(value), _percent(result["category_instance_iou"][name]))
      for name, value in result.get("category_iou", {}).items()
    ],
    "confusion": _confusion(scores),
    "charts": _charts(content, scores),
    "sheets": _sheets(scores),
    "paper": [row | {"value": f"{row['value']:.1f}", "ours": _share(row["ours"])} for row in content["paper"]],
    "command": content["command"],
    "trained_by": run.get("command", ""),
    "data": [
      (name, ", ".join(f"{split} {size:,}" for split, size in sizes.items())) for name, sizes in content["data"].items()
    ],
    "machine": _machine(content["machine"], run),
    "settings": "\n".join(f"{name} = {value}" for name, value in _flatten(content["config"])),
  }


def _machine(now: Mapping[str, Any], run: Mapping[str, Any]) -> list[tuple[str, str]]:
  rows = [("scored by commit", now["commit"] or "unknown"), ("scored on", _devices(now["devices"]))]
  if run:
    rows += [("trained by commit", run["commit"] or "unknown"), ("trained on", _devices(run["devices"]))]
    rows += [("trained in", f"{len(run['starts'])} starts, the first on {run['starts'][0]['time']}")]
  return [*rows, ("packages", ", ".join(f"{name} {version}" for name, version in now["versions"].items()))]


def _devices(devices: Mapping[str, Any]) -> str:
  return f"{devices['count']} x {devices['kind']}, {devices['hosts']} hosts"


def _flatten(settings: Mapping[str, Any], prefix: str = "config") -> Iterator[tuple[str, Any]]:
  for name, value in sorted(settings.items()):
    if isinstance(value, Mapping):
      yield from _flatten(value, f"{prefix}.{name}")
    else:
      yield f"{prefix}.{name}", tuple(value) if isinstance(value, list) else value


def _views(settings: Mapping[str, Any]) -> str:
  parts = [f"tiles of {settings['tile'][0]} x {settings['tile'][1]}" if settings["tile"] else "whole images at once"]
  if settings["scales"] != [1.0]:
    parts.append(f"scales {', '.join(map(str, settings['scales']))}")
  parts += ["mirror images"] if settings["flip"] else []
  parts += ["dense CRF"] if settings["crf"]["iterations"] else []
  return ", ".join(parts)


def _class_rows(result: Mapping[str, Any], columns: Mapping[str, str], scores: Scores) -> list[dict[str, Any]]:
  rows = []
  for index, name in enumerate(scores.label_set.classes[:_MOST_CLASSES]):
    values = [result[key][name] for key in columns]
    colour = "rgb" + str(tuple(scores.label_set.palette[index])) if scores.label_set.palette else ""
    rows.append({"name": name, "colour": colour, "cells": map(_percent, values), "bar": round(120 * (values[0] or 0))})
  return rows


def _confusion(scores: Scores) -> str:
  if "confusion" not in scores.counts or scores.label_set.num_classes > _MOST_CLASSES:
    return ""
  return _svg_source(charts.confusion(scores.counts["confusion"], scores.label_set.classes))


def _charts(content: Mapping[str, Any], scores: Scores) -> list[tuple[str, str, str]]:
  """(title, note, source) of each chart."""
  found = []
  metrics, result = content["metrics"], content["scores"]
  loss = _series(metrics, "loss", 1)
  if len(loss[0]) > 1:
    found.append(("Training loss", "", charts.lines({"loss": loss}, "step", "loss")))
  main = next(iter(scores.scalars))
  curve = _series(metrics, f"{result['split']}/{main}", 100)
  if len(curve[0]) > 1:
    title = f"{overlay.TITLES[main]} on {result['split']} while training"
    found.append((title, "", charts.lines({main: curve}, "step", f"{overlay.TITLES[main]}, %")))
  if "accuracy_within_pixels" in result:
    points = [
      (int(pixels), 100 * value) for pixels, value in result["accuracy_within_pixels"].items() if value is not None
    ]
    note = "Accuracy of the pixels at most so far from a boundary of the true labels; the edge of void counts as one."
    if points:
      series = {"accuracy": tuple(zip(*points, strict=True))}
      chart = charts.lines(series, "distance from the nearest boundary, pixels", "accuracy, %")
      found.append(("Accuracy near boundaries", note, chart))
  own = [100 * score for score in content["image_scores"] if score is not None]
  if own:
    note = "Each image by itself; the figures above are of all pixels together."
    chart = charts.histogram(own, f"{overlay.TITLES[main]} of an image, %", "images")
    found.append((f"Images by their own {overlay.TITLES[main]}", note, chart))
  return [(title, note, _svg_source(chart)) for title, note, chart in found]


def _series(metrics: list[dict[str, Any]], key: str, factor: float) -> tuple[list[float], list[float]]:
  points = [(line["step"], factor * line[key]) for line in metrics if line.get(key) is not None]
  return [step for step, _ in points], [value for _, value in points]


def _sheets(scores: Scores) -> list[tuple[str, str]]:
  def source(rows: list[Row]) -> str:
    return _source("image/jpeg", overlay.encode(scores.sheet(rows, over_image=True), ".jpg"))

  return [
    (name, source(rows))
    for name, rows in (("Worst", scores.worst), ("Best", scores.best), ("Spread over the split", scores.sample))
    if rows
  ]


def _svg_source(svg: str) -> str:
  return _source("image/svg+xml", svg.encode())


def _source(kind: str, content: bytes) -> str:
  return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _percent(value: float | None) -> str:
  return _share(None if value is None or np.isnan(value) else 100 * value)


def _share(value: float | None) -> str:
  return "-" if value is None else f"{value:.1f}"
