"""Start-up: what needs no JAX does not wait for it."""

import subprocess
import sys

import pytest

from tests.test_main import ROOT

COMMANDS = {
  "import gcn_flax": ["-c", "import gcn_flax; dir(gcn_flax)"],
  "help": ["-m", "gcn_flax", "--help"],
  "help of the module": ["-m", "gcn_flax.main", "--help"],
  "a mistake": ["-m", "gcn_flax", "--config=configs/quickstart.py", "--workdir=W", "--config.total_step=1"],
  "help of prepare": ["-m", "data.prepare", "--help"],
  "help of annotations": ["-m", "data.annotations", "--help"],
  "help of silhouettes": ["-m", "data.silhouettes", "--help"],
}


def imported(*arguments):
  """Runs Python and returns the names of all modules that it imported."""
  done = subprocess.run([sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, cwd=ROOT)
  lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
  assert lines, done.stderr
  return done, {line.split("|")[2].strip() for line in lines}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_and_mistakes_do_not_wait_for_jax(name):
  done, modules = imported(*COMMANDS[name])
  assert done.returncode == (1 if name == "a mistake" else 0)
  assert "gcn_flax" in modules
  assert not modules & {"jax", "jaxlib", "flax", "orbax", "tensorflow", "tensorflow_datasets"}


def test_preparing_data_imports_no_jax(street, tmp_path):
  done, modules = imported(
    "-m", "data.prepare", "--dataset=camvid", f"--manual_dir={street}", f"--data_dir={tmp_path}", "--partial"
  )  # fmt: skip
  assert done.returncode == 0 and "wrote" in done.stdout
  assert "tensorflow_datasets" in modules
  assert not modules & {"jax", "jaxlib", "flax", "orbax"}
