"""Kills a training run many times, restarts it each time, and compares it with an undisturbed run.

  python benchmarks/chaos.py --kills=30 --json=runs/chaos.json

Half of the kills hit a run that always restarts on the same devices: its final train state must equal that of the
undisturbed run bit for bit. The other half hit a run that restarts each time on another number of devices and
processes: its weights must agree to 1e-5. This takes a small learning rate and few steps, because rounding differences
grow with each step; an undisturbed run on other devices shows by how much. A kill is SIGKILL to all processes, SIGKILL
to one, which the others must notice by themselves, or SIGTERM to one. Its moment is random: during the start, a step or
a save. The image ids logged by each host are compared too: each step must have those of the undisturbed run, and each
epoch every image once. Uses CPU devices and random images.
"""

import collections
import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
os.environ["JAX_PLATFORMS"] = "cpu"

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from absl import flags  # noqa: E402

from benchmarks import chaos_verdict, script  # noqa: E402
from benchmarks.chaos_verdict import IMAGES  # noqa: E402
from data.prepare import prepare  # noqa: E402
from gcn_flax import distributed  # noqa: E402
from gcn_flax.workdir import writers  # noqa: E402
from gcn_flax.workdir.workdir import Workdir  # noqa: E402

SAVE_EVERY = 5  # Steps between two checkpoints.
STEPS_PER_KILL = 12  # Most steps, or nearly so, that a run makes before the next kill.
SHAPES = ((1, 1), (1, 2), (1, 4), (2, 1), (2, 2))  # (processes, devices of each).
STATUSES = {0, distributed.STOPPED, -signal.SIGKILL, -signal.SIGABRT}  # JAX aborts if process 0 was killed.
# Before training begins, SIGTERM has Python's default effect, and a process that waits in vain for another one fails.
START_STATUSES = {-signal.SIGTERM, 1}
START_SECONDS = 8.0  # Longest wait for a kill during the start.
FIELDS = {
  "batch_size": 8, "log_every_steps": 1, "checkpoint_every_steps": SAVE_EVERY, "eval_every_steps": 10**6,
  "log_image_ids": True, "data.crop_size": (64, 64), "data.eval_size": (64, 64), "data.num_threads": 2,
  "eval.batch_size": 8, "eval.num_pictures": 0, "model.kernel_size": 3, "optimizer.learning_rate": 1e-5,
}  # fmt: skip


@dataclasses.dataclass
class Tally:
  """Counts of the kills, exit statuses, and (processes, devices) of each start."""

  kills: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  statuses: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  shapes: collections.Counter = dataclasses.field(default_factory=collections.Counter)


def main() -> int:
  """Kills, compares, prints and writes the JSON file. Returns the exit status, 1 if anything differs."""
  flags.FLAGS.mark_as_parsed()
  parser = script.parser(__doc__.splitlines()[0])
  parser.add_argument("--kills", type=int, default=30, help="number of kills")
  parser.add_argument("--seed", type=int, default=0, help="seed for the moments and kinds of the kills")
  parser.add_argument("--workdir", type=pathlib.Path, default="runs/chaos", help="folder of the runs; emptied first")
  args = parser.parse_args()
  rng, tally = random.Random(args.seed), Tally()
  shutil.rmtree(args.workdir, ignore_errors=True)
  data_dir = make_data(args.workdir)
  kills = {"same": args.kills - args.kills // 2, "other": args.kills // 2}
  # Long enough that no run finishes before its last kill.
  fields = FIELDS | {"data.data_dir": data_dir, "total_steps": max(kills.values()) * STEPS_PER_KILL + SAVE_EVERY}
  start = Starter(fields)
  for name, shape in (("alone", (1, 2)), ("elsewhere", (2, 2))):
    with start(args.workdir / name, shape) as processes:
      statuses = [process.wait() for process in processes]
    if any(statuses):
      raise RuntimeError(f"the undisturbed run {name} ended with {statuses}: see {args.workdir}/{name}.log")
  for name, count in kills.items():
    kill_repeatedly(start, args.workdir / name, count, same=name == "same", rng=rng, tally=tally)
  print(tally, flush=True)
  found = chaos_verdict.compare(args.workdir, fields)
  report = {
    "machine": script.machine(("jax", "orbax-checkpoint", "grain")),
    "kills": args.kills,
    "steps": fields["total_steps"],
    **found,
  }
  report |= {name: {str(key): value for key, value in counter.items()} for name, counter in vars(tally).items()}
  script.write_json(args.json, report)
  print(json.dumps(report, indent=2))
  good = found["same"]["largest_difference"] == 0 and found["other"]["largest_difference"] <= 1e-5
  good &= not any(found[name][what] for name in kills for what in ("steps_with_other_images", "images_not_once"))
  print("equal to the undisturbed run" if good else "NOT equal to the undisturbed run")
  return 0 if good else 1


def make_data(workdir: pathlib.Path) -> str:
  """Prepares random images as the data set `folder`, and returns its data_dir."""
  rng = np.random.default_rng(0)
  for split, count in (("train", IMAGES), ("val", 8)):
    for kind in ("images", "masks"):
      (workdir / "pictures" / kind / split).mkdir(parents=True)
    for index in range(count):
      mask = np.kron(rng.integers(0, 3, (4, 4)), np.ones((16, 16))).astype(np.uint8)
      image = (mask[..., None] * 80 + rng.integers(0, 40, (64, 64, 3))).astype(np.uint8)
      cv2.imwrite(str(workdir / "pictures" / "images" / split / f"{index}.png"), image)
      cv2.imwrite(str(workdir / "pictures" / "masks" / split / f"{index}.png"), mask)
  (workdir / "pictures" / "classes.txt").write_text("0 one\n1 two\n2 three\n")
  prepare("folder", str(workdir / "pictures"), str(workdir / "data"))
  return str((workdir / "data").absolute())


class Starter:
  """Starts the same training on any number of processes and devices."""

  def __init__(self, fields: dict[str, Any]):
    self._fields = fields

  @contextlib.contextmanager
  def __call__(self, workdir: pathlib.Path, shape: tuple[int, int]) -> Iterator[list[subprocess.Popen]]:
    """Yields the processes, and kills those that are left. Their output is appended to WORKDIR.log."""
    count, devices = shape
    command = [sys.executable, "-m", "gcn_flax.main", "--config=configs/folder.py:resnet_tiny"]
    command += [
      f"--workdir={workdir.absolute()}",
      *(f"--config.{name}={value}" for name, value in self._fields.items()),
    ]
    with socket.socket() as free:
      free.bind(("localhost", 0))
      address = f"localhost:{free.getsockname()[1]}"
    joined = [f"--coordinator={address}", f"--num_processes={count}", "--join_timeout=20"]
    xla_flags = f"--xla_backend_optimization_level=0 --xla_force_host_platform_device_count={devices}"
    environment = {
      **os.environ,
      "XLA_FLAGS": xla_flags,
      "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "compiled"),
    }
    with open(f"{workdir}.log", "a") as log:
      processes = [
        subprocess.Popen(
          command + (count > 1) * [*joined, f"--process_id={index}"],
          cwd=ROOT,
          env=environment,
          stdout=log,
          stderr=log,
        )
        for index in range(count)
      ]
      try:
        yield processes
      finally:
        for process in processes:
          process.kill()
          process.wait()


def kill_repeatedly(
  start: Starter, workdir: pathlib.Path, kills: int, *, same: bool, rng: random.Random, tally: Tally
) -> None:
  """Kills a run `kills` times, then lets it finish. Raises RuntimeError if it fails by itself."""
  for number in itertools.count():
    shape = (1, 2) if same else rng.choice(SHAPES)
    tally.shapes[shape] += 1
    begun = len(Workdir(workdir).run_record().get("starts", []))
    with start(workdir, shape) as processes:
      if number < kills:
        moment = await_moment(workdir, begun, processes, rng)
        if any(process.poll() is not None for process in processes):
          raise RuntimeError(f"{workdir} ended before kill number {number + 1}: see {workdir}.log")
        tally.kills[f"{kill(processes, rng)}, {moment}"] += 1
      statuses = [process.wait() for process in processes]
    tally.statuses.update(statuses)
    in_start = number < kills and moment == "in the start"
    if not set(statuses) <= STATUSES | (START_STATUSES if in_start else set()):
      raise RuntimeError(f"{workdir} ended with {statuses}: see {workdir}.log")
    print(f"{workdir.name}: {number + 1} of {kills + 1} starts, at step {newest_step(workdir, begun)}", flush=True)
    if number == kills:
      return


def await_moment(workdir: pathlib.Path, number: int, processes: list[subprocess.Popen], rng: random.Random) -> str:
  """Waits for a random moment and returns its name; `number` is the index of this start in `run.json`."""
  kind = rng.choice(("start", "step", "step", "save", "save"))
  begun = max((int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdigit()), default=0)
  if kind == "start":
    until = time.monotonic() + rng.uniform(0, START_SECONDS)
    while time.monotonic() < until and not newest_step(workdir, number):
      time.sleep(0.02)
    return "in a step" if newest_step(workdir, number) else "in the start"
  wanted = begun + rng.randint(1, STEPS_PER_KILL - SAVE_EVERY)
  while all(process.poll() is None for process in processes):
    if newest_step(workdir, number) >= wanted and (kind == "step" or saving(workdir)):
      break
    time.sleep(0.002)
  if kind == "step":
    time.sleep(rng.uniform(0, 0.3))
  return "in a save" if saving(workdir) else "in a step"


def saving(workdir: pathlib.Path) -> bool:
  """Returns whether a checkpoint is being written."""
  return any(workdir.glob("checkpoints/*.orbax-checkpoint-tmp*"))


def newest_step(workdir: pathlib.Path, number: int) -> int:
  """Returns the last step that start `number` has begun; 0 before its first."""
  return max(writers.read_image_ids(workdir / "examples" / f"start{number}_host0.jsonl"), default=0)


def kill(processes: list[subprocess.Popen], rng: random.Random) -> str:
  """Kills one or all of the processes, and returns how."""
  how = rng.choice(("SIGKILL to all", "SIGKILL to one", "SIGTERM to one"))
  for process in processes if how == "SIGKILL to all" else [rng.choice(processes)]:
    process.send_signal(signal.SIGTERM if how == "SIGTERM to one" else signal.SIGKILL)
  return how


if __name__ == "__main__":
  sys.exit(main())
