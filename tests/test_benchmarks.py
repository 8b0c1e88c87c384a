"""The benchmarks run from end to end; the figures themselves are not tested."""

import json
import subprocess
import sys

import pytest


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
