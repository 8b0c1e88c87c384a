"""Damaged or missing files of a workdir: named with a fix before any work, or replaced where nothing is lost."""

import json
import logging
import shutil

import numpy as np
import pytest

from gcn_flax import preflight, train
from gcn_flax.models import weights_file
from gcn_flax.training.checkpoint import Checkpoints
from gcn_flax.workdir import compatibility, lock, writers
from gcn_flax.workdir.record import TrainingData
from gcn_flax.workdir.restore import recover_metrics
from gcn_flax.workdir.workdir import Workdir
from gcn_flax.workdir.writers import MetricWriter, read_metrics
from tests.test_json_files import RUBBISH

NOT_JSON = {name: RUBBISH[name] for name in ("empty", "binary", "null", "a list", "a number", "nested")}


@pytest.fixture
def begun(config, tmp_path):
  """A workdir as after two steps, with something in place of the arrays."""
  workdir = Workdir(tmp_path / "run")
  (workdir.checkpoints / "2").mkdir(parents=True)
  (workdir.checkpoints / "2" / "arrays").write_text("")
  workdir.write("config.json", config.to_json())
  workdir.write_json("run.json", {"fingerprints": {"camvid train": {"examples": 12}}, "classes": ["a"]})
  return workdir


def with_values(content, edit):
  """JSON text with some values replaced."""
  values = json.loads(content)
  edit(values)
  return json.dumps(values).encode()


SETTINGS = {
  **NOT_JSON,
  "no fields": b"{}",
  "a section is a number": lambda text: with_values(text, lambda config: config.update(model=5)),
  "no section": lambda text: with_values(text, lambda config: config.pop("optimizer")),
  "a field is a text": lambda text: with_values(text, lambda config: config["model"].update(kernel_size="3")),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_damaged_settings_are_named(config, begun, name):
  """With other settings the run would go on as another one, without a word."""
  rubbish = SETTINGS[name]
  path = begun / "config.json"
  path.write_bytes(rubbish(path.read_bytes()) if callable(rubbish) else rubbish)
  for only in ((), compatibility.ARCHITECTURE_FIELDS):
    with pytest.raises(ValueError, match=f"^{path}: damaged .*Put it back. .*--config.init_from={begun}"):
      compatibility.check_settings(config, begun, only)


def test_fields_that_an_older_version_did_not_have_may_be_missing(config, begun):
  path = begun / "config.json"
  path.write_bytes(with_values(path.read_bytes(), lambda values: (values.pop("mesh"), values["model"].pop("remat"))))
  compatibility.check_settings(config, begun)


RECORDS = {
  **NOT_JSON,
  "classes are numbers": b'{"classes": [1]}',
  "classes are one number": b'{"classes": 5}',
  "a colour is a number": b'{"palette": [5]}',
  "a colour is no colour": b'{"palette": [[0, 0, 256]]}',
  "partial is a list": b'{"partial": []}',
  "starts are numbers": b'{"starts": 5}',
  "a start has no time": b'{"starts": [{}]}',
  "devices are a text": b'{"devices": "8 chips"}',
  "the commit is a number": b'{"commit": 5}',
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_damaged_record_is_named(begun, name):
  (begun / "run.json").write_bytes(RECORDS[name])
  with pytest.raises(ValueError, match=f"^{begun}/run.json: damaged .*Put it back"):
    TrainingData.read(begun.path)


@pytest.mark.parametrize("name", ["config.json", "run.json"])
def test_training_needs_what_belongs_to_its_checkpoints(config, begun, caplog, name):
  """Here without the settings that newer versions store with each checkpoint."""
  (begun / name).unlink()
  with pytest.raises(ValueError, match=f"^{begun}/{name}: missing, so .*Put it back"):
    compatibility.check_settings(config, begun)
  compatibility.check_settings(config, begun, compatibility.ARCHITECTURE_FIELDS)
  assert f"{begun}/{name}: missing" in caplog.text


def test_settings_are_stored_with_each_checkpoint(config, tmp_path):
  begun = Workdir(tmp_path)
  before = json.loads(config.to_json())
  with Checkpoints(begun.checkpoints) as checkpoints:
    checkpoints.save(2, {"a": np.zeros(3)}, before)
  begun.write("run.json", "{}")
  assert begun.settings() == before and begun.missing_records() == []
  assert TrainingData.read(begun.path).eval_size == ()
  compatibility.check_settings(config, begun)
  config.seed = 5
  with pytest.raises(ValueError, match="config.seed was 0, is 5"):
    compatibility.check_settings(config, begun)


def test_training_needs_the_record_of_its_data(begun):
  now = {"camvid train": {"examples": 12}}
  compatibility.check_fingerprints(now, begun, "D")
  for fingerprints in ({}, {"camvid train": {}}):
    begun.write_json("run.json", {"fingerprints": fingerprints})
    with pytest.raises(ValueError, match="run.json: does not record the data camvid train. Put|examples differ"):
      compatibility.check_fingerprints(now, begun, "D")


def test_an_empty_folder_does_not_begin_a_run(config, tmp_path):
  workdir = Workdir(tmp_path)
  (workdir.checkpoints / "999999").mkdir(parents=True)
  assert not workdir.is_begun
  compatibility.check_settings(config, workdir)


LINES = [b'{"step": 1, "loss": 2.0}', b'{"step": 2, "validation/mean_iou": null}', b'{"step": 3, "loss": 1.0}']


@pytest.mark.parametrize("rubbish", [*NOT_JSON.values(), b'{"step": "1"}', b'{"step": 2, "loss": "x"}', b'{"loss": 1}'])
def test_lines_that_are_no_metrics_are_left_out_and_kept(monkeypatch, tmp_path, caplog, rubbish):
  monkeypatch.setattr(writers, "_tensorboard", lambda _: None)
  path, content = tmp_path / "metrics.jsonl", b"\n".join([LINES[0], rubbish, *LINES[1:]]) + b"\n"
  path.write_bytes(content)
  assert [line["step"] for line in read_metrics(path)] == [1, 2, 3]
  MetricWriter(Workdir(tmp_path), last_step=2).close()
  assert [line["step"] for line in read_metrics(path)] == [1, 2]
  assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == content
  assert "damaged lines are left out" in caplog.text


def test_a_line_that_a_kill_cut_is_no_damage(monkeypatch, tmp_path, caplog):
  monkeypatch.setattr(writers, "_tensorboard", lambda _: None)
  (tmp_path / "metrics.jsonl").write_bytes(LINES[0] + b"\n" + LINES[1][:9])
  MetricWriter(Workdir(tmp_path), last_step=2).close()
  assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"] and not caplog.text


def test_metrics_that_are_lost_come_from_the_log(tmp_path):
  """Otherwise the best checkpoint would be removed by the next save."""
  workdir = Workdir(tmp_path)
  lines = [{"step": step, "validation/mean_iou": value} for step, value in ((1, 0.9), (2, 0.5), (3, 0.7))]
  (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  with Checkpoints(workdir.checkpoints, keep=3) as checkpoints:
    for step in (1, 2, 3):
      checkpoints.save(step, {"array": np.arange(step)})
  (workdir.checkpoints / "scores.json").write_text("")
  with Checkpoints(workdir.checkpoints, keep=1) as checkpoints:
    recover_metrics(checkpoints, workdir, "validation/mean_iou", start=3)
    assert checkpoints.best() == 1 and checkpoints.metrics.get(3) is None  # The last is computed again.
    checkpoints.save(4, {"array": np.arange(4)})
    checkpoints.wait()
    assert checkpoints.steps() == [1, 4]


def test_what_is_in_the_way_is_named_before_any_work(config, tmp_path):
  for name, kind in (("checkpoints", "file"), ("tensorboard", "file"), ("metrics.jsonl", "folder"), ("lock", "folder")):
    workdir = Workdir(tmp_path / name / "run")
    workdir.create()
    (workdir / name).mkdir() if kind == "folder" else (workdir / name).write_text("mine")
    with pytest.raises(
      ValueError, match=f"run/{name}: ({'not a folder' if kind == 'file' else 'is a folder'}).* Rename"
    ):
      train.run(config, workdir)
    assert [path.name for path in workdir.path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["eval_validation.json", "report.html"])
def test_an_evaluation_knows_before_it_begins_that_it_can_be_written(config, tmp_path, name):
  (tmp_path / name).mkdir()
  with pytest.raises(ValueError, match=f"{name}: is a folder"):
    preflight.preflight(config, Workdir(tmp_path), split="validation")


def test_a_workdir_that_is_a_file_or_a_pattern_is_refused(config, tmp_path):
  (tmp_path / "file").write_text("mine")
  with pytest.raises(ValueError, match="file: not a folder. Rename it, or use another folder"):
    train.run(config, tmp_path / "file")
  with pytest.raises(ValueError, match=r"run\[1\]/checkpoints: a path with \[ cannot hold checkpoints. Use"):
    train.run(config, tmp_path / "run[1]")
  assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_lock_is_no_link_and_may_hold_anything(tmp_path):
  (tmp_path / "precious").write_text("mine")
  (tmp_path / "lock").symlink_to(tmp_path / "precious")
  with (
    pytest.raises(ValueError, match=f"{tmp_path}/lock: is a symbolic link. Remove it"),
    lock.locked(Workdir(tmp_path)),
  ):
    pass
  assert (tmp_path / "precious").read_text() == "mine"
  (tmp_path / "lock").unlink()
  (tmp_path / "lock").write_bytes(bytes(range(256)))
  with lock.locked(Workdir(tmp_path)), pytest.raises(ValueError, match="in use"), lock.locked(Workdir(tmp_path)):
    pass


@pytest.mark.parametrize("content", ["", "null", '{"classes": 5}'])
def test_a_damaged_record_in_a_file_of_weights_is_named(tmp_path, content):
  path = tmp_path / "network.safetensors"
  weights_file.write(path, {"weight": np.zeros(2, np.float32)}, {"data": content})
  with pytest.raises(ValueError, match=f"^{path}, metadata entry 'data': damaged .*Export the weights again"):
    TrainingData.read(path)


@pytest.mark.usefixtures("fast_runs")
def test_a_run_goes_on_with_damaged_logs(config, trained_run, caplog):
  """Nothing is lost by them; what is needed is computed again."""
  for name in ("metrics.jsonl", "checkpoints/scores.json", "eval_validation.json"):
    (trained_run / name).write_bytes(b"\x80\n")
  caplog.set_level(logging.INFO, "gcn_flax")
  assert train.run(config, trained_run)
  assert "resuming from step 2 of 2" in caplog.text
  assert list(json.loads((trained_run / "checkpoints" / "scores.json").read_text())) == ["2"]
  assert json.loads((trained_run / "eval_validation.json").read_text())["step"] == 2
  shutil.rmtree(trained_run)
