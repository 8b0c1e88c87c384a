"""The report of an evaluation, opened in a browser without a network."""

import dataclasses
import json
import logging
import sys
import types

import numpy as np
import pytest

from gcn_flax.evaluate import write_metrics
from gcn_flax.input_pipeline.sources import open_source
from gcn_flax.labels import CAMVID, IGNORE, VOC, image_labels
from gcn_flax.reporting import page
from gcn_flax.run_data import RunData
from gcn_flax.tasks import classification, segmentation
from gcn_flax.tasks.metrics import Row
from gcn_flax.workdir.compatibility import training_settings
from gcn_flax.workdir.record import TrainingData
from gcn_flax.workdir.workdir import Workdir
from tests.reporting.pages import open_page


def shifted_scores(label_set, examples):
  """The scores of predictions that are the labels, moved by three pixels; each example is a row of the sheets."""
  source = types.SimpleNamespace(label_set=label_set)
  counts, rows = [], []
  for number, example in enumerate(examples):
    prediction = np.roll(np.where(example["label"] == IGNORE, 0, example["label"]), 3, 1)
    loss = {"loss": np.array([1.0, 2.0])}
    counts.append(segmentation.count(source, number, example["label"], prediction) | loss)
    score = segmentation.image_metric(counts[-1])
    rows.append(Row(example["image"], example["label"], prediction, f"image {number}", score))
  total = {name: sum(each[name] for each in counts) for name in counts[0]}
  image_metrics = np.array([row.metric for row in rows])
  return segmentation.Metrics(total, image_metrics, label_set, sample=rows[:2], best=rows[:1], worst=rows[-1:])


def test_page_of_an_evaluation(config, tmp_path, browser):
  lines = [{"step": step, "loss": 1 / step} for step in (1, 2)]
  lines += [{"step": step, "validation/mean_iou": 0.1 * step, "validation/loss": 0.9} for step in (1, 2)]
  (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  scores = shifted_scores(CAMVID, list(open_source("camvid", "validation", config.data.data_dir)))
  write_metrics(Workdir(tmp_path), config, RunData(config), "validation", 4, scores, TrainingData())
  opened, pictures = open_page(browser, tmp_path / "report.html")
  assert pictures == [
    "confusion matrix", "Loss during training", "Mean IoU on validation during training", "Accuracy near boundaries",
    "Mean IoU by image", "Worst", "Best", "Evenly spaced over the split",
  ]  # fmt: skip
  text = opened.inner_text("body")
  for words in ("camvid validation", "PARTIAL DATA", "bicyclist", "no result on this data set", "mean IoU (mIoU)"):
    assert words in text
  assert "config.model.head = gcn" in text and "config.data.crop_size = (64, 64)" in text
  content = json.loads((tmp_path / "report.json").read_text())
  result = json.loads((tmp_path / "eval_validation.json").read_text())
  assert content["scores"] == result and len(content["image_scores"]) == 5
  assert result["loss"] == 0.5 and "0.5000" in text
  assert f"{100 * result['mean_iou']:.1f}" in text and f"{100 * result['iou']['sky']:.1f}" in text


def write_voc_report(workdir, stage, head="gcn", kernel_size=15, boundary_refine=True, label_set=VOC):
  from configs import pascal_voc

  config = pascal_voc.get_config(stage)
  config.data.data_dir = str(workdir)
  config.model.head, config.model.kernel_size, config.model.boundary_refine = head, kernel_size, boundary_refine
  rng = np.random.default_rng(0)
  label = np.kron(rng.integers(0, 21, (4, 5)), np.ones((12, 12))).astype(np.uint8)
  example = {"image": rng.integers(0, 256, (48, 60, 3)).astype(np.uint8), "label": label}
  scores = shifted_scores(label_set, [example])
  scores = dataclasses.replace(scores, image_metrics=np.array([0.5, np.nan]))
  write_metrics(Workdir(workdir), config, RunData(config), "validation", 10, scores, TrainingData())
  return json.loads((workdir / "report.json").read_text())


def test_paper_results_stand_beside_those_of_the_same_head(tmp_path, browser):
  content = write_voc_report(tmp_path, "ablation")
  rows = {(row["table"], row["row"], row["measure"]): row for row in content["paper"]}
  matched = rows[5, "GCN, k = 15, with BR", "boundary accuracy"]
  assert matched["value"] == 73.4 and matched["ours"] == 100 * content["scores"]["boundary_accuracy"]
  assert rows[7, "GCN with BR, stage 3", "mean IoU"] == {
    "table": 7, "row": "GCN with BR, stage 3", "measure": "mean IoU", "value": 80.3, "ours": None,
  }  # fmt: skip
  assert rows[1, "GCN, k = 15", "mean IoU"]["ours"] is None and rows[1, "1 x 1", "mean IoU"]["ours"] is None
  opened, _ = open_page(browser, tmp_path / "report.html")
  assert "GCN with BR, stage 3, multi-scale, dense CRF" in opened.inner_text("body")
  other = write_voc_report(tmp_path, "stage3", "pointwise", 15, False)["paper"]
  assert [row["row"] for row in other if row["ours"] is not None] == ["1 x 1, stage 3"]


def test_class_names_are_shown_and_never_run(tmp_path, browser):
  names = ("<script>console.log('run')</script>", r"$\bad$", "道路", "\x1b[31mred", "lone\udcff")
  write_voc_report(tmp_path, "ablation", label_set=dataclasses.replace(VOC, classes=(*names, *VOC.classes[5:])))
  opened, _ = open_page(browser, tmp_path / "report.html")
  shown = opened.inner_text("table")
  assert all(name in shown for name in (*names[:3], r"\x1b[31mred", r"lone\xff"))


@pytest.mark.parametrize("part", ["gcn_flax.visualize.charts.confusion", "gcn_flax.visualize.overlay.save"])
def test_a_report_that_cannot_be_drawn_leaves_the_metrics(tmp_path, monkeypatch, part):
  def fail(*_):
    raise RuntimeError("no\nglyph")

  monkeypatch.setattr(part, fail)
  message = r"the report could not be written \(no glyph\). The metrics are in eval_validation.json."
  with pytest.raises(ValueError, match=message):
    write_voc_report(tmp_path, "ablation")
  assert json.loads((tmp_path / "eval_validation.json").read_text())["num_images"] == 2


def test_a_record_without_devices_or_commit_is_shown_as_far_as_it_goes():
  machine = {"commit": None, "devices": {"kind": "cpu", "count": 8, "hosts": 1}, "versions": {"jax": "0.10"}}
  rows = dict(page._environment(machine, {"classes": ["sky"]}))
  assert rows["training commit"] == "unknown" and "training devices" not in rows and "training starts" not in rows


def test_page_of_a_classifier(class_config, tmp_path, browser):
  counts = {"hits": np.array([[4, 3, 4], [2, 0, 2], [0, 0, 0]]), "loss": np.zeros(2)}
  row = Row(np.zeros((64, 64, 3), np.uint8), np.int32(0), np.array([1, 0, 2]), "a", 0.0)
  label_set = image_labels(("blue", "green", "red"), {})
  scores = classification.Metrics(counts, np.array([1.0, 0.0]), label_set, [row], [], [row])
  write_metrics(Workdir(tmp_path), class_config, RunData(class_config), "validation", 3, scores, TrainingData())
  opened, pictures = open_page(browser, tmp_path / "report.html")
  assert "Top-1 by image" in pictures and "confusion matrix" not in pictures
  assert "75.0" in opened.inner_text("table")


@pytest.mark.parametrize(
  "tile, scales, flip, iterations, method",
  [
    ([], [1.0], False, 0, "whole images"),
    ([512, 640], [1.0], True, 0, "sliding window of 512 x 640; test-time augmentation: horizontal flip"),
    (
      [], [0.75, 1.0], True, 10,
      "whole images; test-time augmentation: scales 0.75, 1.0 and horizontal flip; dense CRF post-processing",
    ),
  ],
  ids=["plain", "sliding window", "multi-scale and CRF"],
)  # fmt: skip
def test_prediction_method_is_described(tile, scales, flip, iterations, method):
  settings = {"tile": tile, "scales": scales, "flip": flip, "crf": {"iterations": iterations}}
  assert page.prediction_method(settings) == method


def test_training_settings_of_an_older_version_are_completed_with_defaults(config, tmp_path):
  settings = json.loads(config.to_json())
  del settings["eval"], settings["init_from"], settings["model"]["stack_width"]
  settings["seed"] = 17
  (tmp_path / "checkpoints" / "4" / "state").mkdir(parents=True)
  (tmp_path / "config.json").write_text(json.dumps(settings))
  found = training_settings(config, Workdir(tmp_path))
  assert (found["seed"], found["init_from"], found["model"]["stack_width"]) == (17, "", 0)
  assert found["model"]["backbone"] == "resnet_tiny" and found["eval"]["scales"] == [1.0]


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib.figure"])
def test_without_its_libraries_only_the_page_is_left_out(tmp_path, monkeypatch, caplog, missing):
  monkeypatch.setitem(sys.modules, missing, None)
  monkeypatch.setattr(logging.getLogger("gcn_flax"), "propagate", True)
  content = write_voc_report(tmp_path, "ablation")
  assert content["scores"]["num_images"] == 2 and not (tmp_path / "report.html").exists()
  assert "no report.html" in caplog.text and (tmp_path / "eval_validation.json").exists()
