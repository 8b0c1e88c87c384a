"""The command line: flags, their combinations, and the help page."""

import pathlib
import re
import shlex
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
    (["--images=a"], r"--images is only valid with --mode=predict or export or explain \(got train\)"),
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
  message = r"recipe.py:.*: line 7: the config has no field 'modle'\. Did you mean model\? \S+ lists all fields\.$"
  with pytest.raises(command_line.UserError, match=message):
    command_line.parse(["gcn_flax", f"--config={tmp_path}/recipe.py:{fault}", "--workdir=W"])


# Text of a recipe -> what the error says after `--config=PATH: `.
BROKEN_RECIPES = {
  "import os\ndef get_config():\n  return os.pth": "line 3: AttributeError: module 'os' has no attribute 'pth'",
  "def get_config():\n  return {}['resnet']": "line 2: KeyError: resnet",
  "def get_config():\n  raise ValueError('no luck')": "no luck",
  "def get_config():\n  return open('/no/such')": "line 2: FileNotFoundError: ",
  "def get_config():\n  assert 0": "line 2: AssertionError",
  "import nosuchpackage": "line 1: ModuleNotFoundError: No module named 'nosuchpackage'",
  "def get_config(:": "line 1: SyntaxError: invalid syntax",
  "def get_config():\n  pass": "get_config returns NoneType, not a ConfigDict. Let get_config start from",
  "def get_config():\n  return {}": "get_config returns dict, not a ConfigDict. Let get_config start from",
  "import ml_collections\nget_config = ml_collections.ConfigDict": "its config lacks accumulate_steps, batch_size, ",
  "def get_config(argument):\n  pass": "the recipe needs an argument. Append it",
}


@pytest.mark.parametrize("text", BROKEN_RECIPES)
@pytest.mark.filterwarnings("ignore")
def test_an_error_of_the_recipe_itself_is_named_with_its_line(text, tmp_path):
  path = tmp_path / "recipe.py"
  path.write_text(text)
  with pytest.raises(command_line.UserError, match=re.escape(f"--config={path}: {BROKEN_RECIPES[text]}")):
    command_line.parse(["gcn_flax", f"--config={path}", "--workdir=W"])


def test_fields_of_a_recipe_that_returns_no_config_are_not_asked_for(tmp_path):
  path = tmp_path / "recipe.py"
  path.write_text("def get_config():\n  return 5")
  with pytest.raises(command_line.UserError, match=f"{path}: get_config returns int, not a ConfigDict. Let get_"):
    command_line.parse(["gcn_flax", f"--config={path}", "--workdir=W", "--config.seed=1"])


def test_an_argument_for_a_recipe_without_one_is_rejected(tmp_path):
  path = tmp_path / "recipe.py"
  path.write_text("def get_config():\n  pass")
  with pytest.raises(command_line.UserError, match=f"{path}:x: the recipe takes no argument. Use --config={path}.$"):
    command_line.parse(["gcn_flax", f"--config={path}:x", "--workdir=W"])


# Value of --config -> what the error says after `--config=VALUE: `.
RECIPES = {
  "configs/camvd.py": "not found. Use one of configs/ablation.py, .* Did you mean --config=configs/camvid.py.",
  "camvid:resnet50": "not found. .* Did you mean --config=configs/camvid.py:resnet50.",
  "configs": "is no Python file. Use one of configs/ablation.py",
  "9" * 300: "not found. Use one of configs/ablation.py",
  "README.md": "is no Python file. Use one of configs/ablation.py",
  "configs/camvid.py:resnet51": "unknown argument. Use one of resnet_tiny, .*did you mean resnet50",
  "configs/cityscapes.py:stage3": "unknown argument. Use one of fine, .*did you mean stage",
  "configs/imagenet.py:resnet5": "unknown argument. Use one of resnet50, .*did you mean resnet50",
}


@pytest.mark.parametrize("value", RECIPES)
def test_an_unknown_recipe_or_argument_is_answered_with_those_there_are(value):
  with pytest.raises(command_line.UserError, match=f"^--config={value}: {RECIPES[value]}"):
    command_line.parse(["gcn_flax", f"--config={value}", "--workdir=W"])


def test_the_settings_of_a_run_are_a_config(tmp_path):
  (tmp_path / "config.json").write_text('{"data": {"random_crop": false, "crop_size": [64, 96]}}')
  with pytest.raises(command_line.UserError, match=f"is the workdir of a run. Use --config={tmp_path}/config.json."):
    command_line.parse(["gcn_flax", f"--config={tmp_path}", "--workdir=W"])


def test_the_recipe_may_come_after_its_fields():
  config, _ = command_line.parse(["gcn_flax", "--config.total_steps=3", "--workdir=W", "--config", "configs/camvid.py"])
  assert config.total_steps == 3


# Flag -> the error, which ends by naming the file of all fields where a field is unknown.
BAD_FLAGS = {
  "--config.modle=1": "--config.modle=1: the config has no field 'modle'.",
  "--config.modle.head=gcn": "--config.modle.head=gcn: the config has no field 'modle'. Did you mean "
  "--config.model.head=gcn?",
  "--config.total_step=3": "--config.total_step=3: the config has no field 'total_step'. Did you mean "
  "--config.total_steps=3?",
  "--config.learning_rate=0.1": "--config.learning_rate=0.1: the config has no field 'learning_rate'. Did you mean "
  "--config.optimizer.learning_rate=0.1?",
  "--config.data.cropsize=(64, 64)": "--config.data.cropsize='(64, 64)': the config has no field 'cropsize'. Did "
  "you mean --config.data.crop_size='(64, 64)'?",
  "--config.seed.x=3": "--config.seed.x=3: config.seed has no fields. Use --config.seed=0.",
  "--config.data=3": "--config.data: has fields of its own. Set one, --config.data.",
  "--config.total_steps=abc": "--config.total_steps=abc: must be a whole number. Use for instance --config.total",
  "--config.optimizer.momentum=a": "--config.optimizer.momentum=a: must be a number. Use for instance --config.",
  "--config.model.remat=maybe": "--config.model.remat=maybe: must be True or False. Use for instance --config.model.",
  "--config.data.crop_size=(1,2": "--config.data.crop_size='(1,2': must be a tuple. Use for instance "
  "--config.data.crop_size='(512, 512)'.",
  "--config.data.crop_size": "--config.data.crop_size: its value is missing. Use --config.data.crop_size='(512, 512)'.",
  "--undefok": "--undefok: its value is missing. See --help.",
  "--checkpoint": "--checkpoint: its value is missing. Use --checkpoint=C.",
  "--wokdir=x y": "--wokdir: unknown flag. Did you mean --workdir='x y'? See --help.",
  "--total_steps=3": "--total_steps: unknown flag. Did you mean --config.total_steps=3? See --help.",
  "--batch_size=3": "--batch_size: unknown flag. Did you mean --config.batch_size=3? See --help.",
  "--backbone=resnet50": "--backbone: unknown flag. Did you mean --config.model.backbone=resnet50? See --help.",
  "--xyz": "--xyz: unknown flag. See --help.",
  "--mode=evl": "--mode=evl: unknown. Use one of train, eval, predict, check, search_crf, export, explain, "
  "label_errors, compare, serve, plan (did you mean --mode=eval?).",
  "--submission=camvid": "--submission=camvid: unknown. Use one of voc, cityscapes.",
  "--process_id=one": "--process_id=one: must be a whole number.",
  "--join_timeout=0": "--join_timeout=0: must be a whole number of at least 1.",
  "--flagfile=no/such": "--flagfile: Unable to open flagfile: [Errno 2] No such file or directory: 'no/such'. Use a ",
  "--flagfile=configs": "--flagfile: Unable to open flagfile: [Errno 21] Is a directory: 'configs'. Use a text file ",
  f"--{'x' * 5000}": "an argument is too long, or nested too deeply.",
}


@pytest.mark.parametrize("argument", BAD_FLAGS)
def test_a_bad_flag_is_answered_with_one_that_can_be_typed(argument):
  with pytest.raises(command_line.UserError) as error:
    command_line.parse([*COMMON, argument])
  assert str(error.value).startswith(BAD_FLAGS[argument])
  for suggestion in re.findall(r"mean (--config.*?)\?", str(error.value)):
    command_line.parse([*COMMON, *shlex.split(suggestion)])


def test_an_unknown_field_is_answered_with_a_file_that_exists():
  with pytest.raises(command_line.UserError, match="no field 'rate'. .* lists all fields") as error:
    command_line.parse([*COMMON, "--config.optimizer.rate=1"])
  path = re.search(r"(\S+) lists", str(error.value))[1]
  assert "optimizer.learning_rate" in pathlib.Path(path).read_text()
