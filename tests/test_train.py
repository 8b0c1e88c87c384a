"""The training loop from end to end: resume, stop, failure, metrics."""

import contextlib
import dataclasses
import json
import logging
import os
import signal
import types

import jax
import numpy as np
import pytest

from gcn_flax import build, train
from gcn_flax.run_data import RunData
from gcn_flax.training.checkpoint import Checkpoints, open_checkpoints
from gcn_flax.training.checkpoint_metrics import CheckpointMetrics
from gcn_flax.workdir.init_weights import load_init_weights
from gcn_flax.workdir.training_log import TrainingLog
from gcn_flax.workdir.workdir import Workdir
from gcn_flax.workdir.writers import MetricWriter, read_metrics
from tests.runs import assert_identical, build_setup, final_state

pytestmark = pytest.mark.usefixtures("fast_runs")


def without_clock(path):
  """The lines of a metrics.jsonl without what depends on the machine's speed."""
  return [
    {key: value for key, value in line.items() if key not in ("images_per_second", "input_wait")}
    for line in read_metrics(path)
  ]


class ChangedData(RunData):
  """Data whose training batches go through `change(count, batch)`, count from 1."""

  def __init__(self, config, change):
    super().__init__(config)
    self.change = change

  def train_batches(self, first_step):
    for count, batch in enumerate(super().train_batches(first_step), 1):
      yield self.change(count, batch)


def stopped_at(config, number, signal_number=signal.SIGTERM):
  """Data that sends a signal with the training batch of this number."""

  def interrupt(count, batch):
    if count == number:
      os.kill(os.getpid(), signal_number)
    return batch

  return ChangedData(config, interrupt)


@pytest.mark.parametrize("stop_at, by", [pytest.param(2, signal.SIGTERM, marks=pytest.mark.slow), (3, signal.SIGINT)])
def test_stopped_and_resumed_run_equals_an_uninterrupted_one(config, tmp_path, stop_at, by):
  """Stops at a step with a checkpoint due, and at one without, the latter with all options of a recipe."""
  if stop_at == 3:
    config.optimizer.ema_decay, config.optimizer.schedule, config.optimizer.encoder_lr_factor = 0.9, "cosine", 0.5
    config.loss.ohem_fraction, config.loss.label_smoothing = 0.5, 0.1
    config.loss.focal_gamma, config.loss.dice_weight = 2.0, 1.0
    config.optimizer.kind, config.optimizer.learning_rate = "adamw", 1e-3
    config.data.rotation, config.data.vertical_flip, config.data.blur, config.data.class_balance = 10.0, True, 1.0, 0.5
  train.run(config, tmp_path / "whole")

  assert train.run(config, tmp_path / "parts", stopped_at(config, stop_at, by)) is False
  assert Checkpoints(tmp_path / "parts" / "checkpoints", read_only=True).latest() == stop_at
  train.run(config, tmp_path / "parts")

  assert_identical(final_state(tmp_path / "whole", config), final_state(tmp_path / "parts", config))
  assert without_clock(tmp_path / "whole/metrics.jsonl") == without_clock(tmp_path / "parts/metrics.jsonl")
  assert [line["step"] for line in read_metrics(tmp_path / "parts/metrics.jsonl")] == [1, 2, 3, 4, 4]
  assert [start["step"] for start in json.loads((tmp_path / "parts/run.json").read_text())["starts"]] == [0, stop_at]


@pytest.mark.slow
def test_the_logged_loss_is_the_mean_of_the_steps_since_the_last_line(config, tmp_path):
  """Or since the restart, if that was later."""

  def losses(workdir):
    lines = read_metrics(tmp_path / workdir / "metrics.jsonl")
    return {line["step"]: line["loss"] for line in lines if "loss" in line}

  train.run(config, tmp_path / "each")
  each = losses("each")
  config.log_every_steps = 2
  train.run(config, tmp_path / "pairs")
  np.testing.assert_allclose(
    list(losses("pairs").items()), [(2, (each[1] + each[2]) / 2), (4, (each[3] + each[4]) / 2)]
  )
  train.run(config, tmp_path / "parts", stopped_at(config, 3))
  train.run(config, tmp_path / "parts")
  assert losses("parts") == losses("pairs") | {4: each[4]}


def test_what_the_log_says_before_and_after_the_first_step(config, tmp_path, caplog):
  config.total_steps = 1
  with caplog.at_level(logging.INFO, logger="gcn_flax"):
    train.run(config, tmp_path)
  lines = [record.message for record in caplog.records]
  count = sum(leaf.size for leaf in jax.tree.leaves(build_setup(config).state_shapes.params))
  wanted = [
    f"network: resnet_tiny, gcn heads with k = 3, BR, float32; 11 classes, {count / 1e6:.2f} million parameters",
    "training on camvid train: 12 images; 1.5 steps per epoch, 1 steps = 0.7 epochs",
    "batches of 8 images of 64 x 64, 1 per device",
    "evaluation on camvid validation: 5 images, every 1 steps",
    "random weights.",  # There are no public ones for this encoder.
    "first step after",
    "step 1/1",
    "evaluated validation in",
  ]
  places = [next(i for i, line in enumerate(lines) if line.startswith(start)) for start in wanted]
  assert places == sorted(places)
  config.model.backbone = "resnet18"
  with caplog.at_level(logging.INFO, logger="gcn_flax"):
    assert load_init_weights(config, None, ()) == {}
  assert caplog.records[-1].message == "random weights: ImageNet weights usually gain much, see docs/WEIGHTS.md."


def test_an_evaluation_logs_iou_by_class_and_the_loss(config, tmp_path):
  config.total_steps = 1
  train.run(config, tmp_path)
  line = read_metrics(tmp_path / "metrics.jsonl")[-1]
  result = json.loads((tmp_path / "eval_validation.json").read_text())
  assert {f"validation/iou/{name}": value for name, value in result["iou"].items()}.items() <= line.items()
  assert line["validation/loss"] == result["loss"] > 0


def test_stop_at_a_step_with_an_evaluation_due_makes_up_for_it(config, tmp_path):
  config.eval_every_steps = 2
  assert train.run(config, tmp_path, stopped_at(config, 2)) is False
  assert not any("validation/mean_iou" in line for line in read_metrics(tmp_path / "metrics.jsonl"))
  train.run(config, tmp_path)
  scored = [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl") if "validation/mean_iou" in line]
  assert scored == [2, 4]
  with open_checkpoints(tmp_path) as checkpoints:
    assert checkpoints.metrics.get(2) is not None


class StoppingSource:
  """A source that sends SIGTERM when its first example is read."""

  def __init__(self, source):
    self._source = source

  def __getattr__(self, name):
    return getattr(self._source, name)

  def __len__(self):
    return len(self._source)

  def __getitem__(self, index):
    os.kill(os.getpid(), signal.SIGTERM)
    return self._source[index]


class StoppingData(RunData):
  """Data whose evaluation is interrupted by SIGTERM."""

  def eval_source(self, split):
    return StoppingSource(super().eval_source(split))


def test_stop_during_the_last_evaluation_is_no_end(config, tmp_path):
  config.total_steps, config.eval.batch_size = 2, 8
  assert train.run(config, tmp_path, StoppingData(config)) is False
  assert not (tmp_path / "eval_validation.json").exists()
  assert train.run(config, tmp_path) is True
  assert (tmp_path / "eval_validation.json").exists()


def test_stop_during_an_evaluation_breaks_it_off_and_saves(config, tmp_path):
  (tmp_path / "samples").mkdir()  # Otherwise the samples are read from the stopping data, too.
  config.eval_every_steps, config.eval.batch_size = 2, 8
  train.run(config, tmp_path, StoppingData(config))
  with open_checkpoints(tmp_path) as checkpoints:
    assert checkpoints.latest() == 2 and checkpoints.metrics.get(2) is None
  train.run(config, tmp_path)
  with open_checkpoints(tmp_path) as checkpoints:
    assert checkpoints.metrics.get(2) is not None and checkpoints.latest() == 4


def test_a_report_that_cannot_be_written_does_not_end_the_run(config, tmp_path, monkeypatch, caplog):
  def fail(*_):
    raise RuntimeError("no glyph")

  scored = types.SimpleNamespace(scalars={"mean_iou": 0.5}, logged={"mean_iou": 0.5}, sample=[1], sheet=fail)
  monkeypatch.setattr(train.evaluate, "evaluate", lambda *_: scored)
  monkeypatch.setattr(train.evaluate, "write_metrics", fail)
  workdir, kept = Workdir(tmp_path), {}
  checkpoints = types.SimpleNamespace(metrics=types.SimpleNamespace(get=kept.get, set=kept.__setitem__))
  data = types.SimpleNamespace(eval_source=lambda split: None)
  state, stop = types.SimpleNamespace(weights=dict), types.SimpleNamespace(requested=None)
  with contextlib.closing(MetricWriter(workdir, 0)) as writer:
    log = TrainingLog(writer, None, 0, total_steps=4, every_steps=1, eval_every_steps=4, batch_size=8)
    loop = train._Loop(config, workdir, None, data, checkpoints, log, None, None, stop, None)
    assert loop._evaluate_if_due(state, 4)
  assert kept == {4: 0.5}
  for what in ("the report", "the contact sheet"):
    assert f"WARNING: {what} could not be written, the training goes on: no glyph" in caplog.text


def test_a_start_that_failed_does_not_bind_the_workdir(config, tmp_path):
  config.total_steps = 1
  config.init_from = str(tmp_path / "nowhere")
  with pytest.raises(ValueError, match="no checkpoint in .*nowhere"):
    train.run(config, tmp_path / "run")
  config.init_from = ""
  train.run(config, tmp_path / "run")
  assert json.loads((tmp_path / "run/config.json").read_text())["init_from"] == ""


def test_a_refused_start_leaves_the_record_of_the_run(config, tmp_path):
  config.total_steps = 2
  train.run(config, tmp_path)
  before = (tmp_path / "config.json").read_text()
  config.total_steps = 1
  with pytest.raises(ValueError, match="config.total_steps=1: the workdir stands at step 2. Raise it"):
    train.run(config, tmp_path)
  assert (tmp_path / "config.json").read_text() == before


@pytest.mark.parametrize(
  "field, value, message",
  [
    ("eval_size", (32, 96), r"config.data.eval_size=.*images of up to 64 x 96. Raise it to \(64, 96\)"),
    ("data_dir", "/nowhere", "not prepared in '/nowhere'"),
  ],
)
def test_data_that_do_not_fit_are_refused_before_the_first_step(config, tmp_path, field, value, message):
  config.data[field] = value
  with pytest.raises(ValueError, match=message):
    train.run(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_metrics_past_the_restored_step_and_cut_lines_are_removed(config, tmp_path):
  config.total_steps = 2
  train.run(config, tmp_path)
  lines = (tmp_path / "metrics.jsonl").read_text()
  (tmp_path / "metrics.jsonl").write_text(lines + '{"step": 3, "loss": 9.0}\n{"step": 4, "lo')
  config.total_steps = 3
  config.eval_every_steps = 3
  train.run(config, tmp_path)
  found = read_metrics(tmp_path / "metrics.jsonl")
  assert [line["step"] for line in found if "loss" in line] == [1, 2, 3]
  assert all(line.get("loss") != 9.0 for line in found)


def test_non_finite_loss_stops_with_its_step_and_is_never_saved(config, tmp_path, monkeypatch):
  config.total_steps = 6
  config.checkpoint_every_steps = 1
  original = build.build

  def failing_at_step_4(config, num_classes):
    setup = original(config, num_classes)

    def train_step(state, batch):
      state, metrics = setup.train_step(state, batch)
      if int(state.step) == 4:
        metrics = {**metrics, "loss": metrics["loss"] * np.nan, "finite": np.bool_(False)}
      return state, metrics

    train_step.lower = setup.train_step.lower
    return dataclasses.replace(setup, train_step=train_step)

  monkeypatch.setattr(build, "build", failing_at_step_4)
  with pytest.raises(FloatingPointError, match="step 4: loss=nan"):
    train.run(config, tmp_path)
  with open_checkpoints(tmp_path) as checkpoints:
    assert checkpoints.steps() == [2, 3]


def test_divergence_is_noticed(config, tmp_path):
  """A rate that makes the weights overflow stops the run; every checkpoint left is finite."""
  config.total_steps = 30
  config.checkpoint_every_steps = 1
  config.eval_every_steps = 30
  config.optimizer.learning_rate = 1e5
  config.optimizer.clip_norm = 0.0
  with pytest.raises(FloatingPointError, match=r"step \d+: loss=.* lower config.optimizer.learning_rate"):
    train.run(config, tmp_path)
  with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
    assert checkpoints.steps()
    for step in checkpoints.steps():
      state = checkpoints.restore(step, build_setup(config).state_shapes)
      assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_a_setting_that_may_not_change_is_refused_by_name(config, tmp_path):
  config.total_steps = 1
  train.run(config, tmp_path)
  config.model.kernel_size = 5
  config.batch_size = 16
  config.model.remat = True  # May change: it takes other time and memory alone.
  with pytest.raises(ValueError, match=r"config.batch_size was 8, is 16; config.model.kernel_size was 3, is 5. "):
    train.run(config, tmp_path)


def test_a_finished_run_does_nothing(config, tmp_path, caplog):
  config.total_steps = 2
  train.run(config, tmp_path)
  before = without_clock(tmp_path / "metrics.jsonl")
  train.run(config, tmp_path)
  assert without_clock(tmp_path / "metrics.jsonl") == before
  assert "in the order of this version" not in caplog.text
  record = json.loads((tmp_path / "run.json").read_text())
  del record["order"]
  (tmp_path / "run.json").write_text(json.dumps(record))
  train.run(config, tmp_path)
  assert "an older version began this run: from step 2 on, examples come in the order of this version" in caplog.text


# Metrics by step: the best is at step 2, and step 3 is as good, but no better.
METRICS = {1: 0.1, 2: 0.3, 3: 0.3, 4: 0.2, 5: 0.4, 6: 0.4}


@pytest.fixture
def early_stop_config(config, monkeypatch):
  """A config that evaluates each step, gets `METRICS`, and stops after two evaluations without a better one."""
  original = CheckpointMetrics.set
  monkeypatch.setattr(CheckpointMetrics, "set", lambda self, step, _: original(self, step, METRICS[step]))
  config.total_steps, config.eval_every_steps, config.early_stop_evaluations = 6, 1, 2
  return config


def test_early_stopping_ends_the_run_and_a_restart_does_not_train_on(early_stop_config, tmp_path, caplog):
  config = early_stop_config
  caplog.set_level("INFO")
  for _ in range(2):
    assert train.run(config, tmp_path) is True
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["step"] == 4
    assert "early stopping: the run is finished at step 4 of 6, as 2 evaluations brought no better mean" in caplog.text
    caplog.clear()
  (tmp_path / "checkpoints/scores.json").unlink()
  assert train.run(config, tmp_path) is True
  assert read_metrics(tmp_path / "metrics.jsonl")[-1]["step"] == 4
  config.early_stop_evaluations = 0
  assert train.run(config, tmp_path) is True
  assert read_metrics(tmp_path / "metrics.jsonl")[-1]["step"] == 6


@pytest.mark.parametrize("stop_at", [2, 3])
def test_a_resumed_run_stops_early_where_an_uninterrupted_one_does(early_stop_config, tmp_path, stop_at):
  config = early_stop_config
  assert train.run(config, tmp_path, stopped_at(config, stop_at)) is False
  assert train.run(config, tmp_path) is True
  with open_checkpoints(tmp_path) as checkpoints:
    assert checkpoints.latest() == 4 and checkpoints.best() == 3


def test_init_from_takes_the_weights_and_nothing_else(config, tmp_path):
  config.total_steps = 1
  train.run(config, tmp_path / "first")
  config.init_from = str(tmp_path / "first")
  config.optimizer.learning_rate = 0.0
  config.optimizer.weight_decay = 0.0
  train.run(config, tmp_path / "second")
  first, second = (final_state(tmp_path / name, config) for name in ("first", "second"))
  assert_identical(first.params, second.params)
  assert int(second.step) == 1


def test_init_from_another_network_names_the_leaves(config, tmp_path):
  config.total_steps = 1
  train.run(config, tmp_path / "first")
  config.init_from = str(tmp_path / "first")
  config.model.kernel_size = 5
  with pytest.raises(ValueError, match=r"params/head2/left_first/kernel is \(3, 1, 16, 11\) in the checkpoint"):
    train.run(config, tmp_path / "second")
