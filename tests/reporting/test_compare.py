"""Runs beside each other, in whatever state they are, as table and as page."""

import json
import shutil

import pytest

from gcn_flax import compare, main, train
from gcn_flax.reporting import comparison
from gcn_flax.workdir.run_names import network_name, short_names
from gcn_flax.workdir.run_results import RunResults
from gcn_flax.workdir.stored_config import stored_config
from tests.reporting.pages import open_page


@pytest.fixture
def run(trained_run):
  """A finished run, evaluated at two steps."""
  lines = (trained_run / "metrics.jsonl").read_text().splitlines()
  early = {"step": 1, "validation/mean_iou": 0.01, "validation/pixel_accuracy": 0.5}
  (trained_run / "metrics.jsonl").write_text("\n".join([json.dumps(early), *lines]) + "\n")
  return trained_run


@pytest.fixture
def unfinished(run, tmp_path):
  """A run of another network that has a checkpoint, but was not evaluated yet."""
  workdir = shutil.copytree(run, tmp_path / "unfinished")
  for name in ("eval_validation.json", "report.html", "report.json", "checkpoints/scores.json"):
    (workdir / name).unlink()
  lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
  kept = [json.dumps(line) for line in lines if "loss" in line]
  (workdir / "metrics.jsonl").write_text("\n".join(kept) + "\n")
  change_settings(workdir, total_steps=100)
  return workdir


@pytest.fixture
def begun(run, tmp_path):
  """A run without a checkpoint or a metric."""
  workdir = tmp_path / "begun"
  workdir.mkdir()
  shutil.copy(run / "config.json", workdir)
  change_settings(workdir, seed=7)
  return workdir


def change_settings(workdir, **changed):
  settings = json.loads((workdir / "config.json").read_text()) | changed
  (workdir / "config.json").write_text(json.dumps(settings))


def command(workdir, *others):
  return main.main(["gcn_flax", "--mode=compare", f"--workdir={workdir}", *(f"--other={other}" for other in others)])


def table(printed):
  """The rows of the printed tables: first cell -> the other cells."""
  rows = (line.split("  ") for line in printed.splitlines())
  cells = ([cell.strip() for cell in row if cell.strip()] for row in rows)
  return {row[0]: row[1:] for row in cells if row}


def test_runs_of_all_states_are_compared(run, unfinished, begun, browser, capsys):
  assert command(run, unfinished, begun) == 0
  rows = table(capsys.readouterr().out)
  evaluation = json.loads((run / "eval_validation.json").read_text())
  assert rows["network"] == ["resnet_tiny, GCN, k = 3, BR"] * 3
  assert rows["steps"] == ["2 of 2", "2 of 100", "0 of 2"]
  assert rows["last evaluation"] == ["step 2, whole images", "-", "-"]
  best = f"{100 * evaluation['mean_iou']:.1f}"
  assert rows["mean IoU, best"] == [f"{best} (step 2)", "-", "-"] and rows["mean IoU, last"] == [best, "-", "-"]
  assert rows["config.total_steps"] == ["2", "100", "2"] and rows["config.seed"] == ["0", "0", "7"]
  assert not [name for name in rows if name.startswith("config.") and name not in ("config.total_steps", "config.seed")]
  assert rows["sky"] == [f"{100 * evaluation['iou']['sky']:.1f}", "-", "-"]
  opened, pictures = open_page(browser, run / "compare.html")
  assert pictures == ["Training loss", "Learning rate", "Mean IoU", "predictions"]
  text = opened.inner_text("body")
  for words in ("trained", "unfinished", "begun", "2 of 100", "config.total_steps", "bicyclist", f"{best} (step 2)"):
    assert words in text


def test_differences_are_those_to_the_first_run(run, tmp_path, browser):
  other = shutil.copytree(run, tmp_path / "other")
  evaluation = json.loads((other / "eval_validation.json").read_text())
  first = RunResults.read(run)
  evaluation["iou"] = {"sky": first.by_class["sky"] + 0.125, "road": None, "new class": 0.5}
  (other / "eval_validation.json").write_text(json.dumps(evaluation))
  rows = {row.title: row for row in comparison.classes({"a": first, "b": RunResults.read(other)})}
  assert list(rows) == [*first.by_class, "new class"]
  assert rows["sky"].cells[1] == f"{100 * first.by_class['sky'] + 12.5:.1f} (+12.5)" and rows["sky"].best == (1,)
  assert rows["road"].cells[1] == "-" and rows["new class"].cells == ["-", "50.0"]
  assert command(run, other) == 0
  opened, _ = open_page(browser, run / "compare.html")
  assert [cell.inner_text() for cell in opened.query_selector_all("td.best") if "+12.5" in cell.inner_text()]
  assert "All settings are the same." in opened.inner_text("body")


def test_the_best_of_all_evaluations_and_the_last_are_told_apart(run):
  lines = (run / "metrics.jsonl").read_text().splitlines()
  late = {"step": 3, "validation/mean_iou": 0.002}
  (run / "metrics.jsonl").write_text("\n".join([*lines, json.dumps(late)]) + "\n")
  results = RunResults.read(run)
  rows = {row.title: row.cells for row in comparison.metrics({"a": results})}
  best = max(results.evaluated("mean_iou")[1])
  assert rows["mean IoU, best"] == [f"{100 * best:.1f} (step 2)"] and rows["mean IoU, last"] == ["0.2"]


def test_networks_of_other_classes_are_shown_in_their_own_colours(run, tmp_path, browser):
  """And so are runs whose data set is gone."""
  other = shutil.copytree(run, tmp_path / "other")
  settings = json.loads((other / "config.json").read_text())
  settings["data"] |= {"dataset": "folder", "data_dir": "gone"}
  (other / "config.json").write_text(json.dumps(settings))
  record = json.loads((other / "run.json").read_text()) | {"classes": [f"class {index}" for index in range(11)]}
  (other / "run.json").write_text(json.dumps(record))
  assert command(other, run) == 0
  opened, pictures = open_page(browser, other / "compare.html")
  assert "predictions" in pictures and "'folder'" in opened.inner_text("body")


def test_classifiers_are_compared_without_pictures_of_pixels(class_config, run, tmp_path, browser, capsys):
  train.run(class_config, tmp_path / "classifier")
  assert command(tmp_path / "classifier", run) == 0
  rows = table(capsys.readouterr().out)
  assert rows["network"] == ["resnet_tiny, classifier", "resnet_tiny, GCN, k = 3, BR"]
  assert rows["top-1, best"][1] == "-" and rows["mean IoU, best"][0] == "-" and rows["blue"][1] == "-"
  _, pictures = open_page(browser, tmp_path / "classifier" / "compare.html")
  assert "Training loss" in pictures


def test_a_damaged_checkpoint_is_left_out_with_a_warning(run, unfinished, capsys, browser):
  for path in (unfinished / "checkpoints" / "2").rglob("*"):
    if path.is_file() and path.stat().st_size > 1000:
      path.write_bytes(path.read_bytes()[:100])
  assert command(run, unfinished) == 0
  assert "WARNING: no predictions of unfinished: " in capsys.readouterr().err
  _, pictures = open_page(browser, run / "compare.html")
  assert "predictions" in pictures


@pytest.mark.parametrize(
  "others, message",
  [
    ((), "--mode=compare needs another run to compare with"),
    (("run",), "is given twice. Use each run once."),
    (("nowhere",), "nowhere: is no workdir, it has no config.json. Check the path."),
    (("damaged",), r"eval_validation.json: damaged (it is not JSON"),
    (("twice", "twice"), "twice: is given twice."),
  ],
)
def test_mistakes_are_named_in_one_line(run, tmp_path, capsys, others, message):
  paths = {"run": run, "nowhere": tmp_path / "nowhere"}
  for name in ("damaged", "twice"):
    paths[name] = shutil.copytree(run, tmp_path / name)
  (paths["damaged"] / "eval_validation.json").write_text("{")
  assert command(run, *(paths[name] for name in others)) == 1
  assert message in capsys.readouterr().err.splitlines()[-1]
  assert not (run / "compare.html").exists()


def test_names_are_the_shortest_that_differ():
  assert short_names(["/runs/a", "/runs/b"]) == ["a", "b"]
  assert short_names(["/x/run", "/y/run", "gs://bucket/z"]) == ["x/run", "y/run", "bucket/z"]
  assert short_names(["/run"]) == ["run"]


def test_networks_are_named_by_what_differs(config):
  assert network_name(config.model) == "resnet_tiny, GCN, k = 3, BR"
  for head, name in (("trivial", "3 x 3 conv"), ("stack", "stack of 3 x 3, k = 3"), ("pointwise", "1 x 1")):
    config.model.head, config.model.boundary_refine = head, False
    assert network_name(config.model) == f"resnet_tiny, {name}"


def test_a_run_is_compared_by_call(run, unfinished):
  assert set(compare.run(stored_config(run), run, [unfinished])) == {"trained", "unfinished"}
