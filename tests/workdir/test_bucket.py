"""A workdir in a bucket, which is a Google Cloud Storage emulator on this machine."""

import json
import os
import re
import socket
import subprocess
import sys

import pytest

from gcn_flax import files
from tests.test_main import ROOT, SMALL

# In a process of its own: which bucket there is, gcsfs and TensorStore ask once.
SERVER = """
import sys
from gcp_storage_emulator.server import create_server
server = create_server("localhost", int(sys.argv[1]), in_memory=True, default_bucket="bucket")
server.start()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def bucket():
  """The environment of programs that see gs://bucket."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  server = subprocess.Popen(
    [sys.executable, "-c", SERVER, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    text=True,
  )  # fmt: skip
  assert server.stdout.readline() == "ready\n"
  address = f"http://localhost:{port}"
  yield {
    **os.environ, "STORAGE_EMULATOR_HOST": address, "TENSORSTORE_GCS_HTTP_URL": address, "GOOGLE_CLOUD_PROJECT": "p",
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
  }  # fmt: skip
  server.kill()


def python(bucket, text, *arguments):
  command = [sys.executable, "-c", text, *arguments]
  return subprocess.Popen(command, cwd=ROOT, env=bucket, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_other_stores_and_a_missing_library_are_named(monkeypatch):
  with pytest.raises(ValueError, match="'s3://b/run': unsupported storage. Use a local path or gs://BUCKET"):
    files.path("s3://b/run")
  monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ValueError, match="'gs://b/run': gcsfs is not installed. Run pip install gcsfs"):
    files.path("gs://b/run")


LEASES = """
import contextlib, threading, time
from gcn_flax import files
from gcn_flax.workdir import lock
from gcn_flax.workdir.workdir import Workdir
lock._BEAT, lock.LEASE = 0.3, 1.0
run = Workdir("gs://bucket/run")
def refused():
  with contextlib.suppress(ValueError), lock.locked(run):
    return False
  return True
with lock.locked(run):
  assert refused() and refused()
assert not (run / "lock").exists() and not refused()
(run / "lock").write_text('{"who": "one that was killed", "token": "x", "beat": 3}')
start = time.monotonic()
assert not refused() and time.monotonic() - start > 0.9
results = []
def enter():
  with contextlib.suppress(ValueError), lock.locked(run):
    results.append(1)
    time.sleep(1)
threads = [threading.Thread(target=enter) for _ in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert len(results) == 1, results
(run / "a" / "b" / "c").write_text("c")
(run / "a" / "d").write_text("d")
files.move(run / "a", run / "e" / "f")
assert (run / "e" / "f" / "b" / "c").read_text() == "c" and (run / "e" / "f" / "d").read_text() == "d"
assert not (run / "a").exists()
"""


def test_one_run_at_a_time_by_signs_of_life(bucket):
  process = python(bucket, LEASES)
  _, errors = process.communicate(timeout=60)
  assert process.returncode == 0, errors


# The emulator knows no conditional writes, which joined files (OCDBT) are made of: a file for each array instead.
WITHOUT_OCDBT = """
import functools, runpy, sys
import orbax.checkpoint as ocp
ocp.PyTreeCheckpointHandler = functools.partial(ocp.PyTreeCheckpointHandler, use_ocdbt=False)
sys.argv[0] = "gcn_flax.main"
runpy.run_module("gcn_flax.main", run_name="__main__")
"""
LOADED = """
import functools
import numpy as np
import orbax.checkpoint as ocp
ocp.PyTreeCheckpointHandler = functools.partial(ocp.PyTreeCheckpointHandler, use_ocdbt=False)
import gcn_flax
model = gcn_flax.load("gs://bucket/run", checkpoint="last")
assert model.predict(np.zeros((50, 70, 3), np.uint8)).shape == (50, 70) and model.classes[0] == "sky"
try:
  gcn_flax.load("gs://bucket/run/export/network.safetensors")
except ValueError as error:
  print(error)
"""
CONTENT = """
import json, sys
from gcn_flax import files
run = files.path("gs://bucket/run")
found = {name: (run / name).exists() for name in sys.argv[1:]}
found["metrics"] = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
found["starts"] = json.loads((run / "run.json").read_text())["starts"]
found["checkpoints"] = sorted(path.name for path in (run / "checkpoints").iterdir())
print(json.dumps(found))
"""


@pytest.mark.slow
def test_a_run_in_a_bucket_is_trained_resumed_scored_and_exported(bucket, data_dir):
  command = [sys.executable, "-c", WITHOUT_OCDBT, "--config=configs/camvid.py", "--workdir=gs://bucket/run", *SMALL]
  command += [f"--config.data.data_dir={data_dir}", "--config.checkpoint_every_steps=1"]

  def run(*flags):
    done = subprocess.run([*command, *flags], cwd=ROOT, env=bucket, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done

  run("--config.profile_at_step=1")
  again = run("--config.total_steps=3")
  assert "resuming from step 2 of 3" in again.stderr
  run("--mode=eval")
  exported = run("--mode=export", "--config.data.data_dir=gone").stdout  # It compares files on the samples of the run.
  assert "wrote gs://bucket/run/export/network.safetensors" in exported
  for name in ("network.stablehlo", "network.onnx", "network.py"):  # Scores of an untrained network may be equal.
    assert float(re.search(rf"{name}: (\S+) % equal labels", exported)[1]) > 99.9
  process = python(bucket, LOADED)
  output, errors = process.communicate(timeout=100)
  assert process.returncode == 0, errors
  assert output == "gs://bucket/run/export/network.safetensors: is in a bucket. Copy it to this machine.\n"
  names = [
    "samples/1.png",
    "export/network.onnx",
    "export/README.md",
    "report.html",
    "eval_validation.json",
    "eval_validation.png",
    "export/encoder.safetensors",
    "config.json",
  ]
  process = python(bucket, CONTENT, *names, "lock", "tensorboard", "profile")
  output, errors = process.communicate(timeout=60)
  assert process.returncode == 0, errors
  found = json.loads(output)
  assert [line["step"] for line in found["metrics"] if "loss" in line] == [2, 3]
  assert [start["step"] for start in found["starts"]] == [0, 2]
  assert {"2", "3", "scores.json"} <= set(found["checkpoints"])
  assert found.pop("lock") is False and all(found.values())
