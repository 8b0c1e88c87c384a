"""`--help` of the commands in data/ goes to stdout with exit status 0 and names every flag."""

import subprocess
import sys

import pytest

FLAGS = {
  "data.prepare": ("--dataset", "--manual_dir", "--data_dir", "--partial", "--image_format"),
  "data.browse": ("--dataset", "--split", "--data_dir", "--count", "--output"),
  "data.silhouettes": ("--output",),
}


@pytest.mark.parametrize("module", FLAGS)
def test_help_goes_to_stdout(module):
  run = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=False)
  assert run.returncode == 0 and run.stderr == ""
  assert all(f"  {flag}" in run.stdout for flag in FLAGS[module])
  assert f"python -m {module} --" in run.stdout, "an example"
