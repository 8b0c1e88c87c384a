"""The page about a run, opened in a browser that has no network."""

import dataclasses
import json
import logging
import os
import shutil
import sys

import numpy as np
import pytest
from playwright.sync_api import sync_playwright

from gcn_flax.evaluate import write_metrics
from gcn_flax.labels import VOC
from gcn_flax.reporting import paper, report
from gcn_flax.run_data import RunData
from gcn_flax.tasks import classification, segmentation
from gcn_flax.tasks.metrics import Row
from gcn_flax.workdir.compatibility import training_settings
from gcn_flax.workdir.workdir import Workdir
from tests.runs import build_setup, evaluate_split


@pytest.fixture(scope="module")
def browser():
  names = ("chromium", "chromium-browser", "google-chrome")
  found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
  with sync_playwright() as playwright:
    # Without a browser of the system, the one that `playwright install chromium` fetched.
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    started = playwright.chromium.launch(executable_path=found, args=options)
    yield started
    started.close()


def opened(browser, path):
  """The page without a word on the console or a request, every picture of it loaded."""
  page = browser.new_page(viewport={"width": 1240, "height": 900})
  complaints, requests = [], []
  page.on("console", lambda message: complaints.append(message.text))
  page.on("pageerror", lambda error: complaints.append(str(error)))
  page.on("request", lambda request: requests.append(request.url))
  page.goto(path.as_uri(), wait_until="load")
  pictures = page.evaluate(
    "Array.from(document.images).map(image => [image.alt, image.complete && image.naturalWidth])"
  )
  assert all(width > 0 for _, width in pictures), pictures
  assert complaints == []
  assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]
  return page, [name for name, _ in pictures]


def test_an_evaluation_leaves_a_page(config, tmp_path, browser):
  lines = [{"step": step, "loss": 1 / step} for step in (1, 2)]
  lines += [{"step": step, "validation/mean_iou": 0.1 * step} for step in (1, 2)]
  (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  config.eval.num_pictures = 2
  setup = build_setup(config)
  scores = evaluate_split(config, setup, setup.init(0).weights())
  write_metrics(Workdir(tmp_path), config, RunData(config), "validation", 4, scores, {})
  page, pictures = opened(browser, tmp_path / "report.html")
  assert pictures == [
    "confusion matrix", "Training loss", "mean IoU on validation while training", "Accuracy near boundaries",
    "Images by their own mean IoU", "Worst", "Best", "Spread over the split",
  ]  # fmt: skip
  text = page.inner_text("body")
  for words in (
    "camvid validation",
    "PARTIAL DATA",
    "bicyclist",
    "no figure for this data set",
    "config.model.head = gcn",
  ):
    assert words in text
  content = json.loads((tmp_path / "report.json").read_text())
  result = json.loads((tmp_path / "eval_validation.json").read_text())
  assert content["scores"] == result and len(content["image_scores"]) == 5
  assert f"{100 * result['mean_iou']:.1f}" in text and f"{100 * result['iou']['sky']:.1f}" in text


def voc_scores():
  rng = np.random.default_rng(0)
  label = np.kron(rng.integers(0, 21, (4, 5)), np.ones((12, 12))).astype(np.uint8)
  image = rng.integers(0, 256, (48, 60, 3)).astype(np.uint8)

  label_set = dataclasses.replace(VOC, classes=("<script>console.log('run')</script>", *VOC.classes[1:]))

  class Fake:
    pass

  Fake.label_set = label_set
  counts = segmentation.count(Fake(), 0, label, np.roll(label, 3, 1))
  row = Row(image, label, label, "name", 0.5)
  return segmentation.Metrics(counts, np.array([0.5, np.nan]), label_set, [row], [row], [row])


def voc_report(tmp_path, stage, head="gcn", kernel_size=15, boundary_refine=True):
  from configs import pascal_voc

  config = pascal_voc.get_config(stage)
  config.data.data_dir = str(tmp_path)
  config.model.head, config.model.kernel_size, config.model.boundary_refine = head, kernel_size, boundary_refine
  write_metrics(Workdir(tmp_path), config, RunData(config), "validation", 10, voc_scores(), {})
  return json.loads((tmp_path / "report.json").read_text())


def test_the_papers_figures_stand_beside_ours_of_the_same_heads(tmp_path, browser):
  content = voc_report(tmp_path, "ablation")
  rows = {(row["table"], row["row"], row["measure"]): row for row in content["paper"]}
  ours = rows[5, "GCN, k = 15, with BR", "boundary accuracy"]
  assert ours["value"] == 73.4 and ours["ours"] == 100 * content["scores"]["boundary_accuracy"]
  assert rows[7, "GCN with BR, stage 3", "mean IoU"] == {
    "table": 7, "row": "GCN with BR, stage 3", "measure": "mean IoU", "value": 80.3, "ours": None,
  }  # fmt: skip
  assert rows[1, "GCN, k = 15", "mean IoU"]["ours"] is None and rows[1, "1 x 1", "mean IoU"]["ours"] is None
  page, _ = opened(browser, tmp_path / "report.html")
  assert "GCN with BR, stage 3, multi-scale, dense CRF" in page.inner_text("body")
  assert "<script>console.log" in page.inner_text("table"), "names are shown, never run"
  other = voc_report(tmp_path, "stage3", "pointwise", 15, False)["paper"]
  assert [row["row"] for row in other if row["ours"] is not None] == ["1 x 1, stage 3"]


def test_a_classifiers_page(class_config, tmp_path, browser):
  counts = {"hits": np.array([[4, 3, 4], [2, 0, 2], [0, 0, 0]])}
  image = np.zeros((64, 64, 3), np.uint8)
  label_set = RunData(class_config).evaluated("validation").label_set
  row = Row(image, np.int32(0), np.array([1, 0, 2]), "a", 0.0)
  scores = classification.Metrics(counts, np.array([1.0, 0.0]), label_set, [row], [], [row])
  write_metrics(Workdir(tmp_path), class_config, RunData(class_config), "validation", 3, scores, {})
  page, pictures = opened(browser, tmp_path / "report.html")
  assert "Images by their own top-1" in pictures and "confusion matrix" not in pictures
  assert "75.0" in page.inner_text("table")


def test_every_figure_of_the_paper_has_its_place():
  from configs import ablation

  cells = [figure.cell for figure in paper.FIGURES if figure.table <= 6 and figure.dataset != "imagenet2012"]
  assert set(cells) == set(ablation.CELLS)
  for figure in paper.FIGURES:
    if figure.cell:
      model = ablation.get_config(figure.cell).model
      assert (model.head, model.boundary_refine) == (figure.head, figure.boundary_refine)
      assert figure.kernel_size in (0, model.kernel_size) and f"table{figure.table}-" in figure.cell
  settings = ablation.get_config("table1-base").to_dict()
  assert report.paper_rows(settings, {"dataset": "shapes", "split": "validation"}) == []


def test_a_run_is_what_a_figure_was_printed_of():
  """Each cell of the tables, each stage and each way of scoring has its own figures and no other's."""
  from configs import ablation, cityscapes, pascal_voc

  def rows(config):
    return [(figure.table, figure.row) for figure in paper.FIGURES if paper.describes(figure, config.to_dict())]

  for figure in paper.FIGURES:
    if figure.cell:
      assert (figure.table, figure.row) in rows(ablation.get_config(figure.cell))
  assert rows(ablation.get_config("table4-stack-half")) == [(4, "stack of 3 x 3, k = 7, 1024 channels")]
  assert rows(ablation.get_config("table6-resnet50_gcn-gcn-br")) == [(6, "ResNet50-GCN, GCN with BR")]
  assert rows(ablation.get_config("table1-k15:shapes")) == []
  stage3 = pascal_voc.get_config("stage3")
  assert rows(stage3) == [(7, "GCN with BR, stage 3")]
  stage3.eval.scales = (0.75, 1.0)
  assert rows(stage3) == [(7, "GCN with BR, stage 3, multi-scale")]
  stage3.eval.crf.iterations = 10
  assert rows(stage3) == [(7, "GCN with BR, stage 3, multi-scale, dense CRF")]
  assert rows(pascal_voc.get_config("stage1")) == [(7, "GCN with BR, stage 1")]
  assert rows(cityscapes.get_config()) == [] and rows(cityscapes.get_config("stage2")) == [(9, "GCN with BR, stage 2")]


def test_a_run_of_an_older_version_is_shown_with_defaults(config, tmp_path):
  settings = json.loads(config.to_json())
  del settings["eval"], settings["init_from"], settings["model"]["stack_width"]
  settings["seed"] = 17
  (tmp_path / "checkpoints" / "4").mkdir(parents=True)
  (tmp_path / "config.json").write_text(json.dumps(settings))
  found = training_settings(config, Workdir(tmp_path))
  assert (found["seed"], found["init_from"], found["model"]["stack_width"]) == (17, "", 0)
  assert found["model"]["backbone"] == "resnet_tiny" and found["eval"]["scales"] == [1.0]


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib.figure"])
def test_without_its_libraries_a_run_goes_on_without_the_page(tmp_path, monkeypatch, caplog, missing):
  monkeypatch.setitem(sys.modules, missing, None)
  monkeypatch.setattr(logging.getLogger("gcn_flax"), "propagate", True)
  content = voc_report(tmp_path, "ablation")
  assert content["scores"]["num_images"] == 2 and not (tmp_path / "report.html").exists()
  assert "no report.html" in caplog.text and (tmp_path / "eval_validation.json").exists()
