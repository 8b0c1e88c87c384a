"""The results of a run, as far as it has got: settings, metrics by step, the last evaluation."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import ml_collections

from gcn_flax import files, json_files, tasks
from gcn_flax.config import get_config
from gcn_flax.nested import flatten, merge
from gcn_flax.workdir.run_names import network_name
from gcn_flax.workdir.stored_config import stored_config
from gcn_flax.workdir.workdir import Workdir, settings_form
from gcn_flax.workdir.writers import read_metrics

# eval_<split>.json, as far as it is read.
_EVALUATION = {
  "step": int,
  "num_images?": int,
  "partial?": {str: [str]},
  "eval?": settings_form()["eval?"],
  "iou?": {str: float | None},
  "accuracy?": {str: float | None},
}


@dataclasses.dataclass(frozen=True)
class RunResults:
  """Results of a run.

  Attributes:
    workdir: its workdir.
    config: its config.
    metrics: lines of `metrics.jsonl`.
    evaluation: content of the `eval_<split>.json` of its evaluation split; {} if there is none.
    record: content of `run.json`; {} if there is none.
  """

  workdir: Workdir
  config: ml_collections.ConfigDict
  metrics: list[dict[str, Any]]
  evaluation: Mapping[str, Any]
  record: Mapping[str, Any]

  @classmethod
  def read(cls, path: Workdir | files.Path | str) -> "RunResults":
    """Reads a workdir, which need not have a checkpoint yet.

    Raises ValueError if it has no settings, and if a file is damaged.
    """
    workdir = Workdir(path)
    source = workdir.path if workdir.is_begun else workdir / "config.json"
    if not source.exists():
      raise ValueError(f"{workdir}: is no workdir, it has no config.json. Check the path.")
    config = stored_config(source)
    return cls(
      workdir,
      config,
      read_metrics(workdir / "metrics.jsonl"),
      read_evaluation(workdir / f"eval_{config.data.eval_split}.json"),
      workdir.run_record(),
    )

  @property
  def network(self) -> str:
    """Name of the network."""
    return network_name(self.config.model)

  @property
  def main_metric(self) -> str:
    """Name of the metric that the best checkpoint is chosen by."""
    return tasks.of(self.config).BEST_METRIC

  @property
  def by_class(self) -> Mapping[str, float | None]:
    """IoU of each class at the last evaluation, top-1 accuracy for a classifier; {} if there was none."""
    return self.evaluation.get("iou") or self.evaluation.get("accuracy") or {}

  @property
  def step(self) -> int:
    """Last step in the metrics; 0 before the first."""
    return max((line["step"] for line in self.metrics), default=0)

  def series(self, key: str) -> tuple[list[int], list[float]]:
    """Returns (steps, values) of a metric, of the lines that have it."""
    points = [(line["step"], line[key]) for line in self.metrics if line.get(key) is not None]
    return [step for step, _ in points], [value for _, value in points]

  def evaluated(self, metric: str) -> tuple[list[int], list[float]]:
    """Returns (steps, values) of a metric of the evaluation split."""
    return self.series(f"{self.config.data.eval_split}/{metric}")

  def settings(self) -> dict[str, Any]:
    """Returns the settings by dotted name, such as `config.model.head`."""
    return flatten(self.config.to_dict(), "config")


def read_evaluation(path: files.Path) -> dict[str, Any]:
  """Returns the content of an `eval_<split>.json`; {} if there is none.

  Fields of `eval` that it lacks, because an older version wrote it, have their defaults. Raises ValueError if damaged.
  """
  if not path.exists():
    return {}
  evaluation = json_files.read(path, _EVALUATION, "Evaluate the run again, with --mode=eval.")
  defaults = json.loads(get_config().eval.to_json())
  return evaluation | {"eval": merge(defaults, evaluation.get("eval", {}))}
