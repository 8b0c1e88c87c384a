"""The command line from end to end: one line for a mistake, and training without TensorFlow."""

import json
import logging
import pathlib
import subprocess
import sys
import types

import cv2
import numpy as np
import pytest

from gcn_flax.main import main
from gcn_flax.workdir.writers import read_metrics
from tests.environment import jax_environment

ROOT = pathlib.Path(__file__).parent.parent

SMALL = [
  "--config.total_steps=2", "--config.batch_size=2", "--config.eval.batch_size=2", "--config.data.crop_size=(64,64)",
  "--config.data.eval_size=(64,96)", "--config.model.kernel_size=3", "--config.optimizer.kind=sgd",
]  # fmt: skip

# A finder that hides TensorFlow and what only reports and the CRF need, as on a machine without them.
WITHOUT_TENSORFLOW = """
import importlib.machinery, runpy, sys
find = importlib.machinery.PathFinder.find_spec
hidden = ("tensorflow", "tensorboard", "matplotlib", "jinja2", "pydensecrf", "onnx", "starlette")
importlib.machinery.PathFinder.find_spec = classmethod(
  lambda cls, name, *args: None if name.split(".")[0] in hidden else find(name, *args))
sys.argv[0] = "gcn_flax.main"
try:
  runpy.run_module("gcn_flax.main", run_name="__main__")
finally:
  assert "tensorflow" not in sys.modules
"""


# The devices of the tests' own process.
ON_EIGHT_DEVICES = ["--config.batch_size=8", "--config.eval.batch_size=8"]


def run(*arguments, code=None, devices=1):
  """Runs a command in a process of its own."""
  start = [sys.executable, "-c", code] if code else [sys.executable, "-m", "gcn_flax.main"]
  environment = jax_environment(devices)
  return subprocess.run([*start, *arguments], capture_output=True, text=True, cwd=ROOT, env=environment, check=False)


@pytest.fixture
def call(capsys, monkeypatch):
  """Runs a command in this process, which has imported and compiled what it takes."""
  monkeypatch.chdir(ROOT)
  logger = logging.getLogger("gcn_flax")
  before = logger.propagate, logger.level, logger.handlers

  def run_main(*arguments):
    status = main(["gcn_flax", *arguments])
    output, errors = capsys.readouterr()
    return types.SimpleNamespace(returncode=status, stdout=output, stderr=errors)

  yield run_main
  logger.propagate, logger.level, logger.handlers = before


COMMON = ["--config=configs/camvid.py", "--workdir=W"]
MISTAKES = {
  "no config": ([], "--config is missing"),
  "no workdir": (["--config=configs/camvid.py"], "--workdir is missing"),
  "another store": (["--config=configs/camvid.py", "--workdir=s3://bucket/run"], "unsupported storage"),
  "a file that is no config": (["--config=setup_that_is_no_config.py", "--workdir=W"], "setup_that_is_no_config.py"),
  "no such recipe": (["--config=configs/nowhere.py", "--workdir=W"], "configs/nowhere.py"),
  "no such variant": (["--config=configs/quickstart.py:large", "--workdir=W"], "Use one of gcn, pointwise"),
  "no such field": ([*COMMON, "--config.optimizer.rate=1"], "no field 'rate'"),
  "a bad number": ([*COMMON, "--config.total_steps=many"], "config.total_steps=many"),
  "a bad pair": ([*COMMON, "--config.data.crop_size=('a',3)"], "must be (height, width) in whole pixels"),
  "no such mode": ([*COMMON, "--mode=fly"], "--mode=fly"),
  "no such flag": ([*COMMON, "--steps=3"], "steps"),
  "an argument": ([*COMMON, "extra"], "unexpected argument 'extra'"),
  "an even kernel": ([*COMMON, "--config.model.kernel_size=4"], "config.model.kernel_size=4: must be odd. Use 3 or 5."),
  "unprepared data": ([*COMMON, "--config.data.data_dir=D"], "run: python -m data.prepare"),
  "pictures in training": ([*COMMON, "--images=*.jpg", "--output=O"], "--images is only valid with --mode=predict"),
  "a submission in evaluation": ([*COMMON, "--mode=eval", "--submission=voc"], "with --mode=predict or check (got"),
  "a CRF for a classifier": (
    ["--config=configs/silhouettes.py", "--workdir=W", "--mode=search_crf"], "search_crf is for classes of pixels"
  ),
  "a mix of nothing in a check": (
    [*COMMON, "--mode=check", "--submission=voc", "--config.data.train_mix=((1, 2),)"], "(1, 2) must be (data set,"
  ),
  "a tile of odd size": ([*COMMON, "--config.eval.tile=(100,64)"], "config.eval.tile=(100, 64): must be"),
  "overlap without tiles": ([*COMMON, "--config.eval.overlap=9"], "config.eval.overlap=9: has no effect"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name, tmp_path, call):
  arguments, message = MISTAKES[name]
  result = call(*(argument.replace("=W", f"={tmp_path}/run") for argument in arguments))
  (line,) = result.stderr.splitlines()
  assert result.returncode == 1 and line.startswith("error: ") and message in line
  assert not (tmp_path / "run").exists()


def test_a_mistake_ends_with_status_1_and_nothing_else_on_stderr():
  result = run("--config=configs/camvid.py", "--workdir=/nowhere", "--config.total_steps=0")
  assert result.returncode == 1
  assert result.stderr == "error: config.total_steps=0: must be from 1 to 2147483647. Use for instance 10000.\n"


@pytest.mark.slow
def test_train_and_evaluate_from_the_command_line(data_dir, tmp_path, call):
  common = [
    "--config=configs/camvid.py",
    f"--workdir={tmp_path}",
    f"--config.data.data_dir={data_dir}",
    *SMALL,
    *ON_EIGHT_DEVICES,
  ]
  trained = run(*common, "--config.profile_at_step=1", devices=8)
  assert trained.returncode == 0, trained.stderr
  assert "config.eval_every_steps=200 is longer than the run: taken as 2" in trained.stderr
  assert any((tmp_path / "profile").rglob("*.xplane.pb"))
  first = json.loads((tmp_path / "eval_validation.json").read_text())
  assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [2, 2]
  run_json = json.loads((tmp_path / "run.json").read_text())
  assert run_json["data"] == {"camvid": {"train": 12, "validation": 5}} and "-m gcn_flax.main" in run_json["command"]
  assert any((tmp_path / "tensorboard").iterdir())
  assert "validation/mean_iou" in json.loads((tmp_path / "report.json").read_text())["metrics"][-1]

  (tmp_path / "eval_validation.json").unlink()
  for checkpoint in ("last", "2"):
    scored = call(*common, "--mode=eval", f"--checkpoint={checkpoint}")
    assert scored.returncode == 0, scored.stderr
    assert json.loads((tmp_path / "eval_validation.json").read_text()) == first
  config_json = (tmp_path / "config.json").read_text()
  other_batches = call(*common, "--mode=eval", "--config.batch_size=64", "--config.total_steps=9")
  assert other_batches.returncode == 0 and (tmp_path / "config.json").read_text() == config_json
  missing = call(*common, "--mode=eval", "--checkpoint=3")
  assert missing.returncode == 1 and "no checkpoint of step 3; there are: 2" in missing.stderr
  other = call(*common, "--mode=eval", "--config.model.kernel_size=5")
  assert other.returncode == 1 and "config.model.kernel_size was 3, is 5" in other.stderr
  train_split = call(*common, "--mode=eval", "--split=train")
  assert train_split.returncode == 0, train_split.stderr
  assert json.loads((tmp_path / "eval_train.json").read_text())["num_images"] == 12
  assert "camvid train" in (tmp_path / "report.html").read_text()

  (tmp_path / "photo.jpg").write_bytes(cv2.imencode(".jpg", np.full((50, 70, 3), 99, np.uint8))[1].tobytes())
  (tmp_path / "broken.jpg").write_bytes(b"no picture")
  predict = [*common, "--mode=predict", "--config.data.data_dir=nowhere", f"--output={tmp_path}/out"]
  predicted = call(*predict, f"--images={tmp_path}/*.jpg")
  assert predicted.returncode == 1 and "error: 1 of 2 pictures were left out" in predicted.stderr
  assert cv2.imread(str(tmp_path / "out" / "photo.png"), cv2.IMREAD_UNCHANGED) is not None
  predicted = call(*predict, f"--images={tmp_path}/photo.jpg")
  assert predicted.returncode == 0 and "of 1 pictures to" in predicted.stdout
  for wrong, message in [
    (predict, "takes either --images='a/*.jpg' or --submission"),
    ([*common, "--mode=predict", "--images=a"], "needs a folder for the label maps"),
    ([*predict, "--submission=voc"], "--submission=voc is for the data set voc_segmentation"),
    ([*common, "--mode=check", f"--output={tmp_path}"], "say which"),
  ]:
    result = call(*wrong)
    assert result.returncode == 1 and message in result.stderr and "Traceback" not in result.stderr


def test_a_classifier_from_the_command_line(class_data_dir, tmp_path, call):
  """Trained, scored, exported without its data, and the file scored in a new workdir without training."""
  common = ["--config=configs/silhouettes.py", *ON_EIGHT_DEVICES, "--config.total_steps=2"]
  data = f"--config.data.data_dir={class_data_dir}"
  trained = call(*common, data, f"--workdir={tmp_path}/run")
  assert trained.returncode == 0, trained.stderr
  first = json.loads((tmp_path / "run" / "eval_validation.json").read_text())
  exported = call(*common, f"--workdir={tmp_path}/run", "--mode=export", "--config.data.data_dir=nowhere")
  assert exported.returncode == 0, exported.stderr
  network = tmp_path / "run" / "export" / "network.safetensors"
  assert f"wrote {network}" in exported.stdout and "step 2" in exported.stdout
  imported = call(*common, data, f"--workdir={tmp_path}/new", "--mode=eval", f"--config.model.pretrained={network}")
  assert imported.returncode == 0, imported.stderr
  second = json.loads((tmp_path / "new" / "eval_validation.json").read_text())
  assert second.pop("step") == 0 and first.pop("step") == 2 and first == second
  nothing = call(*common, data, f"--workdir={tmp_path}/other", "--mode=eval")
  assert nothing.returncode == 1 and "there is no checkpoint in" in nothing.stderr


def test_class_weights_from_the_command_line(data_dir, tmp_path, call):
  arguments = [
    "--config=configs/camvid.py",
    f"--workdir={tmp_path}",
    f"--config.data.data_dir={data_dir}",
    *SMALL,
    *ON_EIGHT_DEVICES,
  ]
  result = call(*arguments, "--config.loss.class_weights=(1.0,2.0)")
  assert (
    result.returncode == 1 and "class_weights=(1.0, 2.0): has 2 numbers, but camvid has 11 classes" in result.stderr
  )


@pytest.mark.slow
def test_training_with_class_weights_and_a_sliding_window_from_the_command_line(data_dir, tmp_path, call):
  arguments = ["--config=configs/camvid.py", f"--workdir={tmp_path}", *SMALL, *ON_EIGHT_DEVICES]
  arguments.append(f"--config.data.data_dir={data_dir}")
  weights = ",".join(["1.5"] * 11)
  arguments += ["--config.eval.scales=(1,0.5)", "--config.eval.tile=(64,64)"]
  result = call(*arguments, f"--config.loss.class_weights=({weights})", "--config.loss.ohem_fraction=0.5")
  assert result.returncode == 0, result.stderr
  assert json.loads((tmp_path / "eval_validation.json").read_text())["eval"]["scales"] == [1, 0.5]


@pytest.mark.slow
def test_training_needs_no_tensorflow(data_dir, tmp_path):
  arguments = ["--config=configs/camvid.py", f"--workdir={tmp_path}", f"--config.data.data_dir={data_dir}", *SMALL]
  result = run(*arguments, code=WITHOUT_TENSORFLOW)
  assert result.returncode == 0, result.stderr
  assert "no TensorBoard" in result.stderr
  assert read_metrics(tmp_path / "metrics.jsonl")[-1]["step"] == 2
