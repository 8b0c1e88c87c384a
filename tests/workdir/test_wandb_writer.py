"""The optional writer of Weights & Biases, offline: what it logs, its one run per workdir, and what users get wrong."""

import json
import struct
import sys

import pytest
import wandb
from wandb.proto.wandb_internal_pb2 import Record

from gcn_flax import train
from gcn_flax.preflight import check_libraries
from gcn_flax.workdir import wandb_writer
from gcn_flax.workdir.workdir import Workdir
from gcn_flax.workdir.writers import read_metrics


def records(path):
  """Yields the records of a .wandb file, which has the log format of LevelDB: fragments in blocks of 32 KiB."""
  content, place, record = path.read_bytes(), 7, b""
  while place + 7 <= len(content):
    left = 2**15 - place % 2**15
    if left < 7:
      place += left
      continue
    length, kind = struct.unpack("<4xHB", content[place : place + 7])
    record += content[place + 7 : place + 7 + length]
    place += 7 + length
    if kind in (1, 4):  # A whole record, or the last fragment of one.
      yield Record.FromString(record)
      record = b""


def logged(path):
  """Returns the lines that were logged to a .wandb file."""
  lines = []
  for record in records(path):
    if record.WhichOneof("record_type") == "history":
      line = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
      lines.append({name: value for name, value in line.items() if not name.startswith("_")})
  return lines


@pytest.fixture
def wandb_config(config, monkeypatch):
  monkeypatch.setenv("WANDB_MODE", "offline")
  config.total_steps, config.eval_every_steps, config.wandb_project = 2, 2, "tests"
  return config


@pytest.mark.slow
@pytest.mark.usefixtures("fast_runs")
def test_a_run_logs_metrics_and_sheets_and_a_restart_continues_it(wandb_config, tmp_path):
  assert train.run(wandb_config, tmp_path / "run")
  wandb_config.total_steps = 3
  assert train.run(wandb_config, tmp_path / "run")
  run_id = json.loads((tmp_path / "run/wandb.json").read_text())["id"]
  first, second = sorted((tmp_path / "run/wandb").glob(f"offline-run-*-{run_id}/run-{run_id}.wandb"))
  lines = logged(first) + logged(second)
  scalars = [line for line in lines if not any("sha256" in name for name in line)]  # A picture has its own fields.
  assert scalars == read_metrics(tmp_path / "run/metrics.jsonl")
  sheets = [line for line in lines if line not in scalars]
  assert [line["step"] for line in sheets] == [2, 3]
  assert len(list((tmp_path / "run/wandb").glob("offline-run-*/files/media/images/**/*.png"))) == 2
  (start, *_) = [record.run for record in records(first) if record.WhichOneof("record_type") == "run"]
  assert (start.project, start.run_id, start.display_name) == ("tests", run_id, "run")
  assert "learning_rate" in str(start.config)


def test_without_a_project_wandb_is_not_imported(config, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "wandb", None)
  check_libraries(config, training=True)
  assert wandb_writer.open_wandb(config, Workdir(tmp_path)) is None


def test_a_missing_library_is_reported_with_its_command(wandb_config, monkeypatch):
  monkeypatch.setattr(wandb_writer.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(
    ValueError, match="config.wandb_project='tests': wandb is not installed. Run pip install wandb, or"
  ):
    check_libraries(wandb_config, training=True)
  check_libraries(wandb_config, training=False)  # An evaluation does not write to W&B.


def test_what_wandb_reports_is_one_line(wandb_config, tmp_path, monkeypatch):
  for name, value in (("WANDB_MODE", "online"), ("WANDB_API_KEY", ""), ("NETRC", str(tmp_path / "none"))):
    monkeypatch.setenv(name, value)

  def fail(**_):
    raise wandb.errors.UsageError("No API key configured.\nUse `wandb login` to log in.")

  monkeypatch.setattr(wandb, "init", fail)
  with pytest.raises(
    ValueError, match="^config.wandb_project='tests': W&B reports: No API key.*WANDB_MODE=off"
  ) as error:
    wandb_writer.open_wandb(wandb_config, Workdir(tmp_path))
  assert "\n" not in str(error.value)


def test_a_damaged_id_is_reported(wandb_config, tmp_path):
  (tmp_path / "wandb.json").write_text("{}")
  with pytest.raises(
    ValueError, match="wandb.json: damaged .'id' is missing.. Remove it: a new W&B run is begun then."
  ):
    wandb_writer.open_wandb(wandb_config, Workdir(tmp_path))


def test_other_hosts_do_not_write(wandb_config, tmp_path, monkeypatch):
  monkeypatch.setattr(wandb_writer.jax, "process_index", lambda: 1)
  assert wandb_writer.open_wandb(wandb_config, Workdir(tmp_path)) is None
