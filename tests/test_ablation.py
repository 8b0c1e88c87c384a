"""The paper's tables: the names of their cells, and the runner that trains the missing ones."""

import dataclasses
import json
import pathlib
import shutil
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
from launch import ablation_run, records
from launch import ablation_table as results
from launch.ablation_run import Run
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


def run_of(cell, root, seed=0, *flags, data="shapes"):
  return Run(cell, data, seed, root, root, flags)


def test_cells_with_the_same_network_share_a_run(tmp_path):
  def where(cell):
    return run_of(cell, tmp_path, 1).workdir

  assert where("table1-k15") == where("table5-gcn") == tmp_path / "shapes" / "gcn-k15" / "seed1"
  assert where("table1-base") == where("table5-base") and where("table2-gcn-k3") == where("table3-gcn-k3")
  networks = {str(sorted(cell.items())): where(name) for name, cell in ablation.CELLS.items() if "base" not in name}
  assert len(set(networks.values())) == len(networks)
  path = run_of("table1-k15", tmp_path, 1).record_path
  assert path == tmp_path / "shapes" / "gcn-k15-seed1.json" == run_of("table5-gcn", tmp_path, 1).record_path


def measured(mean_iou=0.5, **figures):
  """Returns what a table reads from a record."""
  return {
    "config": {"total_steps": 600, "batch_size": 4}, "devices": {"count": 2, "kind": "abacus"}, "commit": "c0ffee",
    "last": {"mean_iou": mean_iou, **figures},
  }  # fmt: skip


def test_the_table_shows_measured_values_beside_the_papers():
  found = {("table1-k3", seed): measured(value) for seed, value in enumerate((0.7, 0.8))}
  text = results.markdown(1, "shapes", found, "the command")
  assert "| GCN, k = 3 | mean IoU | 75.0 (7.1) | 70.0 / 80.0 | 70.1 |" in text
  assert "| GCN, k = 5 | mean IoU | - |  | 71.1 |" in text
  assert "`the command`" in text and "600 steps of 4 images on 2 x abacus at commit c0ffee" in text
  assert results.chart(1, "shapes", found).count("<svg") == 1 and results.chart(4, "shapes", found) is None
  assert results.chart(5, "shapes", found) is None
  curve = {str(pixels): pixels / 40 for pixels in range(1, 41)}
  assert "<svg" in results.chart(5, "shapes", {("table5-base", 2): measured(accuracy_within_pixels=curve)})


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
from launch import ablation, ablation_run
ablation.Run.train = lambda run: ablation_run._run_command([sys.executable, "-c", sys.argv[1]], 0)
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


@pytest.fixture
def finished(tmp_path, monkeypatch):
  """A run of two steps whose workdir is complete; `commands` are those that it would have started."""
  run = run_of("table1-k3", tmp_path, 0, "--config.total_steps=2")
  (run.workdir / "checkpoints" / "2").mkdir(parents=True)
  config = json.loads(run.config.to_json())
  scores = {"step": 2, "eval": config["eval"], "mean_iou": 0.5, "iou": {"red": 0.5}}
  start = {"time": "2026-11-28T12:00:00+0000", "step": 0}
  record = {
    "command": "c", "commit": "c0ffee", "versions": {}, "devices": {"count": 1, "kind": "cpu", "hosts": 1},
    "starts": [start],
  }  # fmt: skip
  for name, content in {"config": config, "eval_validation": scores, "run": record}.items():
    (run.workdir / f"{name}.json").write_text(json.dumps(content))
  line = {"step": 2, "images_per_second": 4.0, "validation/mean_iou": 0.5, "validation/iou/red": 0.5}
  (run.workdir / "metrics.jsonl").write_text(json.dumps(line) + "\n")
  commands = []
  monkeypatch.setattr(ablation_run, "_run_command", lambda command, lock: commands.append(command))
  return run, commands


def change(path, **fields):
  path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_run_with_a_record_is_not_trained_again(finished, tmp_path):
  run, commands = finished
  found = run.record()
  assert found["last"]["mean_iou"] == 0.5 and found["evaluations"] == [{"step": 2, "mean_iou": 0.5}]
  assert records.read(run.record_path) == found and "data_dir" not in found["config"]["data"]
  shutil.rmtree(run.workdir)
  elsewhere = dataclasses.replace(run, flags=(*run.flags, "--config.data.data_dir=elsewhere"))
  assert run.record() == elsewhere.record() == found
  runner.train_missing([run, elsewhere])
  assert commands == []
  for flags in (("--config.total_steps=3",), (*run.flags, "--config.optimizer.momentum=0.8")):
    assert dataclasses.replace(run, flags=flags).record() is None, "the record is of another recipe"


def test_a_record_of_an_older_version_lacks_fields_that_had_their_defaults(finished):
  run, _ = finished
  settings = run.record()["config"]
  del settings["optimizer"]["ema_decay"], settings["mesh"]
  assert records.is_of(run.record() | {"config": settings}, run.config)


def test_a_workdir_of_another_recipe_is_rejected(finished):
  run, _ = finished
  with pytest.raises(ValueError, match="seed0: was trained with another recipe. Delete it, or use another --root."):
    run_of("table1-k3", run.root, 0, *run.flags, "--config.optimizer.momentum=0.8").record()
  assert not run.record_path.exists()


def test_a_damaged_record_is_rejected(finished):
  run, _ = finished
  run.record()
  run.record_path.write_text(run.record_path.read_text()[:-50])
  with pytest.raises(ValueError, match="gcn-k3-seed0.json: damaged .* Delete it, to record the run again."):
    run.record()


@pytest.mark.parametrize("fields", [{"step": 1}, {"eval": ablation.get_config().eval.to_dict() | {"flip": True}}])
def test_a_cell_evaluated_with_other_settings_is_evaluated_again(finished, fields):
  run, commands = finished
  scores = run.workdir / "eval_validation.json"
  change(scores, **fields)
  with pytest.raises(RuntimeError, match="table1-k3, seed 0, was stopped before its last step"):
    run.train()  # Nothing is evaluated by the commands that are recorded.
  assert len(commands) == 1 and commands[0][-3:] == ["--config.total_steps=2", "--mode=eval", "--checkpoint=last"]
  with pytest.raises(RuntimeError, match="table1-k3, seed 1, was stopped before its last step"):
    dataclasses.replace(run, seed=1).train()
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


def test_some_cells_of_a_table_are_trained(tmp_path, monkeypatch, capsys):
  trained = []
  monkeypatch.setattr(Run, "train", lambda run: trained.append(run.cell))
  assert runner.main(["--table=1", "--data=shapes", "--seeds=1", f"--root={tmp_path}", "--cells=base, k15"]) == 0
  assert trained == ["table1-base", "table1-k15"]
  with pytest.raises(SystemExit):
    runner.main(["--table=1", "--data=shapes", "--cells=k4"])
  assert "--cells=k4: unknown in table 1. Use one of base, k3, " in capsys.readouterr().err


def test_each_encoder_of_table_6_starts_from_its_own_weights(tmp_path, monkeypatch):
  given = {}
  monkeypatch.setattr(Run, "train", lambda run: given.update({run.cell: run.command[-1]}))
  pretrained = ["--pretrained=resnet50=a", "--pretrained=resnet50_gcn=b"]
  runner.main(["--table=6", "--data=camvid", "--seeds=1", f"--root={tmp_path}", *pretrained])
  assert given["table6-resnet50-base"] == "--config.model.pretrained=a"
  assert given["table6-resnet50_gcn-gcn-br"] == "--config.model.pretrained=b"


def test_a_failing_cell_still_gives_a_table(data_dir, tmp_path):
  process = started(tmp_path, data_dir, "--config.model.dtype=float8")
  output, _ = process.communicate(timeout=120)
  assert process.returncode == 1
  assert "config.model.dtype='float8': unknown" in output and "error: the table is incomplete: exit status 1" in output
  assert "| - |" in (tmp_path / "camvid" / "table5.md").read_text()
