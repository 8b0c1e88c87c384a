"""Machines whose GPU JAX does not see: the one thing that is missing, in one line."""

import dataclasses
import logging
import subprocess
import sys
import types

import pytest

from gcn_flax import nvidia, preflight
from gcn_flax.nvidia import Machine
from tests.environment import jax_environment
from tests.test_main import ROOT

WORKING = Machine(
  has_gpu=True, driver=(580, 65, 6), has_devices=True, capability=(9, 0), plugins={13: "0.10.2"}, jaxlib="0.10.2"
)
PROC = "NVRM version: NVIDIA UNIX {}  {}  Release Build\nGCC version:  gcc version 12.2.0 (GCC)\n"


def changed(**fields) -> Machine:
  return dataclasses.replace(WORKING, **fields)


@pytest.mark.parametrize("machine, problem", [
  (Machine(has_gpu=False), ""),
  (Machine(has_gpu=False, environment={"JAX_PLATFORMS": "cpu"}), ""),
  (changed(environment={"JAX_PLATFORMS": "cpu"}), "JAX_PLATFORMS=cpu excludes it. Unset"),
  (changed(environment={"JAX_PLATFORMS": "tpu,cpu"}), "JAX_PLATFORMS=tpu,cpu excludes it. Unset"),
  (changed(environment={"CUDA_VISIBLE_DEVICES": ""}), "CUDA_VISIBLE_DEVICES='' hides it. Unset"),
  (changed(environment={"CUDA_VISIBLE_DEVICES": "-1"}), "CUDA_VISIBLE_DEVICES='-1' hides it. Unset"),
  (changed(driver=(), has_devices=False), "no NVIDIA driver is loaded, version 580 or newer for CUDA 13"),
  (changed(has_devices=False), "sees no /dev/nvidia0. Start the container with --gpus=all"),
  (changed(driver=(470, 82, 1)), "driver 470.82.1 is older than 525, which CUDA 12 needs. Install a newer one."),
  (changed(plugins={}), "plugin is not installed. Run pip install 'jax[cuda13]==0.10.2'."),
  (changed(plugins={}, driver=(535, 54, 3)), "Run pip install 'jax[cuda12]==0.10.2'."),
  (changed(plugins={}, capability=(7, 0)), "Run pip install 'jax[cuda12]==0.10.2'."),  # V100: not in CUDA 13.
  (changed(plugins={}, capability=()), "Run pip install 'jax[cuda12]==0.10.2'."),
  (changed(driver=(535, 54, 3)), "driver 535.54.3 is older than 580, which jax-cuda13-plugin needs. Install a newer"),
  (changed(driver=(535, 54, 3)), "jax-cuda13-pjrt, then pip install 'jax[cuda12]==0.10.2'."),
  (changed(plugins={12: "0.9.1"}), "plugin is version 0.9.1, but jaxlib 0.10.2. Run pip install 'jax[cuda12]==0.10.2'"),
  (WORKING, "driver and plugin are there, but CUDA does not start. For its own message"),
  (changed(environment={"JAX_PLATFORMS": "cuda,cpu"}), "CUDA does not start. For its own message"),
  (changed(environment={"CUDA_VISIBLE_DEVICES": "7"}), "CUDA_VISIBLE_DEVICES=7 may be the cause: try without it."),
  (changed(environment={"LD_LIBRARY_PATH": "/usr/cuda"}), "LD_LIBRARY_PATH=/usr/cuda may be the cause"),
])  # fmt: skip
def test_the_missing_part_is_named_with_its_fix(machine, problem):
  found = nvidia.find_problem(machine)
  assert problem in found and bool(problem) == bool(found) and "\n" not in found


@pytest.mark.parametrize("text, driver", [
  (PROC.format("x86_64 Kernel Module", "535.54.03"), (535, 54, 3)),
  (PROC.format("Open Kernel Module for x86_64", "580.65.06"), (580, 65, 6)),
  (PROC.format("Open Kernel Module for aarch64", "555.58"), (555, 58)),
  ("something else\n", ()),
])  # fmt: skip
def test_the_loaded_driver_is_read(text, driver, tmp_path, monkeypatch):
  (tmp_path / "version").write_text(text)
  monkeypatch.setattr(nvidia, "_LOADED_DRIVER", str(tmp_path / "version"))
  assert nvidia.this_machine().driver == driver
  assert nvidia.this_machine().has_gpu or not driver


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
  """Puts a program of that name in front, which prints the given lines."""

  def install(*lines: str, status: int = 0) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines) + f"exit {status}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

  return install


@pytest.mark.parametrize("lines, file", [
  (("580.65.06, 9.0", "580.65.06, 8.6"), "requirements-gpu-cuda13.txt"),
  (("580.65.06, 9.0", "580.65.06, 7.0"), "requirements-gpu.txt"),
  (("535.54.03, 9.0",), "requirements-gpu.txt"),
])  # fmt: skip
def test_requirements_fit_driver_and_cards(lines, file, nvidia_smi, monkeypatch, capsys):
  nvidia_smi(*lines)
  monkeypatch.setattr(nvidia, "_DEVICE_FILES", ("/dev/null",))
  assert nvidia.main([]) == 0
  assert capsys.readouterr().out == f"{file}\n"
  assert (ROOT / file).exists()


def test_without_a_usable_gpu_no_requirements_are_named(nvidia_smi, monkeypatch, capsys):
  nvidia_smi("NVIDIA-SMI has failed", status=9)
  monkeypatch.setattr(nvidia, "_DEVICE_FILES", ())
  monkeypatch.setattr(nvidia, "_LOADED_DRIVER", "/none")
  assert nvidia.main([]) == 1
  told = capsys.readouterr()
  assert not told.out and told.err.startswith("error: GPU=1: ") and told.err.count("\n") == 1


@pytest.mark.parametrize("flags, installed", [
  ((), False), (("GPU=1",), True), (("PATH",), True), (("PATH", "GPU=0"), False),
])  # fmt: skip
def test_make_installs_for_a_gpu_that_it_is_told_of_or_finds(flags, installed, nvidia_smi, tmp_path):
  nvidia_smi("GPU 0: NVIDIA H100 80GB HBM3", status=0 if "PATH" in flags else 9)
  flags = [flag for flag in flags if flag != "PATH"]
  command = ["make", "--dry-run", "--always-make", f"VENV={tmp_path}/venv", "quickstart", *flags]
  done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
  assert ("-m gcn_flax.nvidia" in done.stdout) == installed
  assert "--config=configs/quickstart.py" in done.stdout


def test_training_on_the_cpu_beside_a_gpu_is_warned_of(monkeypatch, caplog):
  monkeypatch.setattr(nvidia, "this_machine", lambda: changed(plugins={}))
  with caplog.at_level(logging.WARNING, logger="gcn_flax"):
    preflight.warn_of_idle_gpu()
    assert "not on the NVIDIA GPU of this machine: JAX's CUDA plugin is not installed" in caplog.text
    caplog.clear()
    monkeypatch.setattr(preflight, "jax", types.SimpleNamespace(default_backend=lambda: "gpu"))
    preflight.warn_of_idle_gpu()
    assert not caplog.records


def test_a_platform_that_is_not_there_ends_in_one_line(data_dir, tmp_path):
  command = [
    sys.executable, "-m", "gcn_flax", "--config=configs/camvid.py", f"--workdir={tmp_path}/run",
    f"--config.data.data_dir={data_dir}",
  ]  # fmt: skip
  environment = jax_environment(1) | {"JAX_PLATFORMS": "cuda"}
  done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
  assert done.returncode == 1
  assert done.stderr.splitlines()[-1].startswith("error: JAX_PLATFORMS=cuda: none of these is on this machine.")
  assert "Traceback" not in done.stderr
