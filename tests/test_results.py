"""The tables of README.md and docs/RESULTS.md follow from the files in docs/runs, and these from workdirs."""

import json
import re

import pytest

from docs.figures import results
from launch import record_run


@pytest.mark.parametrize("page", results.PAGES)
def test_tables_are_those_of_the_runs(page):
  text = (results.ROOT / page).read_text()
  assert results.refreshed(text) == text, "run python docs/figures/results.py"


def test_charts_are_the_same_each_time():
  for chart in results.CHARTS.values():
    assert chart() == chart()


def test_a_block_is_written_anew(monkeypatch):
  monkeypatch.setitem(results.BLOCKS, "name", lambda: "new\n")
  text = "before\n<!-- results: name -->\nold\n<!-- end -->\nafter\n"
  assert results.refreshed(text) == text.replace("old", "new")
  with pytest.raises(KeyError, match="other"):
    results.refreshed(text.replace("name", "other"))


def test_a_run_is_recorded(trained_run, tmp_path, capsys):
  output = tmp_path / "run.json"
  assert record_run.main([str(trained_run), str(output)]) == 0
  found = json.loads(output.read_text())
  scores = json.loads((trained_run / "eval_validation.json").read_text())
  assert found["last"]["mean_iou"] == scores["mean_iou"] == found["evaluations"][-1]["mean_iou"]
  config = found["config"]
  assert (config["seed"], config["total_steps"], config["batch_size"]) == (0, 2, 8)
  assert found["images_per_second"] > 0 and found["processor"]["cores"] > 0 and found["commit"]

  (trained_run / "eval_validation.json").unlink()
  assert record_run.main([str(trained_run), str(output)]) == 1
  assert "not evaluated at its last step, 2, with its own settings. Train it to the end, th" in capsys.readouterr().err
  (trained_run / "eval_validation.json").write_text(json.dumps(scores | {"step": 1}))
  assert record_run.main([str(trained_run), str(output)]) == 1
  assert "not evaluated at its last step, 2, with its own settings." in capsys.readouterr().err


_FIGURE = re.compile(r"\d[\d.,]*\s?%|\b\d[\d.,]*\s(?:points?|h|hours?|min|minutes?|s|seconds?)\b")


@pytest.mark.parametrize("page", results.PAGES)
def test_figures_outside_of_blocks_are_those_of_others(page):
  """Own figures are written by the command; a sentence that names its source may have those of others."""
  assert own_figures((results.ROOT / page).read_text()) == []


def own_figures(text):
  """Returns the sentences outside of blocks and commands that state a share or a time and name no source."""
  text = re.sub(r"^```.*?^```$", "", results.BLOCK.sub("", text), flags=re.DOTALL | re.MULTILINE)
  sentences = re.split(r"(?<=[.:;])\s|\n\s*\n|^\|", text, flags=re.MULTILINE)
  return [each for each in sentences if _FIGURE.search(each) and not re.search("paper|PyTorch", each)]


def test_a_figure_typed_by_hand_is_found():
  block = "<!-- results: name -->\n59.3 %\n<!-- end -->\n"
  fine = "It has 12 classes. The paper reports 81.0 %.\n\n```\nkeep 20 %\n```\n"
  for figure in ("reaches 59.3 % mIoU", "took 15 minutes", "is ahead by 31.9 points", "in 12 s"):
    assert own_figures(f"{block}{fine}It {figure}. The end.") == [f"It {figure}."]
