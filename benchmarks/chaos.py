"""Kills a training again and again, lets it go on each time, and compares it with one that was left alone.

  python benchmarks/chaos.py --kills=30 --json=runs/chaos.json

Half the kills are of a run that goes on with the same devices each time: its last train state must equal that of the
run left alone bit for bit. The other half go on with another number of devices and processes each time: every weight
must agree to 1e-5. That takes a small learning rate and few steps, because rounding differences grow with each step;
how far they do without a kill, a run left alone on other devices tells. A kill is SIGKILL to all, SIGKILL to one
process, which the others must notice by themselves, or SIGTERM to one; its moment is drawn: somewhere in the start, in
a step, or in a save, while its unfinished folder is there. The image ids that each host logs are counted: each step
must have had those of the run left alone, and each epoch every image once. CPU devices and random pictures.
"""

import argparse
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
import jax  # noqa: E402
import numpy as np  # noqa: E402
import timing  # noqa: E402
from absl import flags  # noqa: E402

from configs import folder  # noqa: E402
from data.prepare import prepare  # noqa: E402
from gcn_flax import build, distributed  # noqa: E402
from gcn_flax.training.checkpoint import open_checkpoints  # noqa: E402
from gcn_flax.workdir import writers  # noqa: E402

IMAGES = 52  # Not a multiple of the batch: an epoch begins in the middle of one.
BATCH, SAVE_EVERY, AHEAD = 8, 5, 12  # AHEAD: steps that a run gets at most, or nearly so, before the next kill.
SHAPES = ((1, 1), (1, 2), (1, 4), (2, 1), (2, 2))  # (processes, devices of each).
STATUSES = {0, distributed.STOPPED, -signal.SIGKILL, -signal.SIGABRT}  # JAX aborts where process 0 was killed.
# Before training begins a SIGTERM is Python's own to handle, and one that waits in vain for another ends with an error.
STATUSES_OF_START = {-signal.SIGTERM, 1}
START_S = 8.0  # Longest wait for a kill in the start.
FIELDS = {
  "batch_size": BATCH, "log_every_steps": 1, "checkpoint_every_steps": SAVE_EVERY, "eval_every_steps": 10**6,
  "log_image_ids": True, "data.crop_size": (64, 64), "data.eval_size": (64, 64), "data.num_threads": 2,
  "eval.batch_size": 8, "eval.num_pictures": 0, "model.kernel_size": 3, "optimizer.learning_rate": 1e-5,
}  # fmt: skip


@dataclasses.dataclass
class Tally:
  """What happened."""

  kills: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  statuses: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  shapes: collections.Counter = dataclasses.field(default_factory=collections.Counter)


def main() -> int:
  """Returns 1 where anything differs."""
  flags.FLAGS.mark_as_parsed()
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--kills", type=int, default=30)
  parser.add_argument("--seed", type=int, default=0, help="of the moments and kinds of the kills")
  parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/chaos"), help="is emptied")
  parser.add_argument("--json", type=pathlib.Path)
  args = parser.parse_args()
  rng, tally = random.Random(args.seed), Tally()
  shutil.rmtree(args.workdir, ignore_errors=True)
  data_dir = make_data(args.workdir)
  kills = {"same": args.kills - args.kills // 2, "other": args.kills // 2}
  # Long enough that no run comes to its end before its last kill.
  total_steps = max(kills.values()) * AHEAD + SAVE_EVERY
  start = Starter(data_dir, total_steps)
  for name, shape in (("alone", (1, 2)), ("elsewhere", (2, 2))):
    with start(args.workdir / name, shape) as processes:
      statuses = [process.wait() for process in processes]
    if any(statuses):
      raise RuntimeError(f"the run left {name} ended with {statuses}: see {args.workdir}/{name}.log")
  for name, count in kills.items():
    torment(start, args.workdir / name, count, same=name == "same", rng=rng, tally=tally)
  print(tally, flush=True)
  found = judge(args.workdir, data_dir, total_steps)
  report = {
    "machine": timing.machine(("jax", "orbax-checkpoint", "grain")),
    "kills": args.kills,
    "steps": total_steps,
    **found,
  }
  report |= {name: {str(key): value for key, value in counter.items()} for name, counter in vars(tally).items()}
  if args.json:
    args.json.write_text(json.dumps(report, indent=2) + "\n")
  print(json.dumps(report, indent=2))
  good = found["same"]["largest_difference"] == 0 and found["other"]["largest_difference"] <= 1e-5
  good &= not any(found[name][what] for name in kills for what in ("steps_with_other_images", "images_not_once"))
  print("as if nothing had happened" if good else "NOT the same")
  return 0 if good else 1


def make_data(workdir: pathlib.Path) -> str:
  """Prepares random pictures as the data set `folder`."""
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

  def __init__(self, data_dir: str, total_steps: int):
    self._fields = FIELDS | {"data.data_dir": data_dir, "total_steps": total_steps}

  @contextlib.contextmanager
  def __call__(self, workdir: pathlib.Path, shape: tuple[int, int]) -> Iterator[list[subprocess.Popen]]:
    """The processes; none is left when the context ends. What they say is added to WORKDIR.log."""
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
    flags_of_xla = f"--xla_backend_optimization_level=0 --xla_force_host_platform_device_count={devices}"
    environment = {
      **os.environ,
      "XLA_FLAGS": flags_of_xla,
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


def torment(start: Starter, workdir: pathlib.Path, kills: int, *, same: bool, rng: random.Random, tally: Tally) -> None:
  """Kills a run so many times, and then lets it come to its end. Raises RuntimeError where it fails by itself."""
  for number in itertools.count():
    shape = (1, 2) if same else rng.choice(SHAPES)
    tally.shapes[shape] += 1
    begun = len(writers.read_run_json(workdir).get("starts", []))
    with start(workdir, shape) as processes:
      if number < kills:
        moment = await_moment(workdir, begun, processes, rng)
        if any(process.poll() is not None for process in processes):
          raise RuntimeError(f"{workdir} ended before kill number {number + 1}: see {workdir}.log")
        tally.kills[f"{kill(processes, rng)}, {moment}"] += 1
      statuses = [process.wait() for process in processes]
    tally.statuses.update(statuses)
    in_start = number < kills and moment == "in the start"
    if not set(statuses) <= STATUSES | (STATUSES_OF_START if in_start else set()):
      raise RuntimeError(f"{workdir} ended with {statuses}: see {workdir}.log")
    print(f"{workdir.name}: {number + 1} of {kills + 1} starts, at step {newest_step(workdir, begun)}", flush=True)
    if number == kills:
      return


def await_moment(workdir: pathlib.Path, number: int, processes: list[subprocess.Popen], rng: random.Random) -> str:
  """Waits for a moment that is drawn, and names it; `number` is of the start, as `run.json` counts them."""
  kind = rng.choice(("start", "step", "step", "save", "save"))
  begun = max((int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdigit()), default=0)
  if kind == "start":
    until = time.monotonic() + rng.uniform(0, START_S)
    while time.monotonic() < until and not newest_step(workdir, number):
      time.sleep(0.02)
    return "in a step" if newest_step(workdir, number) else "in the start"
  wanted = begun + rng.randint(1, AHEAD - SAVE_EVERY)
  while all(process.poll() is None for process in processes):
    if newest_step(workdir, number) >= wanted and (kind == "step" or saving(workdir)):
      break
    time.sleep(0.002)
  if kind == "step":
    time.sleep(rng.uniform(0, 0.3))
  return "in a save" if saving(workdir) else "in a step"


def saving(workdir: pathlib.Path) -> bool:
  """Whether a checkpoint is just being written."""
  return any(workdir.glob("checkpoints/*.orbax-checkpoint-tmp*"))


def newest_step(workdir: pathlib.Path, number: int) -> int:
  """The last step that start `number` has taken up; 0 before its first."""
  lines = writers.read_metrics(workdir / "examples" / f"start{number}_host0.jsonl")
  return lines[-1]["step"] if lines else 0


def kill(processes: list[subprocess.Popen], rng: random.Random) -> str:
  """Kills one or all of the processes, and says how."""
  how = rng.choice(("SIGKILL to all", "SIGKILL to one", "SIGTERM to one"))
  for process in processes if how == "SIGKILL to all" else [rng.choice(processes)]:
    process.send_signal(signal.SIGTERM if how == "SIGTERM to one" else signal.SIGKILL)
  return how


def judge(folder_of_runs: pathlib.Path, data_dir: str, total_steps: int) -> dict[str, Any]:
  """Compares the last states and the images of the steps with those of the run left alone."""
  alone, truth = final_state(folder_of_runs / "alone", data_dir, total_steps), seen_images(folder_of_runs / "alone")
  found = {}
  for name in ("same", "other", "elsewhere"):
    state, images = final_state(folder_of_runs / name, data_dir, total_steps), seen_images(folder_of_runs / name)
    # Statistics of few images magnify any rounding: across device counts the weights are compared.
    trees = (alone, state) if name == "same" else (alone.params, state.params)
    pairs = zip(*map(jax.tree.leaves, trees), strict=True)
    line = [image for step in range(1, total_steps + 1) for image in images.get(step, [])]
    epochs = [line[first : first + IMAGES] for first in range(0, len(line) - IMAGES + 1, IMAGES)]
    found[name] = {
      "largest_difference": max(float(np.max(np.abs(as_floats(a) - as_floats(b)))) for a, b in pairs),
      "steps_with_other_images": sum(
        images.get(step) != truth.get(step) or not truth.get(step) for step in range(1, total_steps + 1)
      ),
      "epochs": len(epochs),
      "images_not_once": sum(IMAGES - len(set(epoch)) for epoch in epochs),
    }
  return found


def final_state(workdir: pathlib.Path, data_dir: str, total_steps: int) -> Any:
  """The train state at the end of a run."""
  config = folder.get_config("resnet_tiny")
  config.update_from_flattened_dict(FIELDS | {"data.data_dir": data_dir, "total_steps": total_steps})
  with open_checkpoints(workdir) as checkpoints:
    return checkpoints.restore(total_steps, build.build(config, jax.devices()[:1]).state_shapes)


def as_floats(leaf: jax.Array) -> np.ndarray:
  """Float64, in which every float32, int32 and bool is exact."""
  return np.asarray(leaf).astype(np.float64)


def seen_images(workdir: pathlib.Path) -> dict[int, list[str]]:
  """By step, the images that the final weights have seen: of what was done again, the last time counts."""
  starts = [start["step"] for start in writers.read_run_json(workdir)["starts"]]
  seen = {}
  for number, first in enumerate(starts):
    seen = {step: images for step, images in seen.items() if step <= first}
    hosts = sorted((workdir / "examples").glob(f"start{number}_host*.jsonl"))
    lines = [{line["step"]: line["image_ids"] for line in writers.read_metrics(host)} for host in hosts]
    for step in set.intersection(*map(set, lines)) if lines else ():
      seen[step] = [image for host in lines for image in host[step]]
  return seen


if __name__ == "__main__":
  sys.exit(main())
