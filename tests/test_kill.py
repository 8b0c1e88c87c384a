"""A run that is killed and restarted ends like an uninterrupted one."""

import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from gcn_flax.training.checkpoint import open_checkpoints
from gcn_flax.workdir.writers import read_metrics
from tests.runs import build_setup
from tests.test_main import ROOT, SMALL

STEPS = 12


def start(data_dir, workdir):
  command = [sys.executable, "-m", "gcn_flax.main", "--config=configs/camvid.py", f"--workdir={workdir}", *SMALL]
  command += [f"--config.data.data_dir={data_dir}", f"--config.total_steps={STEPS}", "--config.log_every_steps=1"]
  command += ["--config.checkpoint_every_steps=1", "--config.eval_every_steps=5"]
  environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
  return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def kill_at(process, workdir, step):
  """Sends SIGKILL once the metrics of `step` are on disk, at some moment of a step, a save or an evaluation."""
  while process.poll() is None and not any(line["step"] >= step for line in read_metrics(workdir / "metrics.jsonl")):
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert process.returncode == -signal.SIGKILL


def final_leaves(config, workdir):
  config.model.kernel_size = 3
  with open_checkpoints(workdir) as checkpoints:
    assert checkpoints.latest() == STEPS
    return jax.tree.leaves(checkpoints.restore(STEPS, build_setup(config, jax.devices()[:1]).state_shapes))


def numbers(workdir):
  """Returns the lines of metrics.jsonl without what depends on the clock."""
  keep = ("step", "loss", "grad_norm", "learning_rate", "validation/mean_iou")
  return [{key: line[key] for key in keep if key in line} for line in read_metrics(workdir / "metrics.jsonl")]


@pytest.mark.slow
def test_killed_and_resumed_run_equals_an_uninterrupted_one(config, data_dir, tmp_path):
  uninterrupted, killed = tmp_path / "uninterrupted", tmp_path / "killed"
  process = start(data_dir, uninterrupted)
  _, errors = process.communicate()
  assert process.returncode == 0, errors

  for step in (3, 6, 10):
    kill_at(start(data_dir, killed), killed, step)
  process = start(data_dir, killed)
  _, errors = process.communicate()
  assert process.returncode == 0, errors

  assert numbers(uninterrupted) == numbers(killed)
  for one, other in zip(final_leaves(config, uninterrupted), final_leaves(config, killed), strict=True):
    np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
