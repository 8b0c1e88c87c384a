"""One run of launch/ablation.py: its command, its record, and the process that trains it."""

import ctypes
import dataclasses
import functools
import pathlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence

import ml_collections

from configs import ablation
from gcn_flax import command_line
from gcn_flax.workdir.run_results import RunResults
from launch import records
from launch.child_process import locked, passing_signals

ROOT = pathlib.Path(__file__).resolve().parent.parent
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl.


@dataclasses.dataclass(frozen=True)
class Run:
  """A cell of `configs/ablation.py`, trained with one seed.

  Attributes:
    cell, data, seed: what is trained.
    root: folder of the workdirs, which has one folder for each data set.
    records: folder of the records, likewise.
    flags: config flags of the run besides the seed.
  """

  cell: str
  data: str
  seed: int
  root: pathlib.Path
  records: pathlib.Path
  flags: Sequence[str] = ()

  @property
  def network(self) -> str:
    """Name of the network, the same for cells of several tables."""
    model = ablation.get_config(f"{self.cell}:{self.data}").model
    parts = [*([model.backbone] if ablation.CELLS[self.cell]["backbone"] else []), model.head]
    parts += [] if model.head == "pointwise" else [f"k{model.kernel_size}"]
    parts += [f"w{model.stack_width}"] if model.stack_width else []
    parts += ["br"] if model.boundary_refine else []
    return "-".join(parts)

  @property
  def workdir(self) -> pathlib.Path:
    """Workdir of the run."""
    return self.root / self.data / self.network / f"seed{self.seed}"

  @property
  def record_path(self) -> pathlib.Path:
    """Path of the record."""
    return self.records / self.data / f"{self.network}-seed{self.seed}.json"

  @property
  def command(self) -> list[str]:
    """Command that trains the cell, to be run in the clone."""
    return [sys.executable, "-m", "gcn_flax.main", f"--config={self._recipe}", *self._arguments]

  @functools.cached_property
  def config(self) -> ml_collections.ConfigDict:
    """Config of the run, flags included."""
    return command_line.parse(["", f"--config={ROOT / self._recipe}", *self._arguments])[0]

  @property
  def _recipe(self) -> str:
    return f"configs/ablation.py:{self.cell}:{self.data}"

  @property
  def _arguments(self) -> list[str]:
    return [f"--workdir={self.workdir}", f"--config.seed={self.seed}", *self.flags]

  def record(self) -> records.Record | None:
    """Returns the record, which is written first if the run is complete; None if it is not, or had another config."""
    found = records.read(self.record_path) if self.record_path.exists() else None
    if found and records.is_of(found, self.config):
      return found
    if not self._is_complete():
      return None
    found = records.record(self.workdir)
    if not records.is_of(found, self.config):
      raise ValueError(f"{self.workdir}: was trained with another recipe. Delete it, or use another --root.")
    records.write(found, self.record_path)
    return found

  def train(self) -> None:
    """Trains and evaluates the cell, as far as that is not done yet.

    Raises RuntimeError if that fails, Stopped after a signal.
    """
    with locked(self.workdir / "ablation.lock", self.workdir) as lock:
      if not self._is_trained():
        _run_command(self.command, lock)
      if self._is_trained() and not self._is_complete():  # The last evaluation was of another step or setting.
        _run_command([*self.command, "--mode=eval", "--checkpoint=last"], lock)
      if not self._is_complete():
        raise RuntimeError(
          f"{self.cell}, seed {self.seed}, was stopped before its last step: {shlex.join(self.command)}"
        )

  def _is_trained(self) -> bool:
    if not (self.workdir / "config.json").exists():
      return False
    steps = RunResults.read(self.workdir).config.total_steps
    return (self.workdir / "checkpoints" / str(steps)).is_dir()

  def _is_complete(self) -> bool:
    return self._is_trained() and records.is_complete(RunResults.read(self.workdir))


def _run_command(command: Sequence[str], lock: int) -> None:
  """Runs a command that holds the lock while it lives; SIGTERM and SIGINT reach it as SIGTERM, so that it saves.

  Raises RuntimeError if it fails, Stopped after a signal.
  """
  libc = ctypes.CDLL(None)
  child = subprocess.Popen(
    command,
    cwd=ROOT,
    pass_fds=(lock,),
    preexec_fn=lambda: libc.prctl(_DIE_WITH_PARENT, signal.SIGTERM) if hasattr(libc, "prctl") else None,
  )
  with passing_signals(child):
    status = child.wait()
  if status:
    raise RuntimeError(f"exit status {status} of: {shlex.join(command)}")
