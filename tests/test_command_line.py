"""The command line: flags, their combinations, and the help page."""

import pathlib
import re
import subprocess
import sys

import pytest

from gcn_flax import command_line
from gcn_flax.main import main
from tests.test_main import ROOT

COMMON = ["gcn_flax", "--config=configs/camvid.py", "--workdir=W"]


@pytest.mark.parametrize("module", ["gcn_flax", "gcn_flax.main"])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_printed_on_stdout_with_status_0(module, flag):
  result = subprocess.run([sys.executable, "-m", module, flag], capture_output=True, text=True, cwd=ROOT, check=False)
  assert result.returncode == 0 and result.stderr == ""
  for word in (*command_line.MODES, *(f"--{name}=" for name in command_line._FLAGS), "gcn_flax/config.py"):
    assert word in result.stdout
  assert len(re.findall(r"^  python -m gcn_flax ", result.stdout, re.MULTILINE)) >= 3


def test_help_names_the_modes_of_a_flag(capsys):
  assert main(["gcn_flax", "--help"]) == 0
  lines = {line.split("=")[0].strip(): line for line in capsys.readouterr().out.splitlines() if "=" in line}
  assert lines["--topology"].endswith("[plan]") and lines["--output"].endswith("[predict, check]")
  assert not lines["--workdir"].endswith("]")


def test_flags_of_an_earlier_command_are_forgotten():
  _, given = command_line.parse([*COMMON, "--mode=predict", "--images=a", "--output=O", "--config.total_steps=3"])
  assert given.images == ["a"]
  config, given = command_line.parse([*COMMON, "--mode=predict", "--images=b", "--output=O"])
  assert given.images == ["b"] and config.total_steps == 2_000


@pytest.mark.parametrize(
  "arguments, message",
  [
    (["--images=a"], r"--images is only valid with --mode=predict \(got train\)"),
    (["--mode=eval", "--submission=voc"], r"--submission is only valid with --mode=predict or check \(got eval\)"),
    (["--mode=predict"], "takes either --images='a/.*' or --submission"),
    (["--mode=predict", "--images=a", "--submission=voc"], "takes either"),
    (["--mode=predict", "--images=a"], "needs a folder for the label maps"),
    (["--mode=predict", "--images=a", "--output=O", "--split=test"], "--split=test names a split"),
    (["--mode=predict", "--images=a", "--output=gs://b"], "--output=gs://b: must be a local folder"),
    (["--mode=check"], "say which"),
    (["--mode=plan"], "needs the chips to plan for"),
  ],
)
def test_flags_that_do_not_go_together_are_rejected(arguments, message):
  with pytest.raises(command_line.UserError, match=message):
    command_line.parse([*COMMON, *arguments])


RECIPE = """
import os
from gcn_flax.config import get_config as default

def get_config(fault):
  config = default()
  exec(fault)
  return config
"""


@pytest.mark.parametrize(
  "fault", ["config.modle.head", "config.modle = 1", "config.model.modle = 1", "config['modle']"]
)
def test_a_field_that_a_recipe_misspells_is_named_alone(fault, tmp_path):
  (tmp_path / "recipe.py").write_text(RECIPE)
  with pytest.raises(command_line.UserError, match=r"^the config has no field 'modle'\. \S+ lists all fields\.$"):
    command_line.parse(["gcn_flax", f"--config={tmp_path}/recipe.py:{fault}", "--workdir=W"])


def test_an_error_of_the_recipe_itself_is_shown_as_it_is(tmp_path):
  (tmp_path / "recipe.py").write_text(RECIPE)
  with pytest.raises(command_line.UserError, match="^the config cannot be read: module 'os' has no attribute 'pth'$"):
    command_line.parse(["gcn_flax", f"--config={tmp_path}/recipe.py:os.pth", "--workdir=W"])


@pytest.mark.parametrize("flag", ["--config.modle=1", "--config.modle.head=gcn", "--config.model.modle=1"])
def test_a_field_that_a_flag_misspells_is_named_alone(flag):
  with pytest.raises(command_line.UserError, match=r"^the config has no field 'modle'\. \S+ lists all fields\.$"):
    command_line.parse([*COMMON, flag])


def test_an_unknown_field_is_answered_with_a_file_that_exists():
  with pytest.raises(command_line.UserError, match="no field 'rate'. .* lists all fields") as error:
    command_line.parse([*COMMON, "--config.optimizer.rate=1"])
  path = re.search(r"'rate'\. (\S+) lists", str(error.value))[1]
  assert "optimizer.learning_rate" in pathlib.Path(path).read_text()
