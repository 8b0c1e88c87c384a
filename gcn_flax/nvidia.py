"""NVIDIA GPUs of this machine as the system shows them: why JAX sees none, and which requirements fit the driver.

    python -m gcn_flax.nvidia

prints the file of requirements for this machine, as `make quickstart GPU=1` installs it.
"""

import argparse
import dataclasses
import glob
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata

Version = tuple[int, ...]

# Oldest driver of each CUDA release that JAX has a plugin for; newer drivers run older releases. NVIDIA, "Minor Version
# Compatibility", https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
MIN_DRIVERS = {12: (525,), 13: (580,)}
# CUDA 13 dropped cards before Turing: https://docs.nvidia.com/cuda/archive/13.0.0/cuda-toolkit-release-notes/
_MIN_CAPABILITY_13 = (7, 5)
REQUIREMENTS = {12: "requirements-gpu.txt", 13: "requirements-gpu-cuda13.txt"}  # By CUDA release.
_VENDOR, _DISPLAY_CLASS = "0x10de", "0x03"  # Of PCI devices: NVIDIA; display controllers.
_LOADED_DRIVER = "/proc/driver/nvidia/version"
_DEVICE_FILES = ("/dev/nvidia[0-9]*", "/dev/dxg")  # Linux; Windows' GPU in WSL.


@dataclasses.dataclass(frozen=True)
class Machine:
  """The system's account of its NVIDIA GPUs.

  Attributes:
    has_gpu: True if the machine has an NVIDIA GPU, even one that nothing can use yet.
    driver: version of the loaded driver; () if there is none.
    has_devices: True if this process may see the GPU's device files, which a container must be given.
    capability: the lowest compute capability of the GPUs; () if unknown.
    plugins: versions of JAX's installed CUDA plugins by CUDA release.
    jaxlib: version of jaxlib.
    environment: environment variables.
  """

  has_gpu: bool
  driver: Version = ()
  has_devices: bool = False
  capability: Version = ()
  plugins: Mapping[int, str] = dataclasses.field(default_factory=dict)
  jaxlib: str = ""
  environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


def this_machine() -> Machine:
  """Looks at files and installed packages, and asks nvidia-smi; JAX is not imported."""
  rows = _query_nvidia_smi()
  path = pathlib.Path(_LOADED_DRIVER)
  loaded = _parse_driver(path.read_text()) if path.is_file() else ()
  driver = loaded or (rows[0][0] if rows else ())
  has_devices = any(map(glob.glob, _DEVICE_FILES))
  return Machine(
    has_gpu=bool(driver) or has_devices or _has_pci_device(),
    driver=driver,
    has_devices=has_devices,
    capability=min((capability for _, capability in rows), default=()),
    plugins={release: version for release in MIN_DRIVERS if (version := _installed(f"jax-cuda{release}-plugin"))},
    jaxlib=_installed("jaxlib"),
    environment=os.environ,
  )


def find_problem(machine: Machine) -> str:
  """Returns why JAX does not see the GPU of a machine, with the fix, in one line; "" if the machine has none.

  Call it when JAX found no GPU. The first of these that holds is the answer: a variable hides the GPU, no driver is
  loaded, a container was not given the GPU, JAX's plugin is missing, or does not fit the driver or jaxlib.
  """
  if not machine.has_gpu:
    return ""
  return _hidden_by_variable(machine.environment) or _driver_problem(machine) or _plugin_problem(machine)


def _hidden_by_variable(environment: Mapping[str, str]) -> str:
  platforms, visible = environment.get("JAX_PLATFORMS", ""), environment.get("CUDA_VISIBLE_DEVICES")
  if platforms and not {"cuda", "gpu"} & set(platforms.split(",")):
    return f"JAX_PLATFORMS={platforms} excludes it. Unset the variable to use the GPU."
  if visible is not None and (not visible.strip() or visible.startswith("-")):
    return f"CUDA_VISIBLE_DEVICES='{visible}' hides it. Unset the variable to use the GPU."
  return ""


def _driver_problem(machine: Machine) -> str:
  if not machine.driver:
    return (
      f"no NVIDIA driver is loaded, version {_text(MIN_DRIVERS[13])} or newer for CUDA 13, {_text(MIN_DRIVERS[12])} or "
      "newer for CUDA 12. Install one, and check it with nvidia-smi."
    )
  if not machine.has_devices:
    return (
      "the driver is loaded, but this process sees no /dev/nvidia0. Start the container with --gpus=all (Docker), or "
      "ask for a GPU (SLURM: --gpus-per-node=1)."
    )
  if machine.driver < MIN_DRIVERS[12]:
    return (
      f"the NVIDIA driver {_text(machine.driver)} is older than {_text(MIN_DRIVERS[12])}, which CUDA 12 needs. Install "
      "a newer one."
    )
  return ""


def _plugin_problem(machine: Machine) -> str:
  if not machine.plugins:
    return f"JAX's CUDA plugin is not installed. Run {_install(machine)}."
  for release, version in machine.plugins.items():
    if machine.driver < MIN_DRIVERS[release]:
      return (
        f"the NVIDIA driver {_text(machine.driver)} is older than {_text(MIN_DRIVERS[release])}, which "
        f"jax-cuda{release}-plugin needs. Install a newer driver, or run pip uninstall jax-cuda{release}-plugin "
        f"jax-cuda{release}-pjrt, then {_install(machine)}."
      )
    if version != machine.jaxlib:
      return (
        f"jax-cuda{release}-plugin is version {version}, but jaxlib {machine.jaxlib}. Run pip install "
        f"'jax[cuda{release}]=={machine.jaxlib}'."
      )
  names = [name for name in ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH") if machine.environment.get(name)]
  variables = "".join(f" {name}={machine.environment[name]} may be the cause: try without it." for name in names)
  return (
    f"driver and plugin are there, but CUDA does not start.{variables} For its own message run TF_CPP_MIN_LOG_LEVEL=0 "
    "JAX_PLATFORMS=cuda python -c 'import jax; jax.devices()'."
  )


def _install(machine: Machine) -> str:
  return f"pip install 'jax[cuda{cuda_release(machine)}]=={machine.jaxlib}'"


def cuda_release(machine: Machine) -> int:
  """Returns the newest CUDA release that driver and GPUs support: 13, or 12, also if that is unknown."""
  return 13 if machine.driver >= MIN_DRIVERS[13] and machine.capability >= _MIN_CAPABILITY_13 else 12


def _has_pci_device() -> bool:
  for vendor in glob.glob("/sys/bus/pci/devices/*/vendor"):
    path = pathlib.Path(vendor)
    try:
      if path.read_text().strip() == _VENDOR and (path.parent / "class").read_text().startswith(_DISPLAY_CLASS):
        return True
    except OSError:  # Unplugged, or not ours to read.
      continue
  return False


def _parse_driver(text: str) -> Version:
  """Returns the version in the text of /proc/driver/nvidia/version."""
  match = re.search(r"NVRM version:.*?\s(\d+(?:\.\d+)+)\s", text)
  return _version(match[1]) if match else ()


def _query_nvidia_smi() -> list[tuple[Version, Version]]:
  """Returns (driver, compute capability) of each GPU; [] if nvidia-smi is not there or finds none."""
  command = ["nvidia-smi", "--query-gpu=driver_version,compute_cap", "--format=csv,noheader"]
  try:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
  except (OSError, subprocess.TimeoutExpired):
    return []
  rows = [line.split(",") for line in done.stdout.splitlines()] if done.returncode == 0 else []
  return [(_version(row[0]), _version(row[1])) for row in rows if len(row) == 2]


def _version(text: str) -> Version:
  return tuple(map(int, re.findall(r"\d+", text)))


def _text(version: Version) -> str:
  return ".".join(map(str, version))


def _installed(name: str) -> str:
  try:
    return metadata.version(name)
  except metadata.PackageNotFoundError:
    return ""


def main(argv: Sequence[str] | None = None) -> int:
  """Prints the file of requirements for this machine; returns 1 with one line on stderr if no driver can be used."""
  argparse.ArgumentParser(prog="python -m gcn_flax.nvidia", description=__doc__.splitlines()[0]).parse_args(argv)
  machine = this_machine()
  problem = _driver_problem(machine) if machine.has_gpu else "this machine has no NVIDIA GPU."
  if problem:
    print(f"error: GPU=1: {problem} Without a GPU: GPU=0.", file=sys.stderr)
    return 1
  print(REQUIREMENTS[cuda_release(machine)])
  return 0


if __name__ == "__main__":
  sys.exit(main())
