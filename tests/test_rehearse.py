"""docs/REPRODUCE.md and its rehearsal: the commands that are read from it, the archives, stops and repetitions."""

import json
import os
import pathlib
import re
import shlex
import signal
import threading

import pytest

from configs import cityscapes, pascal_voc
from data.prepare import prepare
from gcn_flax import file_locks
from gcn_flax.input_pipeline.datasets import Dataset
from gcn_flax.reporting import paper
from launch import official_archives, rehearse, rehearse_pictures
from launch.child_process import Stopped
from launch.rehearse_commands import STAND_INS, Step, command_lines, read_steps, with_folders
from launch.rehearse_process import run_command
from tests.data_sets.checks import by_id
from tests.environment import jax_environment

PAGE = rehearse.PAGE.read_text()
STEPS = read_steps(PAGE)


def test_commands_are_read_from_marked_blocks():
  page = """
<!-- not rehearsed: a download -->
```
curl -LO x
```
<!-- rehearse: first -->
```
python -m data.prepare --dataset=camvid \\
  --data_dir=DATA   # a comment
tar -c DATA
```
"""
  first, second = read_steps(page)
  assert (first.stage, first.command) == ("first", "python -m data.prepare --dataset=camvid --data_dir=DATA")
  assert (first.mode, second.mode) == ("data.prepare", "tar")
  with pytest.raises(ValueError, match="1 unmarked block"):
    read_steps(page + "\n```\nls\n```\n")
  with pytest.raises(ValueError, match="no commands"):
    read_steps("nothing")


def test_the_page_reads_as_a_chain():
  """Every workdir, file of weights and submission that a command uses was made by a command before it."""
  made = set()
  for step in STEPS:
    flags = step.flags
    workdir = flags.get("workdir")
    if step.mode == "train":
      config = {"pascal_voc": pascal_voc, "cityscapes": cityscapes}.get(flags["config"].split("/")[1].split(".")[0])
      start = config.get_config(flags["config"].partition(":")[2]).init_from if config else ""
      needed = {start, flags.get("config.model.pretrained", "")} - {""}
      assert len(needed) == (1 if config else 0), step
      made.add(workdir)
    else:
      needed = {workdir} if workdir else set()
    if step.mode == "check":
      needed.add(flags["output"])
    assert needed <= made, step
    made |= {flags["output"]} if "output" in flags else set()
    made |= {shlex.split(step.command)[-1]} if step.mode == "cp" else set()
  trained = [step for step in STEPS if step.mode == "train"]
  assert len(trained) == 12 and {step.flags["submission"] for step in STEPS if step.mode == "check"} == {
    "voc", "cityscapes",
  }  # fmt: skip
  assert set(rehearse.INTERRUPTED) <= {step.stage for step in trained}


def test_stand_ins_replace_commands_of_the_page():
  assert {step.stage for step in STEPS} >= set(STAND_INS)
  assert not any(step.command.startswith("curl") for step in STEPS)


def test_small_flags_belong_to_their_kind_of_command():
  small = {(step.stage, step.mode): step.small() for step in STEPS}
  assert small["data of VOC", "data.prepare"] == "--partial" and small["data of VOC", "data.browse"] == ""
  assert "backbone=resnet_tiny" in small["VOC stage 1", "train"] and "batch_size" not in small["VOC stage 1", "train"]
  assert "batch_size=2" in small["modern VOC stage 1", "train"]
  assert "backbone" not in small["encoder", "train"]
  assert small["VOC evaluation", "search_crf"] == "--config.eval.crf.search_images=1"
  assert "scales" in small["Cityscapes submission", "predict"] and small["VOC submission", "predict"] == ""


def test_folders_take_the_place_of_names_in_capitals():
  command = with_folders("python --a=DATA --b=REHEARSE_DATA DOWNLOADS", {"DATA": "x y", "DOWNLOADS": "z"})
  assert command == "python --a='x y' --b=REHEARSE_DATA z"
  assert command_lines("a \\\n  b\n# no\n\nc") == ["a b", "c"]


def rows(header):
  """Returns the rows of the tables of the page with a given first line, as lists of cells."""
  after = PAGE.split(f"\n{header}\n", 1)[1].split("\n\n", 1)[0]
  return [[cell.strip() for cell in line.strip("|").split("|")] for line in after.splitlines()[1:]]


HOURS = {
  "modern": "| stage | steps | v5e-8: s per step | hours | chip-hours | v4-32: s per step | hours | chip-hours "
  "| 8 x H100: s per step | hours | GPU-hours |",
  "paper": "| stage | steps | one v5e chip, bfloat16: s per step | hours | one H100: s per step | hours |",
}


@pytest.mark.parametrize("variant", HOURS)
def test_hours_follow_from_the_steps_of_the_recipes(variant):
  found = rows(HOURS[variant])
  assert len(found) == 5
  for name, steps, *figures in found:
    data, _, stage = name.partition(" ")
    argument = stage.replace(" ", "") + (":modern" if variant == "modern" else "")
    steps = int(steps.replace(",", ""))
    assert steps == {"VOC": pascal_voc, "Cityscapes": cityscapes}[data].get_config(argument).total_steps
    assert f"{steps:,} steps" in PAGE or variant == "modern"
    width, chips = (3, (8, 16, 8)) if variant == "modern" else (2, (1, 1))
    for start, count in zip(range(0, len(figures), width), chips, strict=True):
      seconds, hours, *chip_hours = map(float, figures[start : start + width])
      assert hours == pytest.approx(steps * seconds / 3600, rel=0.02, abs=0.051 if hours >= 0.1 else 0.006), name
      if chip_hours:
        assert chip_hours[0] == pytest.approx(steps * seconds / 3600 * count, rel=0.02, abs=0.051), name


def test_figures_of_the_paper_are_those_of_its_tables():
  found = {name: cells for name, *cells in rows("| after | 1 x 1 | GCN | GCN with BR: what these commands train |")}
  assert len(found) == 9
  for name, cells in found.items():
    data, stage = re.match(r"(VOC|Cityscapes) stage (\d)", name).groups()
    for head, printed in zip(("1 x 1", "GCN", "GCN with BR"), cells, strict=True):
      (value,) = [
        figure.value
        for figure in paper.FIGURES
        if (figure.table, figure.stage) == ({"VOC": 7, "Cityscapes": 9}[data], int(stage))
        and figure.row.split(",")[0] == head
        and (figure.multi_scale, figure.crf) == ("multi-scale" in name, "CRF" in name)
      ] or [""]
      assert printed == str(value), name


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """The data_dir of the generated archives."""
  root, target = tmp_path_factory.mktemp("archives"), str(tmp_path_factory.mktemp("data"))
  rehearse_pictures.write_archives(root)
  rehearse.check_archives(root)
  assert {path.name for path in root.iterdir()} == set(official_archives.NAMES)
  for dataset in ("voc_segmentation", "coco_voc", "cityscapes", "cityscapes_coarse"):
    prepare(dataset, str(root), target, partial=True)
  return target


@pytest.mark.parametrize(
  "dataset, counts",
  [
    ("voc_segmentation", {"train": 6, "validation": 3, "test": 2, "sbd": 4, "train_aug": 10, "trainval": 9}),
    ("coco_voc", {"train": 5, "validation": 2}),  # One of six has none of the classes.
    ("cityscapes", {"train": 4, "validation": 2, "test": 2}),
    ("cityscapes_coarse", {"train_extra": 4}),
  ],
)
def test_builders_accept_the_generated_archives(prepared, dataset, counts):
  opened = Dataset(dataset, prepared)
  assert opened.splits == counts
  for split in counts:
    for example in by_id(opened.source(split)).values():
      if dataset.startswith("cityscapes"):
        assert example["image"].shape == (1024, 2048, 3)
      if "label" in example:
        assert example["label"].shape == example["image"].shape[:2] and len(set(example["label"].flat) - {0, 255}) > 0


def test_pictures_are_the_same_every_time(tmp_path):
  for name in ("one", "two"):
    rehearse_pictures.write_silhouettes(tmp_path / name)
  one, two = (sorted(path for path in (tmp_path / name).rglob("*.png")) for name in ("one", "two"))
  assert len(one) == 12 * 18 and [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_missing_archives_are_named(tmp_path):
  (tmp_path / "benchmark.tgz").write_bytes(b"")
  with pytest.raises(ValueError, match="has no VOCtrainval_11-May-2012.tar, VOC2012test.tar, train2017.zip"):
    rehearse.check_archives(tmp_path)


def test_a_failed_step_is_named_and_the_rest_continues_after_mending(tmp_path, capsys):
  steps = [Step("one", "touch one"), Step("two", "echo why; test -e mended"), Step("three", "cp one three")]
  rehearsal = rehearse.Rehearsal(tmp_path / "rehearsal", archives=tmp_path)
  with pytest.raises(ValueError, match="(?s)two failed with exit status 1: echo why; test -e mended\n.*why.*repeat"):
    rehearsal.run(steps)
  (rehearsal.folder / "one").unlink()
  (rehearsal.folder / "one").write_text("kept")
  (rehearsal.folder / "mended").touch()
  text = rehearsal.run(steps)
  assert (rehearsal.folder / "three").read_text() == "kept" and "done before" in capsys.readouterr().out
  assert [line.split(" | ")[:2] for line in text.splitlines()[2:]] == [
    ["| one", "touch"],
    ["| two", "echo"],
    ["| three", "cp"],
  ]
  assert (rehearsal.folder / "table.md").read_text() == text

  (rehearsal.folder / "mended").unlink()
  with pytest.raises(ValueError, match="two failed"):
    rehearsal.run(steps)  # Complete, so it begins anew.
  assert (rehearsal.folder / "one").read_text() == ""
  with pytest.raises(ValueError, match="was begun with"):
    rehearse.Rehearsal(rehearsal.folder, archives=tmp_path / "other").run(steps)


def test_a_rehearsal_waits_for_the_commands_of_another(tmp_path, capsys):
  rehearsal = rehearse.Rehearsal(tmp_path / "rehearsal", archives=tmp_path)
  other = open(tmp_path / "rehearsal.lock", "w")  # noqa: SIM115  (The timer closes it.)
  file_locks.lock(other.fileno())
  threading.Timer(0.5, other.close).start()
  rehearsal.run([Step("one", "touch one")])
  assert other.closed and (rehearsal.folder / "one").exists()
  assert "waiting for another process to leave" in capsys.readouterr().out


def test_a_table_has_steps_scores_and_starting_points():
  row = {
    "stage": "s",
    "mode": "train",
    "seconds": 3.2,
    "mean_iou": 0.123,
    "steps": 10,
    "resumed_at": [7],
    "losses": [3.0, 2.51],
    "started_from": "w",
  }
  assert rehearse.table([row]).splitlines()[-1] == "| s | train | 10, resumed at 7 | 3 | 3.00 to 2.51 | 12.3 | w |"
  assert (
    rehearse.table([{"stage": "s", "mode": "tar", "seconds": 3.2}]).splitlines()[-1] == "| s | tar |  | 3 |  |  |  |"
  )


WAITS = """python -c 'import time; print("step 6/10", flush=True); time.sleep(60)'"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_line_of_the_output_can_be_answered_by_a_signal(number, tmp_path, capsys):
  environment = rehearse.environment(rehearse.ROOT, tmp_path)
  status = run_command(WAITS, tmp_path, environment, tmp_path / "log", lambda line: number if "step 6/" in line else 0)
  assert status == -number and (tmp_path / "log").read_text() == f"$ {WAITS}\nstep 6/10\n"
  assert "step 6/10" in capsys.readouterr().out


def test_a_signal_to_the_rehearsal_stops_its_command(tmp_path):
  with pytest.raises(Stopped):
    run_command(
      WAITS, tmp_path, rehearse.environment(rehearse.ROOT, tmp_path), tmp_path / "log",
      lambda line: os.kill(os.getpid(), signal.SIGINT) or 0,
    )  # fmt: skip


@pytest.mark.parametrize("number, times", [(signal.SIGTERM, 2), (None, 1)])
def test_an_interrupted_stage_must_resume_in_its_middle(number, times, tmp_path, monkeypatch):
  """With a training that writes only what a rehearsal reads, and starts at step 4 the second time, or never does."""
  config = json.dumps({"total_steps": 10, "init_from": "", "model": {"pretrained": ""}})
  (tmp_path / "train.sh").write_text(
    "n=$(cat runs/w/starts 2>/dev/null || echo 0)\n"
    "mkdir -p runs/w/checkpoints/4; echo $((n + 4)) > runs/w/starts\n"
    'echo "{\\"starts\\": [{\\"step\\": $n}]}" > runs/w/run.json\n'
    f"echo '{config}' > runs/w/config.json\n"
    '[ "$n" = 0 ] || exit 0\n' + ('echo "step 6/10"; sleep 1; exit 75\n' if number else "exit 0\n")
  )
  monkeypatch.setitem(rehearse.INTERRUPTED, "stage", signal.SIGTERM)
  step = Step("stage", "python --workdir=runs/w")
  monkeypatch.setattr(Step, "mode", property(lambda self: "train"))
  rehearsal, log = rehearse.Rehearsal(tmp_path), tmp_path / "log"
  command, lock = 'trap "exit 75" TERM; . ./train.sh', 0
  if number:
    rehearsal._run_step(step, command, log, lock)
    assert rehearsal._was_resumed(step)
  else:
    with pytest.raises(ValueError, match="did not resume in its middle, after SIGTERM"):
      rehearsal._run_step(step, command, log, lock)
  assert log.read_text().count("$ trap") == times


def test_arguments_archives_and_a_missing_crf_are_named(tmp_path, monkeypatch, capsys):
  assert rehearse.main(["--fast"]) == 1 and "--fast: unknown argument" in capsys.readouterr().err
  with monkeypatch.context() as context:
    context.setenv("REHEARSE_DATA", str(tmp_path))
    assert rehearse.main([]) == 1 and f"error: REHEARSE_DATA={tmp_path}: has no VOCtrainval" in capsys.readouterr().err
  monkeypatch.setattr(rehearse.importlib.util, "find_spec", lambda name: None)
  assert rehearse.main([]) == 1 and "pip install -r requirements-crf.txt" in capsys.readouterr().err


@pytest.mark.slow
def test_the_first_stages_of_voc_up_to_a_submission(tmp_path, monkeypatch):
  """The whole of the rehearsal takes ten minutes."""
  stages = ("data of VOC", "encoder", "VOC stage 1", "VOC stage 2", "VOC trainval", "VOC submission")
  original = rehearse.environment
  monkeypatch.setattr(
    rehearse,
    "environment",
    lambda *args: jax_environment(1) | {key: original(*args)[key] for key in ("PATH", "PYTHONPATH")},
  )
  rehearsal = rehearse.Rehearsal(tmp_path / "rehearsal")
  text = rehearsal.run([step for step in STEPS if step.stage in stages])
  assert re.search(
    r"VOC stage 1 \| train \| 10, resumed at \d+ \| \d+ \| [\d.]+ to [\d.]+ \| [\d.]+ \| resnet152.safetensors", text
  )
  assert re.search(r"VOC trainval \| train \| 10 \| .* \| runs/pascal_voc_stage2", text)
  first, second, third = (float(loss) for loss in re.findall(r"VOC .* train .* ([\d.]+) to", text))
  assert first > second > third  # Each stage goes on with the weights of the one before.
  folder = rehearsal.folder / "runs" / "submission_voc" / "results" / "VOC2012" / "Segmentation" / "comp6_test_cls"
  assert len(list(pathlib.Path(folder).glob("*.png"))) == 2
  assert (rehearsal.folder / "runs" / "submission_voc.tgz").stat().st_size > 0
