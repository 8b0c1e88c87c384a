"""Runs the commands of docs/REPRODUCE.md in small, from the archives to the checked submissions: about ten minutes.

  python launch/rehearse.py
  REHEARSE_DATA=DOWNLOADS python launch/rehearse.py

Writes archives in the official layouts from generated pictures, or takes those in REHEARSE_DATA, and runs every
command of the page that is marked for it, in its order, with flags appended that make it small
(`launch/rehearse_commands.py`): a tiny encoder, a few steps. The first stage of VOC is stopped by SIGTERM and that of
Cityscapes killed, and both are resumed. Everything is in runs/rehearsal; with REHEARSE_DATA, in runs/rehearsal_NAME.
After a failure the same command continues; after a complete rehearsal it begins anew.
"""

import dataclasses
import functools
import importlib.util
import json
import os
import pathlib
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gcn_flax import files, json_files  # noqa: E402
from gcn_flax.distributed import STOPPED  # noqa: E402
from gcn_flax.interrupts import interruptible  # noqa: E402
from launch import official_archives, rehearse_pictures  # noqa: E402
from launch.child_process import Stopped, locked  # noqa: E402
from launch.rehearse_commands import Step, read_steps, with_folders  # noqa: E402
from launch.rehearse_process import environment, last_lines, run_command  # noqa: E402

PAGE = ROOT / "docs" / "REPRODUCE.md"
# Stage -> signal that interrupts its training, which is then resumed.
INTERRUPTED = {"VOC stage 1": signal.SIGTERM, "Cityscapes stage 1": signal.SIGKILL}
_STATUS_AFTER = {signal.SIGTERM: STOPPED, signal.SIGKILL: -signal.SIGKILL}
_INTERRUPT_AT = 6  # First step after which that happens.


@dataclasses.dataclass(frozen=True)
class Rehearsal:
  """A rehearsal in a folder, which holds all that it makes.

  Attributes:
    folder: the folder; workdirs are in `runs/` in it.
    archives: folder of the archives; None for generated ones.
  """

  folder: pathlib.Path
  archives: pathlib.Path | None = None

  @property
  def _record(self) -> pathlib.Path:
    return self.folder / "rehearsal.json"

  def run(self, steps: Sequence[Step]) -> str:
    """Runs the steps that have not been run yet, and returns the table.

    Raises:
      ValueError: for a step that failed, after the end of its output.
      Stopped: if SIGINT or SIGTERM came.
    """
    with locked(pathlib.Path(f"{self.folder}.lock"), self.folder) as lock:
      return self._run(steps, lock)

  def _run(self, steps: Sequence[Step], lock: int) -> str:
    commands = [f"{with_folders(step.command, self._folders())} {step.small()}".strip() for step in steps]
    done = {row["command"]: row for row in self._begin()}
    print(f"rehearsing {len(steps)} commands of {PAGE.relative_to(ROOT)} in {self.folder}", flush=True)
    for number, (step, command) in enumerate(zip(steps, commands, strict=True), 1):
      print(f"\n[{number}/{len(steps)}] {step.stage}: {step.command}", flush=True)
      if step.small():
        print(f"  + {step.small()}", flush=True)
      if command in done:
        print("  done before", flush=True)
        continue
      started = time.monotonic()
      self._run_step(step, command, self.folder / "logs" / f"{number:02d}.log", lock)
      row = {"command": command, "stage": step.stage, "mode": step.mode, "seconds": time.monotonic() - started}
      done[command] = row | self._results(step)
      self._write(list(done.values()))
    rows = [done[command] for command in commands]
    self._write(rows, is_complete=True)
    text = table(rows)
    files.write(self.folder / "table.md", text)
    return text

  def _begin(self) -> list[dict[str, Any]]:
    """Makes the folder and the archives, unless they are there from before; returns the rows of completed steps."""
    form = {"archives": str, "rows": [{"command": str}], "is_complete": bool}
    record = {}
    if self._record.exists():
      record = json_files.read(self._record, form, f"Remove {self.folder} to begin anew.")
    if record.get("archives", str(self.archives or "")) != str(self.archives or ""):
      raise ValueError(
        f"REHEARSE_DATA={self.archives}: {self.folder} was begun with {record['archives']}. Remove that folder first."
      )
    if record.get("is_complete"):
      shutil.rmtree(self.folder)
      record = {}
    if not record:
      (self.folder / "logs").mkdir(parents=True, exist_ok=True)
      link = self.folder / "configs"  # Commands name recipes relative to the clone, but runs relative to the folder.
      if not link.is_symlink():
        link.symlink_to(ROOT / "configs")
      print("drawing pictures ...", flush=True)
      rehearse_pictures.write_silhouettes(self.folder / "silhouettes")
      if not self.archives:
        (self.folder / "downloads").mkdir(exist_ok=True)
        rehearse_pictures.write_archives(self.folder / "downloads")
      self._write([])
    return record.get("rows", [])

  def _write(self, rows: list[dict[str, Any]], is_complete: bool = False) -> None:
    record = {"archives": str(self.archives or ""), "rows": rows, "is_complete": is_complete}
    files.write(self._record, json.dumps(record, indent=2) + "\n")

  def _folders(self) -> dict[str, str]:
    return {"DATA": "prepared", "DOWNLOADS": str(self.archives or "downloads")}

  def _run_step(self, step: Step, command: str, log: pathlib.Path, lock: int) -> None:
    """Runs a step; interrupts and resumes it if that is its turn. Raises ValueError if it fails."""
    run = functools.partial(
      run_command, command, self.folder, environment(ROOT, self.folder), log, inherited=(lock,)
    )  # fmt: skip
    if step.mode == "predict":  # Label maps of a run that was broken off would be in the way.
      shutil.rmtree(self.folder / step.flags["output"], ignore_errors=True)
    number = INTERRUPTED.get(step.stage) if step.mode == "train" else None
    if number and not self._was_resumed(step):
      status = run(after_line=self._interrupt(step, number))
      if status == _STATUS_AFTER[number]:
        print(f"  interrupted by {number.name}; the same command again:", flush=True)
        status = run()
      if status == 0 and not self._was_resumed(step):
        raise ValueError(f"{step.stage}: did not resume in its middle, after {number.name}. Its output is in {log}.")
    else:
      status = run()
    if status:
      raise ValueError(
        f"{step.stage} failed with exit status {status}: {command}\n{last_lines(log)}"
        f"  all of its output is in {log}. After mending it, repeat this command to continue."
      )

  def _interrupt(self, step: Step, number: signal.Signals) -> Callable[[str], int]:
    """Returns a function that takes lines of a log, and returns the signal once, after a checkpoint was saved."""
    checkpoints = self.folder / step.flags["workdir"] / "checkpoints"
    sent = []

    def after_line(line: str) -> int:
      found = re.search(r"step (\d+)/", line)
      is_saved = any(path.name.isdigit() for path in checkpoints.glob("*"))
      if sent or not found or int(found[1]) < _INTERRUPT_AT or not is_saved:
        return 0
      sent.append(number)
      return number

    return after_line

  def _was_resumed(self, step: Step) -> bool:
    return any(start["step"] > 0 for start in self._read(step, "run.json").get("starts", ()))

  def _results(self, step: Step) -> dict[str, Any]:
    """Returns what the table shows of a training or an evaluation."""
    if step.mode not in ("train", "eval"):
      return {}
    config, scores = self._read(step, "config.json"), self._read(step, "eval_validation.json")
    results = {"mean_iou": scores.get("mean_iou")}
    if step.mode == "train":
      lines = (self.folder / step.flags["workdir"] / "metrics.jsonl").read_text().splitlines()
      losses = [line["loss"] for line in map(json.loads, lines) if "loss" in line]
      results |= {
        "steps": config["total_steps"],
        "resumed_at": [start["step"] for start in self._read(step, "run.json")["starts"] if start["step"]],
        "losses": [losses[0], losses[-1]],
        "started_from": config["init_from"] or config["model"]["pretrained"] or "random weights",
      }
    return results

  def _read(self, step: Step, name: str) -> dict[str, Any]:
    path = self.folder / step.flags["workdir"] / name
    return json.loads(path.read_text()) if path.exists() else {}


def table(rows: Sequence[dict[str, Any]]) -> str:
  """Returns the Markdown table of completed steps."""
  lines = [
    "| stage | command | steps | time, s | loss | mean IoU, % | started from |",
    "|---|---|---:|---:|---|---:|---|",
  ]
  for row in rows:
    steps = str(row.get("steps", ""))
    if row.get("resumed_at"):
      steps += f", resumed at {', '.join(map(str, row['resumed_at']))}"
    score = "" if row.get("mean_iou") is None else f"{100 * row['mean_iou']:.1f}"
    loss = " to ".join(f"{loss:.2f}" for loss in row.get("losses", ()))
    cells = row["stage"], row["mode"], steps, f"{row['seconds']:.0f}", loss, score, row.get("started_from", "")
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines) + "\n"


def check_archives(archives: pathlib.Path) -> None:
  """Raises ValueError if a folder lacks an archive."""
  missing = [name for name in official_archives.NAMES if not (archives / name).is_file()]
  if missing:
    raise ValueError(f"REHEARSE_DATA={archives}: has no {', '.join(missing)}. data/README.md lists what it must hold.")


@interruptible
def main(argv: Sequence[str]) -> int:
  """Rehearses the page. Returns the exit status; `distributed.STOPPED` after a signal."""
  given = os.environ.get("REHEARSE_DATA", "")
  archives = pathlib.Path(given).expanduser().absolute() if given else None
  folder = ROOT / "runs" / ("rehearsal" + (f"_{archives.name}" if archives else ""))
  try:
    if argv:
      raise ValueError(f"{argv[0]}: unknown argument. There are none; REHEARSE_DATA=DIR takes other archives.")
    if archives:
      check_archives(archives)
    if importlib.util.find_spec("pydensecrf") is None:
      raise ValueError("the CRF is not installed. Run: pip install -r requirements-crf.txt -c constraints.txt")
    started = time.monotonic()
    text = Rehearsal(folder, archives).run(read_steps(PAGE.read_text()))
    print(f"\n{text}\nthe rehearsal is complete, after {(time.monotonic() - started) / 60:.1f} minutes: {folder}")
  except Stopped:
    print("stopped by a signal. Repeat the command to continue.", file=sys.stderr)
    return STOPPED
  except (OSError, ValueError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
