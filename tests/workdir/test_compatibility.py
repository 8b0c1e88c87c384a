"""One run per workdir, with room for its checkpoints."""

import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import time

import pytest

from gcn_flax import train
from gcn_flax.training.checkpoint import open_checkpoints
from gcn_flax.workdir import compatibility, lock
from gcn_flax.workdir.workdir import Workdir
from gcn_flax.workdir.writers import read_image_ids, read_metrics
from tests.test_main import ROOT, SMALL

pytestmark = pytest.mark.usefixtures("fast_runs")

HOLD = """
import sys, time
from gcn_flax.workdir import lock
from gcn_flax.workdir.workdir import Workdir
with lock.locked(Workdir(sys.argv[1])):
  print("in", flush=True)
  time.sleep(100)
"""


def test_a_second_run_is_refused_and_a_killed_one_leaves_the_workdir_free(config, tmp_path):
  holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
  assert holder.stdout.readline() == "in\n"
  for _ in range(2):
    message = f"in use by another run .process {holder.pid} on {socket.gethostname()}, begun 20.*. Wait for it, stop it"
    with pytest.raises(ValueError, match=message):
      train.run(config, tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ["lock"]
  holder.kill()
  holder.wait()
  (tmp_path / "lock").write_text("")
  workdir = Workdir(tmp_path)
  with lock.locked(workdir), pytest.raises(ValueError, match="in use"), lock.locked(workdir):
    pass
  with lock.locked(workdir):
    pass


def test_a_disk_without_room_for_a_checkpoint_is_rejected_before_the_first_step(config, monkeypatch, tmp_path):
  free = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
  monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
  with pytest.raises(ValueError, match=r"the disk of .* has 1 MB left, and a checkpoint takes \d+ MB. Make room"):
    train.run(config, tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ["lock"]


@pytest.mark.slow
def test_another_clock_and_another_host_name_change_nothing(config, monkeypatch, tmp_path):
  config.total_steps = config.eval_every_steps = config.checkpoint_every_steps = 2
  train.run(config, tmp_path)
  monkeypatch.setattr(time, "time", lambda now=time.time: now() - 10**7)
  monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
  config.total_steps = 3
  train.run(config, tmp_path)
  assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl") if "loss" in line] == [1, 2, 3]
  with open_checkpoints(tmp_path) as checkpoints:
    assert checkpoints.latest() == 3
  assert "elsewhere" in (tmp_path / "lock").read_text()


@pytest.fixture
def damaged(data_dir, tmp_path):
  """The tiny data set with one flipped bit in a record of its training images."""
  shutil.copytree(data_dir, tmp_path / "data")
  (path,) = (tmp_path / "data").rglob("*train.array_record*")
  data = bytearray(path.read_bytes())
  data[data.index(b"IHDR", len(data) // 3) + 300] ^= 1
  path.write_bytes(data)
  return str(tmp_path / "data")


def test_a_damaged_example_is_named_or_skipped_and_counted(config, damaged, tmp_path):
  config.data.data_dir, config.total_steps, config.log_image_ids = damaged, 3, True
  config.eval_every_steps = config.checkpoint_every_steps = 3
  with pytest.raises(
    ValueError,
    match=r"camvid 'train', example \d+, is damaged: .* or set config.data.skip_corrupt=True",
  ):
    train.run(config, tmp_path / "stopped")
  config.data.skip_corrupt = True
  train.run(config, tmp_path / "run")
  # Every one of twelve images stands twice in 24 places; a damaged one may be drawn again in place of itself.
  assert [line["skipped"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in line][-1] >= 2
  image_ids = read_image_ids(tmp_path / "run" / "examples" / "start0_host0.jsonl")
  assert list(image_ids) == [1, 2, 3]
  seen = [image for step in image_ids.values() for image in step]
  assert len(seen) == 24 and len(set(seen)) == 11


def test_long_lists_of_classes_are_contrasted_where_they_differ(config, tmp_path):
  names = [f"class {index}" for index in range(100)]
  Workdir(tmp_path).write_json("run.json", {"classes": names})
  compatibility.check_classes(config, names, tmp_path)
  swapped = [*names[:40], names[41], names[40], *names[42:]]
  message = r"with the classes 40 = class 40, 41 = class 41 \(2 differ; 100 in all\), but .* has 40 = class 41, 41 = "
  with pytest.raises(ValueError, match=message):
    compatibility.check_classes(config, swapped, tmp_path)
  with pytest.raises(ValueError, match=r"classes 99 = class 99 \(1 differ; 100 in .* has 99 = none \(1 differ; 99 in"):
    compatibility.check_classes(config, names[:-1], tmp_path)


def test_a_mended_name_of_a_class_is_answered_with_how_to_keep_the_network(config, tmp_path):
  """The replacement that the error names, made in run.json, lets evaluation and training go on."""
  workdir = Workdir(tmp_path)
  before, after = ["road", 'pede"strain', "stra\u00dfe"], ["road", "pedestrian", "stra\u00dfe"]
  fingerprint = {"examples": 3, "bytes": 7, "image_format": "original"}
  old = fingerprint | {"classes": before, "digest": "123"}
  new = fingerprint | {"classes": after, "digest": "456"}
  workdir.write_json("run.json", {"classes": before, "fingerprints": {"folder train": old}})
  run_json = tmp_path / "run.json"
  with pytest.raises(ValueError) as evaluation:
    compatibility.check_classes(config, after, tmp_path)
  with pytest.raises(ValueError, match=r"\(classes, digest differ\). Bring that data set back") as training:
    compatibility.check_fingerprints({"folder train": new}, workdir, "DATA")
  name = r'replace "pede\"strain" by "pedestrian"'
  assert f"If only names were mended, keep the network and {name} throughout {run_json}." in str(evaluation.value)
  assert f'{name}, "123" by "456" throughout {run_json}.' in str(training.value)
  replaced = run_json.read_text()
  for one, other in re.findall(r'("(?:\\.|[^"\\])*") by ("[^"]*")', str(training.value)):
    replaced = replaced.replace(one, other)
  run_json.write_text(replaced)
  compatibility.check_classes(config, after, tmp_path)
  compatibility.check_fingerprints({"folder train": new}, workdir, "DATA")


@pytest.mark.parametrize("after", [["b", "a"], ["a", "c", "d"], ["b", "c"]])
def test_classes_in_another_order_or_number_are_not_taken_for_mended_names(after, config, tmp_path):
  Workdir(tmp_path).write_json("run.json", {"classes": ["a", "b"]})
  with pytest.raises(ValueError, match="has {}. Use a workdir that was trained on these.$".format(", ".join(after))):
    compatibility.check_classes(config, after, tmp_path)


def test_a_stretched_schedule_is_logged(config, trained_run, caplog):
  caplog.set_level("INFO", "gcn_flax")
  config.optimizer.warmup_steps = 0
  compatibility.log_schedule_change(config, Workdir(trained_run), 1)
  assert not caplog.messages
  config.total_steps = 4
  compatibility.log_schedule_change(config, Workdir(trained_run), 1)
  rate = config.optimizer.learning_rate
  old, new = rate * 0.5**config.optimizer.poly_power, rate * 0.75**config.optimizer.poly_power
  assert caplog.messages == [
    f"config.total_steps was 2, is 4: the learning rate at step 1 changes from {old:.3g} to {new:.3g}."
  ]


@pytest.mark.slow
def test_a_disk_that_is_full_during_a_save_ends_in_one_line_and_the_run_goes_on_later(data_dir, tmp_path):
  """By a limit on the size of files, which needs no rights; the words of a full disk are in test_checkpoint.py."""
  command = [sys.executable, "-m", "gcn_flax.main", "--config=configs/camvid.py", f"--workdir={tmp_path}", *SMALL]
  command += [f"--config.data.data_dir={data_dir}", "--config.checkpoint_every_steps=1"]

  def run(**options):
    environment = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, **options)

  done = run(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6)))
  errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
  assert done.returncode == 1 and len(errors) == 1, done.stderr
  assert f"a checkpoint could not be written to {tmp_path}/checkpoints" in errors[0] and "File too large" in errors[0]
  assert "there is none yet. Make room" in errors[0]
  done = run()
  assert done.returncode == 0, done.stderr
  assert {path.name for path in (tmp_path / "checkpoints").iterdir()} >= {"1", "2"}
  assert not list((tmp_path / "checkpoints").glob("*tmp*"))
