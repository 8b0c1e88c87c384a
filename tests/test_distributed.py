"""Several processes form one run, or none at all."""

import importlib.util
import io
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

from gcn_flax import distributed
from gcn_flax.training.checkpoint import open_checkpoints
from gcn_flax.workdir.writers import read_metrics
from tests.environment import jax_environment
from tests.runs import build_setup
from tests.test_main import ROOT, SMALL

STEPS = 30


def free_address():
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return f"localhost:{free.getsockname()[1]}"


def test_libtpu_is_not_loaded_without_a_tpu():
  """It is installed for the tests, and would print five lines of errors to every user of this environment."""
  assert importlib.util.find_spec("libtpu")
  code = "from gcn_flax import distributed; import jax; distributed.join('', None, None, 1); print(jax.devices())"
  environment = {name: value for name, value in os.environ.items() if name not in ("JAX_PLATFORMS", "XLA_FLAGS")}
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
  assert done.returncode == 0 and done.stderr == ""
  assert "Tpu" not in done.stdout and "id=0" in done.stdout


@pytest.mark.parametrize(
  "platforms, device_files, skipped",
  [(None, [], True), ("", [], True), ("tpu,cpu", [], False), (None, ["/dev/vfio/0"], False)],
)
def test_libtpu_is_left_to_a_tpu_and_to_the_user_who_asks_for_it(monkeypatch, platforms, device_files, skipped):
  replaced = []
  monkeypatch.setattr(distributed, "register_backend_factory", lambda name, *_, **__: replaced.append(name))
  monkeypatch.setattr(distributed.glob, "glob", lambda pattern: device_files)
  before = jax.config.jax_platforms
  jax.config.update("jax_platforms", platforms)
  distributed.skip_libtpu()
  jax.config.update("jax_platforms", before)
  assert replaced == (["tpu"] if skipped else [])


def start(workdir, data_dir, *flags, devices=1, program=("-m", "gcn_flax.main")):
  given = {flag.split("=")[0] for flag in flags}
  small = [flag for flag in SMALL if flag.split("=")[0] not in given]
  command = [sys.executable, *program, "--config=configs/camvid.py", f"--workdir={workdir}", *small]
  command += [
    f"--config.data.data_dir={data_dir}",
    f"--config.total_steps={STEPS}",
    "--config.log_every_steps=1",
    "--config.optimizer.learning_rate=1e-4",
    *flags,
  ]
  return subprocess.Popen(
    command, cwd=ROOT, env=jax_environment(devices), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )


@pytest.mark.parametrize(
  "arguments, message",
  [
    (("here:1", 2, None), "all three, or none"),
    (("", 2, 0), "all three, or none"),
    (("here", 2, 0), "--coordinator='here': must be HOST:PORT"),
    (("here:²", 2, 0), "--coordinator='here:²': must be HOST:PORT"),
    (("here:1", 2, 2), "--process_id=2: must be from 0 to 1"),
    (("here:1", 0, 0), "--num_processes=0: must be at least 1"),
  ],
)
def test_inconsistent_flags_are_rejected(arguments, message):
  with pytest.raises(ValueError, match=message):
    distributed.join(*arguments, timeout=1)


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
def test_the_number_of_processes_is_read_from_the_environment(monkeypatch, variables, expected):
  for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES"):
    monkeypatch.delenv(name, raising=False)
  for name, value in variables.items():
    monkeypatch.setenv(name, value)
  assert distributed.expected_processes() == expected


def test_a_tpu_vm_asks_the_metadata_server(monkeypatch):
  """Only on a machine with TPU devices; without an answer, the process is the only one."""
  for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES", "TPU_SKIP_MDS_QUERY"):
    monkeypatch.delenv(name, raising=False)
  asked = []

  def answer(request, timeout):
    asked.append((request.full_url, request.get_header("Metadata-flavor")))
    return io.BytesIO(b"worker0:x:10.0.0.1,worker1:y:10.0.0.2")

  monkeypatch.setattr(distributed.urllib.request, "urlopen", answer)
  monkeypatch.setattr(distributed.glob, "glob", lambda pattern: [])
  assert distributed.expected_processes() is None and not asked
  monkeypatch.setattr(distributed.glob, "glob", lambda pattern: ["/dev/accel0"] if "accel" in pattern else [])
  assert distributed.expected_processes() == ("Cloud TPU", 2)
  url, flavour = asked[0]
  assert url.endswith("/instance/attributes/worker-network-endpoints") and flavour == "Google"

  def refuse(request, timeout):
    raise OSError

  monkeypatch.setattr(distributed.urllib.request, "urlopen", refuse)
  assert distributed.expected_processes() is None


def test_a_process_count_that_is_not_a_number_is_rejected(monkeypatch):
  monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "many")
  with pytest.raises(ValueError, match="SLURM_STEP_NUM_TASKS='many': must be a number"):
    distributed.expected_processes()


def test_a_process_that_waits_in_vain_for_the_others_ends_with_a_message(data_dir, tmp_path):
  flags = [f"--coordinator={free_address()}", "--num_processes=2", "--process_id=0", "--join_timeout=3"]
  started = time.monotonic()
  process = start(tmp_path, data_dir, *flags)
  _, errors = process.communicate(timeout=60)
  assert process.returncode == 1 and time.monotonic() - started < 40
  assert "error: --num_processes asks for 2 processes, but they did not all connect within 3 s" in errors
  assert "Traceback" not in errors and not any(tmp_path.iterdir())


def start_two(workdir, data_dir, *flags, devices=1, second=("-m", "gcn_flax.main")):
  joined = [*flags, f"--coordinator={free_address()}", "--num_processes=2"]
  first = start(workdir, data_dir, *joined, "--process_id=0", devices=devices)
  return [first, start(workdir, data_dir, *joined, "--process_id=1", devices=devices, program=second)]


def await_step(workdir, step, hosts):
  while not any(line["step"] >= step for line in read_metrics(workdir / "metrics.jsonl")):
    assert all(host.poll() is None for host in hosts), [host.communicate()[1] for host in hosts]
    time.sleep(0.05)


def final_state(config, workdir, step=STEPS):
  config.model.kernel_size = 3
  with open_checkpoints(workdir) as checkpoints:
    assert checkpoints.latest() == step
    state = checkpoints.restore(step, build_setup(config, jax.devices()[:1]).state_shapes)
  return state


@pytest.mark.slow
def test_two_processes_stop_together_and_one_continues_their_run(config, data_dir, tmp_path):
  """SIGTERM to one of them stops both at the same step; a single process then reaches the same weights."""
  alone = start(tmp_path / "alone", data_dir)
  _, errors = alone.communicate(timeout=300)
  assert alone.returncode == 0, errors

  workdir = tmp_path / "together"
  hosts = start_two(workdir, data_dir)
  await_step(workdir, 5, hosts)
  hosts[1].send_signal(signal.SIGTERM)
  said = [host.communicate(timeout=200)[1] for host in hosts]
  assert [host.returncode for host in hosts] == [75, 75], said
  steps = {text.split("stopped by a signal at step ")[1].split()[0] for text in said}
  assert len(steps) == 1 and 5 <= int(next(iter(steps))) < STEPS
  assert json.loads((workdir / "run.json").read_text())["devices"] == {"kind": "cpu", "count": 2, "hosts": 2}

  rest = start(workdir, data_dir)
  _, errors = rest.communicate(timeout=300)
  assert rest.returncode == 0 and f"resuming from step {next(iter(steps))} of {STEPS}" in errors
  seen = [line["step"] for line in read_metrics(workdir / "metrics.jsonl") if "loss" in line]
  assert seen == list(range(1, STEPS + 1))
  for kind, tolerance in (("params", 1e-5), ("batch_stats", 1e-3)):  # Batch statistics of two images magnify rounding.
    one, other = (getattr(final_state(config, path), kind) for path in (tmp_path / "alone", workdir))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
      np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_a_signal_interrupts_an_evaluation_on_both_processes(data_dir, tmp_path):
  """Evaluation is the longest wait between two steps: here 5 images at four scales, flipped, after each step."""
  flags = ["--config.eval_every_steps=1", "--config.eval.scales=(0.5,1.0,1.5,2.0)", "--config.eval.flip=True"]
  hosts = start_two(tmp_path, data_dir, *flags, "--config.eval.num_pictures=0")
  await_step(tmp_path, 2, hosts)
  hosts[1].send_signal(signal.SIGTERM)
  said = [host.communicate(timeout=200)[1] for host in hosts]
  assert [host.returncode for host in hosts] == [75, 75], said
  step = int(said[0].split("stopped by a signal at step ")[1].split()[0])
  assert f"stopped by a signal at step {step} of" in said[1]
  assert (tmp_path / "checkpoints" / str(step)).is_dir()


@pytest.mark.slow
def test_spatial_sharding_over_two_processes_equals_one_device(config, data_dir, tmp_path):
  """Two processes of four devices split the rows of an image over 4 or 2 of them; 8 do not fit and are rejected."""
  flags = ["--config.data.crop_size=(128,64)", "--config.batch_size=4", "--config.total_steps=3"]
  alone = start(tmp_path / "alone", data_dir, *flags)
  _, errors = alone.communicate(timeout=300)
  assert alone.returncode == 0, errors
  one = final_state(config, tmp_path / "alone", 3)
  losses = [line["loss"] for line in read_metrics(tmp_path / "alone" / "metrics.jsonl") if "loss" in line]
  for spatial in (4, 2):
    workdir = tmp_path / f"spatial{spatial}"
    split = f"--config.mesh.spatial={spatial}"
    hosts = start_two(workdir, data_dir, *flags, split, "--config.eval.batch_size=8", devices=4)
    said = [host.communicate(timeout=300)[1] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], said
    seen = [line["loss"] for line in read_metrics(workdir / "metrics.jsonl") if "loss" in line]
    np.testing.assert_allclose(seen, losses, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(final_state(config, workdir, 3).params), strict=True):
      np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-5, atol=1e-5)
  hosts = start_two(tmp_path / "wrong", data_dir, *flags, "--config.mesh.spatial=8", devices=4)
  said = [host.communicate(timeout=100)[1] for host in hosts]
  assert [host.returncode for host in hosts] == [1, 1] and "height must be a multiple of 256" in said[0], said


@pytest.mark.slow
def test_two_processes_agree_on_a_damaged_checkpoint(data_dir, tmp_path):
  """Both set it aside if it is damaged. If only one process cannot read it, both report that and nothing is moved."""
  flags = ["--config.total_steps=3", "--config.checkpoint_every_steps=1", "--config.keep_checkpoints=3"]
  for host in start_two(tmp_path, data_dir, *flags):
    _, errors = host.communicate(timeout=200)
    assert host.returncode == 0, errors
  for data in (tmp_path / "checkpoints" / "3").rglob("d/*"):
    data.write_bytes(data.read_bytes()[:-100])
  for host in start_two(tmp_path, data_dir, *flags):
    _, errors = host.communicate(timeout=200)
    assert host.returncode == 0, errors
    assert "checkpoints/3 is damaged" in errors
  assert (tmp_path / "checkpoints" / "damaged" / "3.0").is_dir() and (tmp_path / "checkpoints" / "3").is_dir()

  broken = """
import runpy, sys
from gcn_flax.training import checkpoint
def fail(self, step):
  raise PermissionError(13, "Permission denied", str(self.directory / str(step)))
checkpoint.Checkpoints._digests = fail
sys.argv[0] = "gcn_flax.main"
runpy.run_module("gcn_flax.main", run_name="__main__")
"""
  flags[0] = "--config.total_steps=4"
  hosts = start_two(tmp_path, data_dir, *flags, second=["-c", broken])
  said = [host.communicate(timeout=200)[1] for host in hosts]
  assert [host.returncode for host in hosts] == [1, 1], said
  assert "error: process 1 cannot read" in said[0] and "Permission denied" in said[0] and "Permission denied" in said[1]
  assert len(list((tmp_path / "checkpoints" / "damaged").iterdir())) == 1


@pytest.mark.slow
def test_a_killed_process_ends_the_others_with_the_reason(data_dir, tmp_path):
  hosts = start_two(tmp_path, data_dir, "--config.total_steps=100000")
  await_step(tmp_path, 3, hosts)
  hosts[1].kill()
  killed = time.monotonic()
  _, errors = hosts[0].communicate(timeout=120)
  assert hosts[0].returncode == distributed.STOPPED and time.monotonic() - killed < distributed.HEARTBEAT_TIMEOUT + 10
  assert f"error: process 1 of 2 has given no sign of life for {distributed.HEARTBEAT_TIMEOUT} s: all" in errors
  assert "Traceback" not in errors


@pytest.mark.slow
def test_a_failing_process_ends_the_others_with_its_message(data_dir, tmp_path):
  address = free_address()
  joined = [f"--coordinator={address}", "--num_processes=2"]
  hosts = [
    start(tmp_path / "run", where, *joined, f"--process_id={index}")
    for index, where in enumerate((data_dir, str(tmp_path / "nothing")))
  ]
  said = [host.communicate(timeout=100)[1] for host in hosts]
  assert [host.returncode for host in hosts] == [1, 1], said
  assert "error: data set 'camvid' is not prepared" in said[1]
  assert f"error: process 1 failed on {socket.gethostname()}: error: data set 'camvid' is not prepared" in said[0]
