"""Several processes are one run, or none."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from gcn_flax import build, cluster
from gcn_flax.training.checkpoint import open_checkpoints
from gcn_flax.writers import read_metrics
from tests.test_main import ROOT, SMALL

STEPS = 30


def free_address():
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return f"localhost:{free.getsockname()[1]}"


def start(workdir, data_dir, *flags):
  command = [sys.executable, "-m", "gcn_flax.main", "--config=configs/camvid.py", f"--workdir={workdir}", *SMALL]
  command += [
    f"--config.data.data_dir={data_dir}",
    f"--config.total_steps={STEPS}",
    "--config.log_every_steps=1",
    "--config.optimizer.learning_rate=1e-4",
    *flags,
  ]
  environment = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0", "JAX_PLATFORMS": "cpu"}
  return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
  "arguments, message",
  [
    (("here:1", 2, None), "give all three, or none"),
    (("", 2, 0), "give all three, or none"),
    (("here", 2, 0), "--coordinator='here' must be HOST:PORT"),
    (("here:1", 2, 2), "--process_id=2 must be from 0 to 1"),
    (("here:1", 0, 0), "--process_id=0 must be from 0 to -1"),
  ],
)
def test_flags_that_do_not_fit_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    cluster.join(*arguments, timeout=1)


@pytest.mark.parametrize(
  "variables, expected",
  [
    ({}, None),
    ({"SLURM_STEP_NUM_TASKS": "1"}, None),
    ({"SLURM_STEP_NUM_TASKS": "4"}, ("SLURM", 4)),
    ({"OMPI_COMM_WORLD_SIZE": "2"}, ("Open MPI", 2)),
    ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
    ({"TPU_WORKER_HOSTNAMES": "a,b,c"}, ("Cloud TPU", 3)),
  ],
)
def test_the_environment_tells_how_many_processes_there_are(monkeypatch, variables, expected):
  for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES"):
    monkeypatch.delenv(name, raising=False)
  for name, value in variables.items():
    monkeypatch.setenv(name, value)
  assert cluster.expected_processes() == expected


def test_a_count_that_is_no_number_is_refused(monkeypatch):
  monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "many")
  with pytest.raises(ValueError, match="SLURM_STEP_NUM_TASKS='many'"):
    cluster.expected_processes()


def test_a_process_whose_others_do_not_come_ends_with_a_message(data_dir, tmp_path):
  flags = [f"--coordinator={free_address()}", "--num_processes=2", "--process_id=0", "--join_timeout=3"]
  started = time.monotonic()
  process = start(tmp_path, data_dir, *flags)
  _, errors = process.communicate(timeout=60)
  assert process.returncode == 1 and time.monotonic() - started < 40
  assert "error: --num_processes asks for 2 processes, but they did not come together within 3 s" in errors
  assert "Traceback" not in errors and not any(tmp_path.iterdir())


def final_state(config, workdir):
  config.model.kernel_size = 3
  with open_checkpoints(workdir) as checkpoints:
    assert checkpoints.latest() == STEPS
    state = checkpoints.restore(STEPS, build.build(config, jax.devices()[:1]).state_shapes)
  return state


@pytest.mark.slow
def test_two_processes_train_stop_and_go_on_as_one(config, data_dir, tmp_path):
  """One of the two gets SIGTERM: both stop at the same step, and a single process goes on to the same weights."""
  alone = start(tmp_path / "alone", data_dir)
  _, errors = alone.communicate(timeout=300)
  assert alone.returncode == 0, errors

  workdir, address = tmp_path / "together", free_address()
  hosts = [
    start(workdir, data_dir, f"--coordinator={address}", "--num_processes=2", f"--process_id={index}")
    for index in range(2)
  ]
  while not any(line["step"] >= 5 for line in read_metrics(workdir / "metrics.jsonl")):
    assert all(host.poll() is None for host in hosts), hosts[0].communicate()[1]
    time.sleep(0.05)
  hosts[1].send_signal(signal.SIGTERM)
  said = [host.communicate(timeout=200)[1] for host in hosts]
  assert [host.returncode for host in hosts] == [75, 75], said
  steps = {text.split("stopped by a signal at step ")[1].split()[0] for text in said}
  assert len(steps) == 1 and 5 <= int(next(iter(steps))) < STEPS
  assert json.loads((workdir / "run.json").read_text())["devices"] == {"kind": "cpu", "count": 2, "hosts": 2}

  rest = start(workdir, data_dir)
  _, errors = rest.communicate(timeout=300)
  assert rest.returncode == 0 and f"going on from step {next(iter(steps))} of {STEPS}" in errors
  seen = [line["step"] for line in read_metrics(workdir / "metrics.jsonl") if "loss" in line]
  assert seen == list(range(1, STEPS + 1))
  for kind, tolerance in (("params", 1e-5), ("batch_stats", 1e-3)):  # Statistics of two images magnify any rounding.
    one, other = (getattr(final_state(config, path), kind) for path in (tmp_path / "alone", workdir))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
      np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)
