"""The model card of a released network: a README.md in the form of Hugging Face, made from the files of its run."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections
import yaml

from gcn_flax.printable import one_line
from gcn_flax.reporting.page import prediction_method
from gcn_flax.reporting.rendering import percent
from gcn_flax.workdir.run_names import network_name

MARK = "library_name: gcn_flax"  # A line of every card.
LICENSE_FILE = "LICENSE"  # The text of a licence that Hugging Face does not list.

_TEXT = """\
---
{front_matter}---

# {name}

A network for semantic segmentation with {num_classes} classes: {network}. It is the Global Convolutional Network (GCN)
of *Large Kernel Matters* (Peng et al., CVPR 2017, [arXiv 1703.02719](https://arxiv.org/abs/1703.02719)), trained with
gcn_flax.

## Intended use

{intended_use}

## Use

```python
import gcn_flax

model = gcn_flax.load("{address}")  # or this folder
labels = model.predict("photo.jpg")  # uint8 [H, W], indices of the classes below
```

HOST/PATH is where this folder is. The digest is the SHA-256 of `network.safetensors`; another file is rejected.

## Data

{data}

Licence of the data: {data_license}

## Scores

Step {step}{choice}. Prediction: {method}. All metrics are in `metrics.json`.

{scores}

IoU by class, %:

{by_class}

They hold for images like those of the data set; no other images were scored.

## Training

```
{command}
```

{training}

All settings are in `config.json`.

## Licence

Weights: {license}. Data: see above.
"""


@dataclasses.dataclass(frozen=True)
class Release:
  """A network to be released, and what is known about it.

  Attributes:
    name: name of the release.
    license: licence of the weights, an identifier of Hugging Face.
    data_license: licence of the data, a text.
    intended_use: Markdown.
    address: where the network is loaded from, with its digest.
    config: config of the run.
    classes: names of the classes.
    record: content of `run.json`.
    step: step of the checkpoint.
    evaluations: metric of each step at which training evaluated the network, by which it chose the best one.
    scores: content of `eval_<split>.json` by split.
  """

  name: str
  license: str
  data_license: str
  intended_use: str
  address: str
  config: ml_collections.ConfigDict
  classes: tuple[str, ...]
  record: Mapping[str, Any]
  step: int
  evaluations: Mapping[int, float]
  scores: Mapping[str, Mapping[str, Any]]


def render(release: Release) -> str:
  """Returns the card as Markdown with a YAML front matter."""
  return _TEXT.format(
    front_matter=yaml.safe_dump(_front_matter(release), sort_keys=False, allow_unicode=True),
    name=one_line(release.name),
    num_classes=len(release.classes),
    network=network_name(release.config.model),
    intended_use=release.intended_use,
    address=release.address,
    data=_data(release),
    data_license=release.data_license,
    step=f"{release.step:,} of {release.config.total_steps:,}",
    choice=_choice(release),
    method=prediction_method(next(iter(release.scores.values()))["eval"]),
    scores=_score_table(release),
    by_class=_class_table(release),
    command=release.record.get("command", "unknown"),
    training=_training(release),
    license=release.license if release.license != "other" else f"[{LICENSE_FILE}]({LICENSE_FILE})",
  )


def metrics_of(scores: Mapping[str, Any]) -> dict[str, float]:
  """Returns the metrics over all classes of an `eval_<split>.json`, by name."""
  return {name: value for name, value in scores.items() if isinstance(value, float) and name != "loss"}


def _front_matter(release: Release) -> dict[str, Any]:
  """Returns the metadata that Hugging Face reads: https://huggingface.co/docs/hub/model-cards."""
  dataset = release.config.data.dataset
  task = {"type": "image-segmentation", "name": "Semantic segmentation"}
  results = [
    {
      "task": task,
      "dataset": {"type": dataset, "name": dataset, "split": split},
      "metrics": [{"type": name, "value": round(value, 4)} for name, value in metrics_of(scores).items()],
    }
    for split, scores in release.scores.items()
  ]
  own = {"license_name": f"{release.name}-license", "license_link": LICENSE_FILE} if release.license == "other" else {}
  name, _, value = MARK.partition(": ")
  return {
    "license": release.license,
    **own,
    name: value,
    "pipeline_tag": task["type"],
    "tags": ["semantic-segmentation", "gcn", "jax", "flax"],
    "model-index": [{"name": release.name, "results": results}],
  }


def _data(release: Release) -> str:
  """Returns what the network was trained and evaluated on, with the numbers of images where they are recorded."""
  counts, data = release.record.get("data", {}), release.config.data
  used = [("trained on", name, split, counts.get(name, {}).get(split)) for name, split, _ in data.train_mix]
  used += [("evaluated on", data.dataset, split, scores.get("num_images")) for split, scores in release.scores.items()]
  lines = [
    f"- {use} {name}, {split}" + (f": {count:,} images" if count is not None else "")
    for use, name, split, count in used
  ]
  partial = {name: found for scores in release.scores.values() for name, found in scores.get("partial", {}).items()}
  for name, differences in partial.items():
    lines.append(f"- {name} is not complete: {', '.join(differences)}")
  return "\n".join(map(one_line, lines))


def _choice(release: Release) -> str:
  """Returns how the checkpoint was chosen, if there was a choice."""
  found = release.evaluations
  is_best = found.get(release.step) == max(found.values(), default=None)
  rank, split = "the best" if is_best else "one", release.config.data.eval_split
  return f", {rank} of {len(found)} that training evaluated on {split}" if len(found) > 1 else ""


def _score_table(release: Release) -> str:
  found = {split: metrics_of(scores) for split, scores in release.scores.items()}
  names = list(dict.fromkeys(name for metrics in found.values() for name in metrics))
  rows = [[split, *(percent(metrics.get(name)) for name in names)] for split, metrics in found.items()]
  return _table(["%", *(name.replace("_", " ").replace("iou", "IoU") for name in names)], rows)


def _class_table(release: Release) -> str:
  found = [scores.get("iou", {}) for scores in release.scores.values()]
  rows = [[str(index), name, *(percent(iou.get(name)) for iou in found)] for index, name in enumerate(release.classes)]
  return _table(["label", "class", *release.scores], rows)


def _training(release: Release) -> str:
  """Returns a table of where the network comes from."""
  record, config = release.record, release.config
  commit = record.get("commit") or "unknown"
  rows = {
    "seed": config.seed,
    "batch size": config.batch_size,
    "initial weights": config.init_from or config.model.pretrained or "random",
    "hardware": _hardware(record),
    "begun": next(iter(record.get("starts", [])), {"time": "unknown"})["time"][:10],
    "commit": commit.replace("+", ", with changes"),
    "versions": ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items()),
  }
  return _table(["", ""], [[name, str(value)] for name, value in rows.items()])


def _hardware(record: Mapping[str, Any]) -> str:
  """Returns the devices and processor of a run; older versions recorded no processor."""
  devices, processor = record.get("devices"), record.get("processor")
  parts = [f"{processor['cores']} cores of {processor['model']}"] if processor else []
  if devices and not (processor and devices["kind"] == "cpu"):
    hosts = f" on {devices['hosts']} hosts" if devices["hosts"] > 1 else ""
    parts.insert(0, f"{devices['count']} x {devices['kind']}{hosts}")
  return "; ".join(parts) or "unknown"


def _table(header: list[str], rows: list[list[str]]) -> str:
  lines = [header, ["---"] * len(header), *rows]
  return "\n".join(f"| {' | '.join(one_line(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
