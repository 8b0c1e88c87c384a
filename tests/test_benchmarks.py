"""The benchmarks run from end to end; the figures themselves are not tested."""

import json
import subprocess
import sys
import time

import pytest

from benchmarks import gpu, gpu_report, largest_batch
from gcn_flax import command_line, config_checks


@pytest.mark.slow
@pytest.mark.parametrize("script", ["step", "parts"])
def test_benchmarks_against_pytorch(script, tmp_path):
  path = tmp_path / "found.json"
  command = [sys.executable, f"benchmarks/{script}.py", "--backbone=resnet_tiny", "--size=64", "--batch=1"]
  command += ["--kernel_size=3", "--repeats=1", f"--json={path}"]
  done = subprocess.run(command, capture_output=True, text=True)
  assert not done.returncode, done.stderr[-2000:]
  found = json.loads(path.read_text())
  rows = [found["train"], found["inference"]] if script == "step" else list(found["parts"].values())
  for row in rows:
    assert all(row[f"{name}_s"] > 0 for name in ("ours", "ours_plain", "torch_eager", "torch_channels_last"))
  assert found["machine"]["command"].startswith(f"python benchmarks/{script}.py")
  if script == "step":
    assert found["flops"]["train"] > 2 * found["flops"]["inference"] > 0 and "first loss ours" in done.stdout


@pytest.mark.slow
def test_the_tpu_benchmark_continues_where_it_stopped(tmp_path):
  command = [sys.executable, "benchmarks/compile_tpu.py", "--topologies=v5e:2x4", "--backbones=resnet_tiny"]
  command += ["--kernel_sizes=3", "--crops=64", f"--json={tmp_path / 'found.json'}"]
  first = subprocess.run([*command, "--batches=1"], capture_output=True, text=True)
  assert not first.returncode, first.stderr[-2000:]
  assert "| resnet_tiny, k = 3, 1 x 64 on v5e |" in first.stdout and "encoder/layer1" in first.stdout
  (row,) = json.loads((tmp_path / "found.json").read_text())["rows"]
  assert row["fits"] and row["cycles"] == sum(row["cycles_by_part"].values())
  if "changed" not in row["code"]["commit"]:
    again = subprocess.run([*command, "--batches=1"], capture_output=True, text=True)
    assert "1 of 1" not in again.stdout and "| resnet_tiny, k = 3, 1 x 64 on v5e |" in again.stdout


@pytest.mark.slow
def test_the_benchmark_of_exported_files(trained_run, tmp_path):
  export = [sys.executable, "-m", "gcn_flax", "--mode=export", f"--workdir={trained_run}"]
  subprocess.run(export, check=True, capture_output=True)
  command = [sys.executable, "benchmarks/export.py", f"--workdir={trained_run}", "--pictures=3", "--size=64"]
  done = subprocess.run([*command, "--repeats=1", f"--json={tmp_path}/found.json"], capture_output=True, text=True)
  assert not done.returncode, done.stderr[-2000:]
  network, *files = json.loads((tmp_path / "found.json").read_text())["rows"]
  assert network["images_per_second"] > 0 and len(files) == 3
  assert all(row["images_per_second"] > 0 and row["equal_labels"] > 0.999 for row in files)


SLEEPS = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
WRITES = "import json, sys; json.dump(FIGURES, open(sys.argv[-1].removeprefix('--json='), 'w'))"


def run_rows(monkeypatch, tmp_path, programs, *flags):
  """Runs rows of benchmarks/gpu.py that are given as name -> (limit, program); returns gpu.json and gpu.md."""
  rows = []
  for name, (limit, program) in programs.items():
    (tmp_path / f"{name}.py").write_text(program)
    rows.append(gpu.Row(name, limit, (str(tmp_path / f"{name}.py"),)))
  monkeypatch.setattr(gpu, "rows", lambda small, data_dir: [*rows, gpu.Row("voc", 9, (), "no VOC here")])
  status = gpu.main([f"--out={tmp_path / 'out'}", *flags])
  return status, json.loads((tmp_path / "out/gpu.json").read_text()), (tmp_path / "out/gpu.md").read_text()


def test_a_row_that_fails_or_takes_too_long_does_not_stop_the_others(monkeypatch, tmp_path):
  start = {"settings": {"config": "C"}, "machine": MACHINE, "cold_s": 50.0, "warm_s": 12.0}
  writes = WRITES.replace("FIGURES", repr(start))
  programs = {"step": (2, SLEEPS), "parts": (60, "raise SystemExit(3)"), "start": (60, writes)}
  began = time.monotonic()
  status, results, page = run_rows(monkeypatch, tmp_path, programs)
  assert status == 1 and time.monotonic() - began < 50
  assert results["start"]["status"] == "measured" and results["start"]["figures"]["cold_s"] == 50
  assert "| start: C | 50.0 | 12.0 | - | - |" in page
  assert "Not measured: step (stopped after 2 s), parts (failed with status 3), voc (no VOC here)." in page


def test_rows_that_were_measured_before_are_kept_and_none_begins_without_time(monkeypatch, tmp_path):
  writes = WRITES.replace("FIGURES", repr({"settings": {"config": "C"}, "machine": MACHINE}))
  programs = {"start": (60, writes), "parts": (60, writes)}
  _, results, _ = run_rows(monkeypatch, tmp_path, programs, "--only=start")
  assert (results["start"]["status"], results["parts"]["status"]) == ("measured", "not chosen")
  _, results, _ = run_rows(monkeypatch, tmp_path, programs, "--minutes=0")
  assert (results["start"]["status"], results["parts"]["status"]) == ("measured", "not reached")


def test_the_recipes_of_the_rows_are_valid(tmp_path):
  """In full size, and on each of the data sets."""
  commands = [gpu.start(dataset, False, tmp_path) for dataset in ("camvid", "voc_segmentation", "shapes")]
  for command in commands:
    flags = [flag for flag in command if flag.startswith("--config")]
    config, _ = command_line.parse(["gcn_flax", f"--workdir={tmp_path}", *flags])
    config_checks.check_config(config)
    assert config.batch_size == 16 and config.model.dtype == "bfloat16" and config.model.backbone == "resnet50"
    assert config.eval_every_steps > 1000 and not config.init_from and config.model.norm == "sync"


def test_without_camvid_the_start_is_measured_on_generated_scenes(tmp_path):
  def found():
    rows = {row.name: row for row in gpu.rows(False, tmp_path)}
    return rows["start"].command[1], rows["voc"].missing

  assert found() == ("--config=configs/quickstart.py", f"voc_segmentation is not prepared in {tmp_path}")
  (tmp_path / "camvid").mkdir()
  (tmp_path / "voc_segmentation").mkdir()
  assert found() == ("--config=configs/camvid.py:resnet50", "")


MACHINE = {
  "cpu": "AMD EPYC", "cores": 16, "date": "2026-11-28T12:00:00+00:00", "versions": {"jax": "0.11.2"}, "device": "H100",
  "command": "python benchmarks/step.py --batch=16 --json=/somewhere/step.json",
}  # fmt: skip


def figures_of_steps(loss, **seconds):
  settings = {"rivals": list(seconds), "batch": 16, "size": 512, "backbone": "resnet50", "kernel_size": 15}
  times = {"ours_loss": loss, "torch_compile_loss": loss}
  for name, value in seconds.items():
    times |= {f"{name}_{key}": value for key in ("s", "min_s", "max_s")} | {f"{name}_first_step_s": 80.0}
    times[f"{name}_bytes"] = 8e9
  return {"settings": settings | {"dtype": "bfloat16"}, "train": times, "machine": MACHINE}


@pytest.mark.parametrize("loss, agrees", [(16.4, True), (12.0, False)])
def test_steps_of_separate_processes_are_compared(loss, agrees):
  results = {
    "compile": {"status": "measured", "figures": figures_of_steps(loss, torch_compile=0.08)},
    "step": {"status": "measured", "figures": figures_of_steps(16.3, ours=0.04)},
  }
  page = gpu_report.markdown(results)
  title = "train, resnet50, 16 x 512 x 512, bfloat16, k = 15"
  assert f"| {title}: ours | 40 (40 - 40) | 400 | 1.00 | 80 | 8.00 |" in page
  assert f"| {title}: torch.compile, channels_last | 80 (80 - 80) | 200 | 2.00 | 80 | 8.00 |" in page
  assert "H100, 16 cores" in page and "- step: `python benchmarks/step.py --batch=16`" in page
  assert ("**The first loss of" not in page) == agrees and "Not measured" not in page


@pytest.mark.slow
@pytest.mark.long
def test_the_benchmark_of_a_gpu_runs_on_a_cpu_in_small(data_dir, tmp_path):
  """On the data of the tests, without torch.compile, which takes minutes on a CPU."""
  command = ["benchmarks/gpu.sh", "--small", f"--data_dir={data_dir}", f"--out={tmp_path}", "--minutes=15"]
  command.append("--only=step,start,parts,evaluation,fused,inference")
  done = subprocess.run(command, capture_output=True, text=True)
  assert not done.returncode, done.stdout[-2000:] + done.stderr[-2000:]
  results = json.loads((tmp_path / "gpu.json").read_text())
  assert {name for name, row in results.items() if row["status"] == "measured"} == set(command[-1][7:].split(","))
  start = results["start"]["figures"]
  assert start["cold_s"] > start["warm_s"] > 0 and start["images_per_s"] > 0 and 0 <= start["input_wait"] <= 1
  assert start["settings"]["config"] == "configs/camvid.py:resnet50"
  page = (tmp_path / "gpu.md").read_text()
  for words in (
    ": ours, BR fused |",
    ": torch channels_last |",
    "| BR, 64 x 64 x 21 |",
    "| whole image |",
    "inference, ",
  ):
    assert words in page
  assert "**The first loss" not in page and "compile (not chosen)" in page


@pytest.mark.parametrize(
  "limit, start, found", [(117, 100, 110), (117, 120, 109), (117, 116, 116), (3, 1, 3), (0, 8, 0)]
)
def test_the_largest_batch_is_searched_up_and_down(limit, start, found):
  tried = []

  def fits(batch):
    tried.append(batch)
    return 0 < batch <= limit

  largest = largest_batch.measured(fits, start)
  assert largest == found and fits(largest) == bool(found)
  assert largest * 1.1 + 1 > limit and len(tried) < 12
