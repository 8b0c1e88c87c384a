"""`--help` of the commands in data/ goes to stdout with exit status 0 and names every flag."""

import importlib
import re
import subprocess
import sys

import pytest

FLAGS = {
  "data.prepare": ("--dataset", "--manual_dir", "--data_dir", "--partial", "--image_format", "--val_fraction"),
  "data.browse": ("--dataset", "--split", "--data_dir", "--count", "--output"),
  "data.silhouettes": ("--output",),
  "data.annotations": ("--format", "--input", "--output", "--background"),
}


@pytest.mark.parametrize("module", FLAGS)
def test_help_goes_to_stdout(module):
  run = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=False)
  assert run.returncode == 0 and run.stderr == ""
  assert all(f"  {flag}" in run.stdout for flag in FLAGS[module])
  assert f"python -m {module} --" in run.stdout, "an example"


@pytest.mark.parametrize("module", FLAGS)
def test_an_unknown_flag_is_one_line(module, capsys):
  with pytest.raises(SystemExit) as ended:
    importlib.import_module(module).main(["--dataset=shapes", "--format=coco", "--input=x", "--output=x", "--steps=3"])
  assert ended.value.code == 1
  assert re.fullmatch(
    rf"error: unrecognized arguments: .*--steps=3. Run python -m {module} --help .*\n", capsys.readouterr().err
  )
