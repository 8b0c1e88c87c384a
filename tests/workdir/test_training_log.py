"""Speed, time left and input wait, on a clock of the test's own."""

import logging

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


def metrics(finite=True):
  return {"loss": np.float32(1.5), "grad_norm": np.float32(2.0), "finite": np.bool_(finite)}


@pytest.fixture
def clock(monkeypatch):
  clock = Clock()
  monkeypatch.setattr(training_log, "time", clock)
  return clock


def make_log(lines, total_steps=100, log_every_steps=2):
  return TrainingLog(lines, lambda step: 0.1, 0, total_steps=total_steps, every_steps=log_every_steps, batch_size=8)


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
  assert "0:03:04 left" in caplog.text  # 92 steps of 2 s.


def test_a_step_waited_for_out_of_turn_does_not_count_as_instant(clock):
  lines = Lines()
  log = make_log(lines, log_every_steps=1)
  for step in (1, 2, 3):
    clock.now += 2.0
    log.push(step, metrics())
  log.flush()  # As before a save.
  assert [line["step"] for line in lines] == [1, 2, 3]
  np.testing.assert_allclose([line["images_per_second"] for line in lines], 4.0)


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
