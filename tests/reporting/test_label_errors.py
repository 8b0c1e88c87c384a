"""Planted label errors are found, ranked, written and shown."""

import importlib.util
import json
import pathlib
import re

import cv2
import numpy as np
import pytest

from configs import quickstart
from data.prepare import prepare
from docs.figures import planted_errors
from gcn_flax import label_errors, main, train
from gcn_flax.input_pipeline.sources import open_source
from gcn_flax.workdir.stored_config import stored_config
from tests.conftest import tiny_config
from tests.reporting.pages import open_page

pytestmark = pytest.mark.slow

CLASSES = ("background", "red", "blue")
COLOURS = ((120, 120, 120), (200, 60, 50), (60, 90, 210))
SWAPPED, REMOVED, SHIFTED = "01", "04", "06"  # Images of the validation split.
SHIFT = 12  # Pixels.


def write_bars(root: pathlib.Path, split: str, count: int, seed: int) -> None:
  """Writes images with one red or blue bar each, void along its outline, and their masks."""
  rng = np.random.default_rng(seed)
  for kind in ("images", "masks"):
    (root / kind / split).mkdir(parents=True)
  for index in range(count):
    height, width = rng.integers(20, 32), rng.integers(40, 60)
    top, left = rng.integers(4, 60 - height), rng.integers(4, 92 - width)
    label = np.zeros((64, 96), np.uint8)
    label[top : top + height, left : left + width] = 1 + index % 2
    image = np.array(COLOURS)[label] + rng.normal(0, 12, (64, 96, 3))
    edge = cv2.morphologyEx(label, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    label[edge] = 255
    cv2.imwrite(str(root / f"images/{split}/{index:02}.png"), np.clip(image, 0, 255).astype(np.uint8)[..., ::-1])
    cv2.imwrite(str(root / f"masks/{split}/{index:02}.png"), label)


def plant_errors(root: pathlib.Path) -> None:
  """Swaps the class of one bar of the validation split, removes one, and shifts one."""
  for name, change in {
    SWAPPED: lambda label: np.where((label == 1) | (label == 2), 3 - label, label),
    REMOVED: lambda label: label * 0,
    SHIFTED: lambda label: np.roll(label, SHIFT, 1),
  }.items():
    path = str(root / f"masks/val/{name}.png")
    cv2.imwrite(path, change(cv2.imread(path, cv2.IMREAD_UNCHANGED)).astype(np.uint8))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
  """A run whose network knows the bars, on data with three wrong masks."""
  root = tmp_path_factory.mktemp("bars")
  write_bars(root, "train", 24, seed=1)
  write_bars(root, "val", 8, seed=2)
  plant_errors(root)
  (root / "classes.txt").write_text("\n".join(CLASSES))
  prepare("folder", str(root), str(root / "data"))
  config = tiny_config(str(root / "data"))
  config.data.dataset, config.data.train_mix = "folder", (("folder", "train", "all once"),)
  config.total_steps = config.eval_every_steps = config.checkpoint_every_steps = 40
  config.data.random_crop = config.data.random_scale = False
  config.data.crop_size = (64, 96)
  config.model.head, config.model.boundary_refine = "pointwise", False
  config.optimizer.learning_rate, config.optimizer.clip_norm = 0.05, 1.0
  train.run(config, root / "run")
  return root / "run"


@pytest.fixture(scope="module")
def result(run) -> dict:
  """Content of the JSON file that the command writes."""
  assert main.main(["gcn_flax", "--mode=label_errors", f"--workdir={run}", "--split=validation"]) == 0
  return json.loads((run / "label_errors_validation.json").read_text())


def test_planted_errors_are_among_the_first_five(result):
  first = {each["image_id"]: each for each in result["regions"][:5]}
  assert set(first) >= {SWAPPED, REMOVED, SHIFTED}
  swapped, removed = first[SWAPPED], first[REMOVED]
  assert {swapped["labelled"], swapped["predicted"]} == {"red", "blue"}
  assert removed["labelled"] == "background" and removed["predicted"] in ("red", "blue")
  scores = [each["score"] for each in result["images"]]
  assert {each["image_id"] for each in result["images"][:3]} == {SWAPPED, REMOVED, SHIFTED}
  assert scores == sorted(scores, reverse=True)


def test_a_region_is_where_its_error_is(result, run):
  """The boxes are those of the bars."""
  source = open_source("folder", "validation", json.loads((run / "config.json").read_text())["data"]["data_dir"])
  (swapped,) = (each for each in result["regions"] if each["image_id"] == SWAPPED)
  label = source[swapped["index"]]["label"]
  rows, columns = np.nonzero((label == 1) | (label == 2))
  expected = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
  np.testing.assert_allclose(swapped["box"], expected, atol=3)
  assert (
    swapped["pixels"] > 0.8 * len(rows) and swapped["labelled_probability"] < 0.1 < swapped["predicted_probability"]
  )


def test_the_page_shows_each_region(result, run, browser):
  opened, pictures = open_page(browser, run / "label_errors_validation.html")
  count = len(result["regions"])
  assert len(pictures) == 3 * count
  assert pictures[:3] == ["picture of region 1", "mask of region 1", "prediction of region 1"]
  headings = [heading.inner_text() for heading in opened.query_selector_all("h2")]
  assert headings[:count] == [f"{number}. {each['image_id']}" for number, each in enumerate(result["regions"], 1)]
  text = opened.inner_text("body")
  assert "Possible label errors: folder validation" in text and f"{count} regions in 3 of 8 images" in text


def test_the_first_ten_are_printed(run, capsys, monkeypatch):
  monkeypatch.setattr(label_errors, "_MAX_PRINTED", 2)
  assert main.main(["gcn_flax", "--mode=label_errors", f"--workdir={run}", "--split=validation"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert re.match("folder validation, step 40: [0-9]+ regions in 3 of 8 images contradict their masks", lines[0])
  assert lines[1].split() == ["score", "pixels", "labelled", "predicted", "row,", "column", "image"]
  assert [line.split()[0] for line in lines[2:-1]] == ["1", "2"] and {lines[2][-2:], lines[3][-2:]} < {
    SWAPPED,
    REMOVED,
    SHIFTED,
  }


def test_only_the_most_suspicious_regions_are_kept(run, result, monkeypatch):
  monkeypatch.setattr(label_errors, "_MAX_REGIONS", 2)
  found = label_errors.run(stored_config(run), run, "validation")
  assert [each.image_id for each in found] == [each["image_id"] for each in result["regions"][:2]]
  written = json.loads((run / "label_errors_validation.json").read_text())
  assert written["regions"] == result["regions"][:2]
  assert written["num_regions"] == result["num_regions"] and written["images"] == result["images"]


def test_the_split_is_the_one_trained_on_by_default(run):
  found = label_errors.run(stored_config(run), run)
  assert json.loads((run / "label_errors_train.json").read_text())["num_images"] == 24
  assert {each.image_id for each in found} <= {f"{index:02}" for index in range(24)}


@pytest.mark.parametrize("split, message", [("test", "folder has no split 'test'"), ("../x", "has no split '../x'")])
def test_a_split_that_is_not_there_is_an_error(run, capsys, split, message):
  assert main.main(["gcn_flax", "--mode=label_errors", f"--workdir={run}", f"--split={split}"]) == 1
  assert message in capsys.readouterr().err


def test_masks_without_contradiction_make_an_empty_page(run, browser, tmp_path, monkeypatch):
  monkeypatch.setattr(label_errors, "find_regions", lambda label, probabilities: [])
  assert label_errors.run(stored_config(run), run, "validation") == []
  opened, pictures = open_page(browser, run / "label_errors_validation.html")
  assert pictures == [] and "No region was found" in opened.inner_text("body")


@pytest.mark.parametrize("name", ["jinja2", "matplotlib"])
def test_a_missing_library_is_named_before_any_work(run, monkeypatch, name):
  find = importlib.util.find_spec
  monkeypatch.setattr(importlib.util, "find_spec", lambda each, *args: None if each == name else find(each, *args))
  with pytest.raises(ValueError, match=f"{name} is not installed. Run pip install {name}"):
    label_errors.run(stored_config(run), run, "validation")


@pytest.mark.long
def test_errors_in_the_training_data_are_found(tmp_path):
  """Finds the three wrong masks of docs/EXPLAIN.md, although the network was trained on them, too."""
  scenes = tmp_path / "scenes"
  planted_errors.write(scenes, planted_errors.COUNTS)
  prepare("folder", str(scenes), str(tmp_path / "data"))
  config = quickstart.get_config()
  config.data.dataset, config.data.data_dir = "folder", str(tmp_path / "data")
  config.data.train_mix = (("folder", "train", "all once"),)
  config.total_steps, config.batch_size = 400, 8
  config.eval_every_steps = config.checkpoint_every_steps = 400
  train.run(config, tmp_path / "run")
  found = label_errors.run(config, tmp_path / "run")
  planted = {planted_errors.SWAPPED, planted_errors.REMOVED, planted_errors.SHIFTED}
  assert {each.image_id for each in found[:5]} >= planted
