"""Four and eight processes form one run, over loopback with one CPU device each."""

import re
import signal
import time

import jax
import numpy as np
import pytest

from gcn_flax import distributed
from gcn_flax.workdir.writers import read_metrics
from tests.test_distributed import await_step, final_state, free_address, start

pytestmark = pytest.mark.slow
BATCH = 24  # A multiple of 3, 4 and 8.
FLAGS = [f"--config.batch_size={BATCH}", f"--config.eval.batch_size={BATCH}", "--config.eval.num_pictures=0"]


def start_processes(workdir, data_dir, count, *flags, present=None):
  """Starts `present` processes of a run of `count`, by default all."""
  joined = [*FLAGS, *flags, f"--coordinator={free_address()}", f"--num_processes={count}"]
  return [
    start(workdir, data_dir, *joined, f"--process_id={index}") for index in range(count if present is None else present)
  ]


def said_by(processes, timeout=500):
  return [process.communicate(timeout=timeout)[1] for process in processes]


def losses(workdir):
  return [line["loss"] for line in read_metrics(workdir / "metrics.jsonl") if "loss" in line]


def test_four_and_eight_processes_equal_one(config, data_dir, tmp_path):
  """Although one process of each run stands still for ten seconds."""
  steps = "--config.total_steps=3"
  (alone,) = start_processes(tmp_path / "1", data_dir, 1, steps)
  assert alone.wait(timeout=200) == 0, alone.communicate()[1]
  one = final_state(config, tmp_path / "1", 3)
  metrics = (tmp_path / "1" / "eval_validation.json").read_text()
  for count in (4, 8):
    workdir = tmp_path / str(count)
    processes = start_processes(workdir, data_dir, count, steps)
    slow = processes[count - 1]
    slow.send_signal(signal.SIGSTOP)
    time.sleep(10)
    slow.send_signal(signal.SIGCONT)
    said = said_by(processes)
    assert [process.returncode for process in processes] == [0] * count, said
    np.testing.assert_allclose(losses(workdir), losses(tmp_path / "1"), rtol=1e-5)
    several = final_state(config, workdir, 3)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(several.params), strict=True):
      np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-5, atol=1e-5)
    assert re.sub(r"\d\.\d+", "", metrics) == re.sub(r"\d\.\d+", "", (workdir / "eval_validation.json").read_text())


def test_three_processes_continue_after_one_of_four_was_killed(data_dir, tmp_path):
  flags = ["--config.total_steps=100000", "--config.eval_every_steps=100000", "--config.checkpoint_every_steps=2"]
  processes = start_processes(tmp_path, data_dir, 4, *flags)
  await_step(tmp_path, 4, processes)
  processes[2].kill()
  killed = time.monotonic()
  said = said_by(processes)
  assert [process.returncode for process in processes] == [75, 75, -signal.SIGKILL, 75], said
  assert time.monotonic() - killed < distributed.HEARTBEAT_TIMEOUT + 20
  silent = f"error: process 2 of 4 has given no sign of life for {distributed.HEARTBEAT_TIMEOUT} s"
  assert all(silent in text and "Traceback" not in text for index, text in enumerate(said) if index != 2)
  done = int(max((tmp_path / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name)).name)
  flags[0] = f"--config.total_steps={done + 2}"
  rest = start_processes(tmp_path, data_dir, 3, *flags)
  said = said_by(rest)
  assert [process.returncode for process in rest] == [0, 0, 0], said
  assert f"resuming from step {done} of {done + 2}" in said[0]


def test_three_of_four_processes_do_not_begin(data_dir, tmp_path):
  processes = start_processes(tmp_path / "run", data_dir, 4, "--join_timeout=10", present=3)
  said = said_by(processes, timeout=100)
  assert [process.returncode for process in processes] == [1, 1, 1], said
  assert all("asks for 4 processes, but they did not all connect within 10 s" in text for text in said)
  assert not (tmp_path / "run").exists()
