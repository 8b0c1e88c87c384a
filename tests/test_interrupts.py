"""Ctrl-C ends commands with one line; workers end with their parent."""

import os
import signal
import subprocess
import sys
import time

import pytest

from gcn_flax import commands, distributed, interrupts, main
from gcn_flax.workdir.writers import read_metrics
from tests.environment import jax_environment
from tests.test_main import ROOT, SMALL

COMMAND = """
import signal, sys, time
from gcn_flax.interrupts import interruptible
@interruptible
def main():
  if sys.argv[1:] == ["deaf"]:
    signal.signal(signal.SIGINT, lambda *_: None)
  print("begun", flush=True)
  time.sleep(60)
sys.exit(main())
"""

PARENT = """
import multiprocessing, os, time
from gcn_flax.workers import follow_parent, shielded_start
def work(pipe):
  follow_parent()
  pipe.send(os.getpid())
  time.sleep(60)
if __name__ == "__main__":
  here, there = multiprocessing.Pipe()
  child = multiprocessing.get_context("spawn").Process(target=work, args=(there,))
  with shielded_start():
    child.start()
  print(here.recv(), flush=True)
  time.sleep(60)
"""


def start(*command):
  return subprocess.Popen(
    [sys.executable, *command], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
    stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
  )  # fmt: skip


def interrupt(process, times):
  assert process.stdout.readline() == "begun\n"
  for _ in range(times):
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
  return process.communicate(timeout=30)[1]


def test_ctrl_c_ends_a_command_with_one_line():
  process = start("-c", COMMAND)
  assert interrupt(process, 1) == "error: stopped by Ctrl-C.\n"
  assert process.returncode == interrupts.INTERRUPTED == 130


def test_a_second_ctrl_c_ends_a_command_that_does_not_listen():
  process = start("-c", COMMAND, "deaf")
  assert interrupt(process, 2) == "error: stopped at once by a second Ctrl-C.\n"
  assert process.returncode == 130


def test_the_command_line_says_that_it_was_interrupted(monkeypatch, capsys):
  def interrupted(*_):
    raise KeyboardInterrupt

  handler = signal.getsignal(signal.SIGINT)
  monkeypatch.setattr(commands, "dispatch", interrupted)
  monkeypatch.setattr(commands, "log_to_stderr", lambda quiet: None)  # It would keep the stream of this test.
  try:
    arguments = ["--config=configs/camvid.py", "--workdir=nowhere", "--mode=eval"]
    assert main.main(["gcn_flax", *arguments]) == 130
  finally:
    signal.signal(signal.SIGINT, handler)
  assert capsys.readouterr().err == "error: stopped by Ctrl-C.\n"


def is_running(pid):
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  with open(f"/proc/{pid}/stat") as stat:
    return stat.read().rpartition(")")[2].split()[0] != "Z"


@pytest.fixture
def family(tmp_path):
  """A process and the number of its worker."""
  (tmp_path / "parent.py").write_text(PARENT)
  parent = start(str(tmp_path / "parent.py"))
  worker = int(parent.stdout.readline())
  yield parent, worker
  parent.kill()
  parent.communicate()


def test_a_worker_ends_when_its_parent_is_killed(family):
  parent, worker = family
  assert is_running(worker)
  parent.kill()
  for _ in range(100):
    if not is_running(worker):
      return
    time.sleep(0.1)
  os.kill(worker, signal.SIGKILL)
  raise AssertionError("the worker outlived its parent by ten seconds")


def test_ctrl_c_does_not_reach_a_worker(family):
  parent, worker = family
  os.kill(worker, signal.SIGINT)
  time.sleep(0.2)
  assert is_running(worker)


def session(process):
  """The numbers of the processes that are in the session of a process, which may have ended."""
  found = subprocess.run(["pgrep", "-s", str(process.pid)], capture_output=True, text=True, check=False)
  return [int(pid) for pid in found.stdout.split() if is_running(int(pid))]


@pytest.mark.slow
def test_workers_leave_nothing_behind(data_dir, tmp_path):
  """Ctrl-C in a terminal reaches the workers, too; then the run is killed."""
  command = [sys.executable, "-m", "gcn_flax.main", "--config=configs/camvid.py", f"--workdir={tmp_path}", *SMALL]
  command += [f"--config.data.data_dir={data_dir}", "--config.total_steps=100000", "--config.data.num_workers=2"]
  command += ["--config.log_every_steps=1", "--config.eval_every_steps=100000"]
  for step, number in ((3, signal.SIGINT), (50, signal.SIGKILL)):
    run = subprocess.Popen(
      command, cwd=ROOT, env=jax_environment(1), text=True, stderr=subprocess.PIPE, start_new_session=True
    )
    while run.poll() is None and not any(line["step"] >= step for line in read_metrics(tmp_path / "metrics.jsonl")):
      time.sleep(0.05)
    if number == signal.SIGINT:
      os.killpg(run.pid, number)
      _, errors = run.communicate(timeout=100)
      assert run.returncode == distributed.STOPPED, errors
      assert "To resume from here: python" in errors and f"--workdir={tmp_path} " in errors.split("To resume")[1]
      assert "Traceback" not in errors and "leaked" not in errors
    else:
      os.kill(run.pid, number)
      run.wait()
    for _ in range(100):
      if not session(run):
        break
      time.sleep(0.1)
    assert not session(run)
