"""gcn_flax as pip installs it: alone, in an environment of its own, used from an empty folder."""

import pathlib
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata

import cv2
import numpy as np
import pytest
from packaging.requirements import Requirement

from gcn_flax import __version__, messages
from gcn_flax.input_pipeline.datasets import Dataset
from tests.environment import jax_environment
from tests.test_main import ROOT
from tests.test_own_data import check_serving

BUILT_FROM = ("gcn_flax", "configs", "data", "pyproject.toml", "requirements.txt", "README.md", "LICENSE")
# A recipe in a folder of its own, which changes one beside it.
NEIGHBOUR = """
from gcn_flax import config as config_lib

def get_config():
  config = config_lib.get_config()
  config.total_steps = 2
  config.batch_size = config.eval.batch_size = 2
  config.log_every_steps = config.eval_every_steps = config.checkpoint_every_steps = 2
  config.data.dataset = "camvid"
  config.data.train_mix = (("camvid", "train", config_lib.ALL_ONCE),)
  config.data.crop_size = (64, 64)
  config.model.backbone = "resnet_tiny"
  config.model.kernel_size = 3
  return config
"""
RECIPE = """
from recipes import base

def get_config():
  config = base.get_config()
  config.data.num_workers = 1
  return config
"""
WITHOUT_FCNTL = """
import runpy, sys
sys.modules["fcntl"] = None
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="session")
def environment(tmp_path_factory) -> pathlib.Path:
  """A virtual environment with gcn_flax and, borrowed from that of the tests, the packages it requires."""
  root = tmp_path_factory.mktemp("installed")
  for name in BUILT_FROM:
    copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
    copy(ROOT / name, root / name)
  run(sys.executable, "-m", "venv", "--without-pip", root / "venv")
  packages = sysconfig.get_path("purelib", vars={"base": str(root / "venv")})
  (pathlib.Path(packages) / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
  pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", root / "venv" / "bin" / "python"]
  run(*pip, "install", "--quiet", "--no-deps", "--no-build-isolation", root)
  for name in BUILT_FROM:
    shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()
  return root / "venv"


@pytest.fixture
def call(environment, tmp_path):
  """Runs a program of that environment in an empty folder, which must stay empty."""
  empty = tmp_path / "empty"
  empty.mkdir()
  yield lambda name, *arguments, status=0: run(environment / "bin" / name, *arguments, cwd=empty, status=status)
  assert not list(empty.iterdir())


def run(*command, cwd=None, status=0):
  variables = {name: value for name, value in jax_environment(1).items() if name != "PYTHONPATH"}
  done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=cwd, env=variables, check=False)
  assert done.returncode == status, done.stderr
  return done


def test_pip_installs_gcn_flax_alone(environment):
  (packages,) = environment.glob("lib/python*/site-packages")
  names = sorted(path.name for path in packages.iterdir())
  assert names == ["borrowed.pth", "gcn_flax", f"gcn_flax-{__version__}.dist-info"]
  files = {path.relative_to(ROOT) for path in (ROOT / "gcn_flax").rglob("*") if path.suffix not in (".pyc", "")}
  assert files <= {path.relative_to(packages) for path in packages.rglob("*")}


def test_an_installed_command_helps_and_says_what_needs_a_clone(call, tmp_path):
  for name in ("data", "configs"):
    assert f"No module named '{name}'" in call("python", "-c", f"import {name}", status=1).stderr
  told = call("gcn_flax", "--help").stdout
  assert "in a clone of gcn_flax, which holds data/ and configs/" in told
  assert call("python", "-m", "gcn_flax", "--help").stdout == told
  (tmp_path / "recipes").mkdir()
  (tmp_path / "recipes" / "base.py").write_text(NEIGHBOUR)
  flags = [f"--config={tmp_path}/recipes/base.py", f"--workdir={tmp_path}/run", "--config.data.data_dir=D"]
  (line,) = call("gcn_flax", *flags, status=1).stderr.splitlines()
  command = f"python -m data.prepare --dataset=camvid --data_dir={tmp_path}/empty/D --manual_dir=DOWNLOADS"
  assert f"run in a clone of gcn_flax: {command} (" in line


@pytest.mark.slow
def test_an_installed_package_trains_evaluates_predicts_exports_and_serves(call, environment, data_dir, tmp_path):
  (tmp_path / "recipes").mkdir()
  (tmp_path / "recipes" / "base.py").write_text(NEIGHBOUR)
  (tmp_path / "recipes" / "mine.py").write_text(RECIPE)
  (tmp_path / "pictures").mkdir()
  cv2.imwrite(f"{tmp_path}/pictures/a.png", np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
  common = [f"--config={tmp_path}/recipes/mine.py", f"--workdir={tmp_path}/run", f"--config.data.data_dir={data_dir}"]
  call("gcn_flax", *common)
  call("python", "-m", "gcn_flax.main", *common, "--mode=eval", "--config.eval.crf.iterations=1")
  assert "<html" in (tmp_path / "run" / "report.html").read_text()
  call("gcn_flax", *common, "--mode=predict", f"--images={tmp_path}/pictures", f"--output={tmp_path}/out")
  assert cv2.imread(f"{tmp_path}/out/a.png").shape == (64, 96, 3)
  call("gcn_flax", *common, "--mode=export")
  assert (tmp_path / "run" / "export" / "network.onnx").exists()
  serve = [environment / "bin" / "gcn_flax", f"--workdir={tmp_path}/run", "--mode=serve", "--port=0"]
  check_serving(serve, tmp_path / "empty", jax_environment(1))


@pytest.mark.parametrize("module, arguments", [
  ("gcn_flax", ["--config=configs/quickstart.py", "--workdir=W"]),
  ("data.prepare", ["--dataset=shapes", "--data_dir=D"]),
])  # fmt: skip
def test_a_system_without_file_locks_is_told_in_one_line(module, arguments):
  done = run(sys.executable, "-W", "ignore", "-c", WITHOUT_FCNTL, module, *arguments, cwd=ROOT, status=1)
  assert done.stderr == "error: gcn_flax needs Linux or macOS; on Windows use WSL.\n"


@pytest.mark.parametrize("platform, extra", [("gpu", "cuda12"), ("gpu-cuda13", "cuda13"), ("tpu", "tpu")])
def test_the_tested_versions_are_those_that_jax_needs_on_a_platform(platform, extra):
  """Its packages for GPUs and TPUs are not installed here, so nothing else would notice."""
  assert f"jax[{extra}]\n" in (ROOT / f"requirements-{platform}.txt").read_text()
  tested = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
  needed = [requirement for requirement in map(Requirement, metadata.requires("jax")) if requirement.marker]
  needed = [requirement for requirement in needed if requirement.marker.evaluate({"extra": extra})]
  assert needed
  for requirement in needed:
    version = tested.get(requirement.name)
    assert version is None or requirement.specifier.contains(version), requirement


def test_messages_say_where_a_command_is_run(tmp_path, monkeypatch):
  monkeypatch.setattr(messages, "__file__", f"{tmp_path}/gcn_flax/messages.py")
  monkeypatch.chdir(tmp_path)
  command = rf"run in a clone of gcn_flax: python -m data.prepare --dataset=folder --data_dir={tmp_path}/D --manual_dir"
  with pytest.raises(ValueError, match=command):
    Dataset("folder", "D")
