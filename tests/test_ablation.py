"""The paper's tables: the names of their cells, and the runner that trains the missing ones."""

import json
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from configs import ablation, camvid, pascal_voc, quickstart
from gcn_flax import config_checks
from gcn_flax.distributed import STOPPED
from gcn_flax.interrupts import INTERRUPTED
from launch import ablation as runner
from launch import ablation_table as results
from tests.environment import jax_environment

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.parametrize("data", ablation.DATA)
def test_a_cell_changes_only_the_network(data):
  recipe = {"voc_segmentation": pascal_voc, "camvid": camvid, "shapes": quickstart}[data].get_config()
  for name in ablation.CELLS:
    config = ablation.get_config(f"{name}:{data}")
    config_checks.check_config(config)
    ours, theirs = config.to_dict(), recipe.to_dict()
    model = ours.pop("model")
    del theirs["model"]
    assert ours == theirs
    assert (model["backbone"] == recipe.model.backbone) != name.startswith("table6")


def test_table_4_has_the_widths_of_the_paper():
  widths = [ablation.get_config(f"table4-stack-{name}").model.stack_width for name in ("full", "half", "tenth")]
  assert widths == [0, 1024, 210]  # 0 is the width of the input, 2048 at res-5.
  assert ablation.get_config("table4-stack-tenth:shapes").model.stack_width == 13


@pytest.mark.parametrize(
  "argument, message",
  [
    ("table1-k4", "table1-base, .*did you mean table1-k"),
    ("table9-base", "table1-base, .*did you mean table"),
    ("table1-k3:camvit", "table1-k3:voc_segmentation, .*did you mean table1-k3:camvid"),
  ],
)
def test_an_unknown_cell_is_rejected(argument, message):
  with pytest.raises(ValueError, match=f"unknown argument. Use one of {message}"):
    ablation.get_config(argument)


def test_cells_with_the_same_network_share_a_run(tmp_path):
  def where(cell):
    return results.workdir_of(tmp_path, "shapes", cell, 1)

  assert where("table1-k15") == where("table5-gcn") == tmp_path / "shapes" / "gcn-k15" / "seed1"
  assert where("table1-base") == where("table5-base") and where("table2-gcn-k3") == where("table3-gcn-k3")
  networks = {str(sorted(cell.items())): where(name) for name, cell in ablation.CELLS.items() if "base" not in name}
  assert len(set(networks.values())) == len(networks)


def write_run(workdir, step=600, flip=False, **figures):
  (workdir / "checkpoints" / "600").mkdir(parents=True)
  (workdir / "config.json").write_text(json.dumps({"total_steps": 600, "batch_size": 4, "eval": {"flip": False}}))
  (workdir / "eval_validation.json").write_text(json.dumps({"step": step, "eval": {"flip": flip}, **figures}))
  (workdir / "run.json").write_text(json.dumps({"devices": {"count": 2, "kind": "abacus"}, "commit": "c0ffee"}))


def test_the_table_shows_measured_values_beside_the_papers(tmp_path):
  for seed, value in enumerate((0.7, 0.8)):
    write_run(tmp_path / "shapes" / "gcn-k3" / f"seed{seed}", mean_iou=value)
  write_run(tmp_path / "shapes" / "gcn-k5" / "seed0", step=300, mean_iou=0.9)
  write_run(tmp_path / "shapes" / "gcn-k7" / "seed0", flip=True, mean_iou=0.9)
  text = results.markdown(1, "shapes", tmp_path, 3, "the command")
  assert "| GCN, k = 3 | mean IoU | 75.0 (7.1) | 70.0 / 80.0 | 70.1 |" in text
  assert "| GCN, k = 5 | mean IoU | - |  | 71.1 |" in text, "the metrics are of an earlier step"
  assert "| GCN, k = 7 | mean IoU | - |  | 72.8 |" in text, "the metrics are of an evaluation with flip"
  assert "`the command`" in text and "600 steps of 4 images on 2 x abacus at commit c0ffee" in text
  assert results.chart(1, "shapes", tmp_path, 3).count("<svg") == 1 and results.chart(4, "shapes", tmp_path, 3) is None
  assert results.chart(5, "shapes", tmp_path, 3) is None
  curve = {str(pixels): pixels / 40 for pixels in range(1, 41)}
  write_run(tmp_path / "shapes" / "pointwise" / "seed2", mean_iou=0.9, accuracy_within_pixels=curve)
  assert "<svg" in results.chart(5, "shapes", tmp_path, 3)


def started(root, data_dir, *flags):
  command = [
    sys.executable, "launch/ablation.py", "--table=5", "--data=camvid", f"--data_dir={data_dir}", f"--root={root}",
    "--seeds=1", "--config.batch_size=1", "--config.eval.batch_size=1", "--config.data.crop_size=(64,64)",
    "--config.data.eval_size=(64,96)", "--config.data.num_threads=1", "--config.eval.num_pictures=0", *flags,
  ]  # fmt: skip
  return subprocess.Popen(
    command, cwd=ROOT, env=jax_environment(devices=1), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
  )


@pytest.mark.slow
def test_a_killed_runner_continues(data_dir, tmp_path):
  """SIGKILL while a cell trains, which ends its process too; then SIGTERM; then run to the end."""
  flags = ["--config.total_steps=200", "--config.checkpoint_every_steps=20", "--config.log_every_steps=10"]
  first = tmp_path / "camvid" / "pointwise" / "seed0"

  def wait_for(step):
    """Waits until the first cell has reached a step."""
    for _ in range(1200):
      lines = (first / "metrics.jsonl").read_text().splitlines() if (first / "metrics.jsonl").exists() else []
      if any(json.loads(line)["step"] >= step for line in lines):
        return
      time.sleep(0.1)
    raise AssertionError(f"the first cell did not reach step {step}")

  killed = started(tmp_path, data_dir, *flags)
  wait_for(30)
  killed.kill()
  again = started(tmp_path, data_dir, *flags)
  wait_for(80)
  again.send_signal(signal.SIGTERM)
  output, _ = again.communicate(timeout=120)
  assert again.returncode == STOPPED and "stopped by a signal" in output
  last = started(tmp_path, data_dir, *flags)
  output, _ = last.communicate(timeout=600)
  assert last.returncode == 0, output
  run = json.loads((first / "run.json").read_text())
  assert [start["step"] > 0 for start in run["starts"]] == [False, True, True]
  steps = [json.loads(line)["step"] for line in (first / "metrics.jsonl").read_text().splitlines()]
  assert steps == sorted(steps) and [step for step in range(10, 201, 10) if steps.count(step) < 1] == []
  table = (tmp_path / "camvid" / "table5.md").read_text()
  assert len([line for line in table.splitlines() if line.startswith(("| 1 x 1", "| GCN"))]) == 9
  assert " | - | " not in table
  repeated = started(tmp_path, data_dir, *flags)
  output, _ = repeated.communicate(timeout=120)
  assert repeated.returncode == 0 and "3 of 3 runs are complete" in output


RUNNER = """
import sys
from launch import ablation
def run_cell(*_):
  ablation._run_command([sys.executable, "-c", sys.argv[1]], 0)
ablation.run_cell = run_cell
sys.exit(ablation.main(["--table=1", "--data=shapes", f"--root={sys.argv[2]}"]))
"""
RUN = """
import signal, sys, time
def save(*_):
  time.sleep(float(sys.argv[1]) if sys.argv[1:] else 0)
  print("saved", flush=True)
  sys.exit(75)
signal.signal(signal.SIGTERM, save)
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("begun", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_lets_the_run_save_and_says_how_to_continue(tmp_path, times):
  """A second one ends the runner at once, and the run saves all the same."""
  process = subprocess.Popen(
    [sys.executable, "-c", RUNNER, RUN.replace("else 0", f"else {times - 1}"), str(tmp_path)],
    cwd=ROOT, env=jax_environment(devices=1), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
  )  # fmt: skip
  while process.stdout.readline() != "begun\n":
    assert process.poll() is None
  for _ in range(times):
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
  output, errors = process.communicate(timeout=30)
  assert output == "saved\n"
  if times == 1:
    command = f"python launch/ablation.py --table=1 --data=shapes --root={tmp_path}"
    assert process.returncode == STOPPED and errors == f"stopped by a signal. To continue from here: {command}\n"
  else:
    assert process.returncode == INTERRUPTED and "stopped at once by a second Ctrl-C" in errors


def test_a_cell_evaluated_with_other_settings_is_evaluated_again(tmp_path, monkeypatch):
  workdir, commands = tmp_path / "gcn-k3", []
  write_run(workdir, step=300, mean_iou=0.5)

  def start(command, lock):
    commands.append(command)
    if "--mode=eval" in command:
      (workdir / "eval_validation.json").write_text(json.dumps({"step": 600, "eval": {"flip": False}}))

  monkeypatch.setattr(runner, "_run_command", start)
  runner.run_cell("table1-k3", "shapes", 0, workdir, ["--config.batch_size=4"])
  assert len(commands) == 1 and commands[0][-3:] == ["--config.batch_size=4", "--mode=eval", "--checkpoint=last"]
  runner.run_cell("table1-k3", "shapes", 0, workdir, [])
  assert len(commands) == 1
  with pytest.raises(RuntimeError, match="table1-k3, seed 0, was stopped before its last step"):
    runner.run_cell("table1-k3", "shapes", 0, tmp_path / "new", [])
  assert "--mode=eval" not in commands[-1]


def test_flags_must_stay_the_same_for_all_runs(tmp_path):
  runner.check_flags(tmp_path / "shapes", ["--config.total_steps=4"])
  runner.check_flags(tmp_path / "shapes", ["--config.total_steps=4"])
  with pytest.raises(ValueError, match="begun with --config.total_steps=4, but this command has none."):
    runner.check_flags(tmp_path / "shapes", [])
  assert runner.main(["--table=1", "--data=shapes", f"--root={tmp_path}"]) == 1
  assert runner.main(["--table=1", "--data=shapes", "--root=/proc/nowhere"]) == 1


def test_weights_for_an_encoder_that_a_table_does_not_train_are_rejected(capsys):
  """They would be left aside, and the table trained from random weights."""
  with pytest.raises(SystemExit):
    runner.main(["--table=6", "--data=shapes", "--pretrained=resnet5=a b.pth"])
  error = capsys.readouterr().err
  assert (
    "table 6 on shapes trains no resnet5. Use --pretrained='resnet50=a b.pth' or --pretrained='resnet50_gcn=" in error
  )


def test_each_encoder_of_table_6_starts_from_its_own_weights(tmp_path, monkeypatch):
  given = {}
  monkeypatch.setattr(runner, "run_cell", lambda cell, data, seed, workdir, flags: given.update({cell: flags}))
  runner.run_table(6, "camvid", tmp_path, 1, [], {"resnet50": "a", "resnet50_gcn": "b"})
  assert given["table6-resnet50-base"] == ["--config.model.pretrained=a"]
  assert given["table6-resnet50_gcn-gcn-br"] == ["--config.model.pretrained=b"]


def test_a_failing_cell_still_gives_a_table(data_dir, tmp_path):
  process = started(tmp_path, data_dir, "--config.model.dtype=float8")
  output, _ = process.communicate(timeout=120)
  assert process.returncode == 1
  assert "config.model.dtype='float8': unknown" in output and "error: the table is incomplete: exit status 1" in output
  assert "| - |" in (tmp_path / "camvid" / "table5.md").read_text()
