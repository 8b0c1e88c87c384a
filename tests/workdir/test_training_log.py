"""Speed, time left and input wait, on a clock of the test's own."""

import logging
import types

import numpy as np
import pytest

from gcn_flax.workdir import training_log
from gcn_flax.workdir.training_log import TrainingLog


class Clock:
  """Stands still until it is told to go on."""

  now = 0.0

  def monotonic(self):
    return self.now


class Lines(list):
  """Keeps what a writer would write."""

  def scalars(self, step, scalars):
    self.append({"step": step, **scalars})

  def has(self, step, key):
    return False


def metrics(finite=True, loss=1.5):
  return {"loss": np.float32(loss), "grad_norm": np.float32(2.0), "finite": np.bool_(finite)}


@pytest.fixture
def clock(monkeypatch):
  clock = Clock()
  monkeypatch.setattr(training_log, "time", clock)
  return clock


def make_log(lines, total_steps=100, log_every_steps=2):
  return TrainingLog(
    lines, lambda step: 0.1, 0, total_steps=total_steps, every_steps=log_every_steps, eval_every_steps=40, batch_size=8
  )


def test_speed_leaves_out_compilation_and_pauses_and_counts_waiting(clock, caplog):
  lines = Lines()
  log = make_log(lines, log_every_steps=4)
  clock.now += 60.0  # The first step compiles.
  log.push(1, metrics())
  for step in range(2, 10):
    with log.waiting():
      clock.now += 0.5
    clock.now += 1.5
    if step == 7:
      with log.paused():
        clock.now += 1000.0
    with caplog.at_level(logging.INFO, logger="gcn_flax"):
      log.push(step, metrics())
  assert [line["step"] for line in lines] == [4, 8]
  for line in lines:
    np.testing.assert_allclose(line["images_per_second"], 8 / 2.0)
    np.testing.assert_allclose(line["input_wait"], 0.25)
  assert "0:03:04 and 3 evaluations left" in caplog.text  # 92 steps of 2 s; evaluations at 40, 80 and 100.


def test_a_step_waited_for_out_of_turn_does_not_count_as_instant(clock):
  lines = Lines()
  log = make_log(lines, log_every_steps=1)
  for step in (1, 2, 3):
    clock.now += 2.0
    log.push(step, metrics())
  log.flush()  # As before a save.
  assert [line["step"] for line in lines] == [1, 2, 3]
  np.testing.assert_allclose([line["images_per_second"] for line in lines], 4.0)


def test_the_first_step_and_then_an_estimate_of_the_whole_run_are_logged(clock, caplog):
  log = make_log(Lines(), log_every_steps=50)
  scored = types.SimpleNamespace(logged={"mean_iou": 0.5}, sample=[])
  with caplog.at_level(logging.INFO, logger="gcn_flax"):
    with log.paused():  # A resumed run may begin with an evaluation.
      clock.now += 500.0
    clock.now += 60.0
    for step in range(1, 41):
      log.push(step, metrics())
      clock.now += 2.0
    log.flush()
    log.evaluation(40, "validation", scored, 30.0)
    log.push(41, metrics())
    assert [record.message for record in caplog.records] == [
      "first step after 62.0 s, compilation included",
      "about 2 s per step, 0:03:12 and 3 evaluations left",
      "evaluated validation in 30.0 s, 0:03:00 left",  # 60 steps, and evaluations at 80 and 100.
    ]


def test_the_loss_of_a_line_is_the_mean_since_the_line_before():
  lines = Lines()
  log = make_log(lines, total_steps=5)
  for step in range(1, 6):
    log.push(step, metrics(loss=step))
  log.flush()
  assert [(line["step"], line["loss"]) for line in lines] == [(2, 1.5), (4, 3.5), (5, 5.0)]


@pytest.mark.parametrize("total_steps", [1, 2])
def test_the_shortest_runs_have_a_speed(clock, total_steps):
  lines = Lines()
  log = make_log(lines, total_steps=total_steps, log_every_steps=total_steps)
  for step in range(1, total_steps + 1):
    clock.now += 4.0
    log.push(step, metrics())
  log.flush()
  assert [line["images_per_second"] for line in lines] == [2.0]


def test_a_step_that_is_not_finite_is_named(clock):
  log = make_log(Lines())
  log.push(1, metrics())
  log.push(2, metrics(finite=False))
  with pytest.raises(FloatingPointError, match="step 2: loss=1.5"):
    log.push(3, metrics())
