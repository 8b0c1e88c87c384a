"""The report of an evaluation: `report.json` and, made from it, the self-contained page `report.html`."""

import json
import logging
import time
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np

from gcn_flax.reporting import page, paper
from gcn_flax.run_data import RunData
from gcn_flax.tasks.metrics import Metrics
from gcn_flax.visualize import tables
from gcn_flax.workdir import record, writers
from gcn_flax.workdir.compatibility import training_settings
from gcn_flax.workdir.workdir import Workdir

_log = logging.getLogger(__name__)
# Fields of `config.data` that an evaluation reads; all others of it are those of the training.
_EVALUATION_DATA = ("dataset", "data_dir", "eval_split", "eval_size", "eval_resize")


def write(
  workdir: Workdir, config: ml_collections.ConfigDict, data: RunData, result: Mapping[str, Any], metrics: Metrics
) -> bool:
  """Writes `report.json` and `report.html` into the workdir, replacing those of an earlier evaluation.

  Without Jinja or matplotlib only `report.json` is written, with a warning in the log.

  Args:
    workdir: workdir of the run; its `metrics.jsonl` and `run.json` are included if they exist.
    config: config of the evaluation.
    data: data sets of the config.
    result: contents of `eval_<split>.json`.
    metrics: metrics of the split.

  Returns:
    True if `report.html` was written.
  """
  settings = _settings(workdir, config)
  content = {
    "scores": dict(result),
    "image_scores": [None if np.isnan(metric) else metric for metric in metrics.image_metrics.tolist()],
    "command": record.command(),
    "time": time.strftime("%Y-%m-%d %H:%M %z"),
    "machine": record.machine(),
    "run": workdir.run_record(),
    "data": data.counts(),
    "config": settings,
    "metrics": writers.read_metrics(workdir / "metrics.jsonl"),
    "paper": paper_rows(settings, result),
  }
  workdir.write_json("report.json", content, indent=1)
  try:
    workdir.write("report.html", page.render(content, metrics))
  except ImportError as error:  # Training machines may lack Jinja or matplotlib.
    _log.warning("no report.html (%s): only report.json is written.", error)
    return False
  return True


def _settings(workdir: Workdir, config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns the settings of the training, as far as the workdir has them, with those of the evaluation."""
  now, settings = json.loads(config.to_json()), training_settings(config, workdir)
  return settings | {
    "eval": now["eval"],
    "data": settings["data"] | {name: now["data"][name] for name in _EVALUATION_DATA},
  }


def paper_rows(settings: Mapping[str, Any], result: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Returns the paper's figures for the data set and split of `result`, each with the measured value.

  The measured value, in percent, is None for figures that `paper.matches` does not match with the run.
  """
  rows = []
  for figure in paper.FIGURES:
    if (figure.dataset, figure.split) == (result["dataset"], result["split"]):
      ours = result.get(figure.measure) if paper.matches(figure, settings) else None
      rows.append(
        {
          "table": figure.table,
          "row": figure.row,
          "measure": tables.TITLES[figure.measure],
          "value": figure.value,
          "ours": None if ours is None else 100 * ours,
        }
      )
  return rows
