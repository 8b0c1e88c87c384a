"""Records of finished runs: one JSON file for each, from which tables and charts are made.

A record has the command, commit, versions, devices and processor of a run, its config, the losses of its log, every
evaluation during training, and all metrics of the last step.
"""

import datetime
import json
import pathlib
import statistics
import sys
from typing import Any

import ml_collections

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gcn_flax import files, json_files  # noqa: E402
from gcn_flax.messages import flag  # noqa: E402
from gcn_flax.nested import flatten  # noqa: E402
from gcn_flax.processor import cpu_model, num_cores  # noqa: E402
from gcn_flax.workdir.run_results import RunResults  # noqa: E402
from gcn_flax.workdir.stored_config import config_of  # noqa: E402
from gcn_flax.workdir.workdir import settings_form  # noqa: E402

Record = dict[str, Any]
_FROM_RUN = ("command", "commit", "versions", "devices", "starts")
_FORM = {
  "command": str,
  "commit": str,
  "devices": {"count": int, "kind": str},
  "starts": [{"time": str, "step": int}],
  "config": settings_form(),
  "processor": {"model": str, "cores": int},
  "finished": str,
  "images_per_second": float,
  "losses?": {str: float | None},
  "evaluations": [{"step": int, "mean_iou": float}],
  "last": {"step": int, "mean_iou": float, "iou": {str: float | None}},
}
_PICTURES_AND_SETTINGS = ("images", "eval", "eval_size")
_SPEED = "images_per_second"


def record(workdir: pathlib.Path) -> Record:
  """Returns the record of a run.

  Raises ValueError if it has not been evaluated at its last step with its own settings.
  """
  run = RunResults.read(workdir)
  if not is_complete(run):
    raise ValueError(
      f"{workdir}: not evaluated at its last step, {run.config.total_steps:,}, with its own settings. "
      f"Train it to the end, then use --mode=eval {flag('workdir', workdir)} --checkpoint=last."
    )
  settings = _plain(run.config)
  del settings["data"]["data_dir"]  # It says nothing on another machine.
  finished = datetime.datetime.fromtimestamp((workdir / "metrics.jsonl").stat().st_mtime, datetime.UTC)
  record = json.loads(json.dumps(run.record).replace(f"{ROOT}/", ""))  # Paths in the clone, as its reader has them.
  return {
    **{name: record[name] for name in _FROM_RUN},
    "config": settings,
    "processor": record.get("processor") or {"model": cpu_model(), "cores": num_cores()},  # Older runs lack it.
    "finished": finished.isoformat(timespec="seconds"),
    "images_per_second": statistics.median(line[_SPEED] for line in run.metrics if _SPEED in line),
    "losses": {str(line["step"]): line["loss"] for line in run.metrics if "loss" in line},
    "evaluations": [_evaluation(line) for line in run.metrics if "validation/mean_iou" in line],
    "last": {name: value for name, value in run.evaluation.items() if name not in _PICTURES_AND_SETTINGS},
  }


def is_complete(run: RunResults) -> bool:
  """Returns whether a run has been evaluated at its last step with its own settings."""
  evaluated = run.evaluation.get("step") == run.config.total_steps
  return evaluated and run.evaluation.get("eval") == _plain(run.config.eval)


def write(found: Record, path: pathlib.Path) -> None:
  """Writes a record, one line for each of its parts."""
  lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in found.items()]
  path.parent.mkdir(parents=True, exist_ok=True)
  files.write(path, "{\n" + ",\n".join(lines) + "\n}\n")


def read(path: pathlib.Path) -> Record:
  """Returns a record. Raises ValueError if it is damaged."""
  return json_files.read(path, _FORM, "Delete it, to record the run again.")


def is_of(found: Record, config: ml_collections.ConfigDict) -> bool:
  """Returns whether a record is of a run with this config, which may read its data from another place."""
  return _settings(config_of(found["config"])) == _settings(config)


def minutes(found: Record) -> float | None:
  """Returns the minutes from the start of a run to its last evaluation; None if it was stopped in between."""
  if len(found["starts"]) > 1:
    return None
  begun, ended = (datetime.datetime.fromisoformat(time) for time in (found["starts"][0]["time"], found["finished"]))
  return (ended - begun).total_seconds() / 60


def _settings(config: ml_collections.ConfigDict) -> dict[str, Any]:
  settings = flatten(_plain(config))
  del settings["data.data_dir"]
  return settings


def _plain(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns a config as it is read from JSON."""
  return json.loads(json.dumps(config.to_dict()))


def _evaluation(line: dict[str, Any]) -> dict[str, Any]:
  """Returns the step and the metrics over all classes from a line of metrics.jsonl."""
  metrics = {name.partition("/")[2]: value for name, value in line.items() if name.startswith("validation/")}
  return {"step": line["step"]} | {name: value for name, value in metrics.items() if not name.startswith("iou/")}
