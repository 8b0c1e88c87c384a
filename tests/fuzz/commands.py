"""The commands that are tried on a small world, and the files that each of them is documented to write."""

import dataclasses
import fnmatch
import json
import pathlib
import re
import shutil
from collections.abc import Iterable, Iterator

import cv2
import numpy as np

from data.prepare import prepare
from tests.data_sets import archives
from tests.fuzz.outcome import run, touched_by
from tests.fuzz.world import World

ROOT = pathlib.Path(__file__).parent.parent.parent
# For every command in this world.
SETTINGS = (
  f"--config={ROOT}/configs/pascal_voc.py:ablation:modern", "--config.data.data_dir=data", "--config.batch_size=8",
  "--config.eval.batch_size=8", "--config.data.crop_size=(64,64)", "--config.data.eval_size=(96,96)",
  "--config.model.backbone=resnet_tiny", "--config.model.head=pointwise", "--config.model.boundary_refine=False",
  "--config.model.dtype=float32", "--config.data.num_threads=2", "--config.keep_checkpoints=9",
  "--config.log_every_steps=1",
)  # fmt: skip
STEPS = "--config.total_steps=3"


@dataclasses.dataclass(frozen=True)
class Command:
  """A command line and the files it may write.

  Attributes:
    arguments: the command line, its first argument being the module.
    writes: patterns of the files that it may replace or make if it succeeds.
    always_writes: the same, if it fails as well.
    makes: patterns of the files that it may make, but not replace.
    error_lines: True if it may report several errors, each in a line.
  """

  arguments: tuple[str, ...]
  writes: tuple[str, ...] = ()
  always_writes: tuple[str, ...] = ()
  makes: tuple[str, ...] = ()
  error_lines: bool = False

  def may_write(self, name: str, status: int | None, is_new: bool = False) -> bool:
    """Returns True if a command that ends with a status may write a file, which was not there before if `is_new`."""
    patterns = self.always_writes + (self.writes if status in (0, 75) else ()) + (self.makes if is_new else ())
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _main(*arguments: str, workdir: str = "run", **more) -> Command:
  return Command(("gcn_flax", *SETTINGS, f"--workdir={workdir}", *arguments), **more)


def _predict_by(workdir: str) -> Command:
  """Returns a prediction whose settings are those of a workdir or an exported file."""
  arguments = ("--mode=predict", f"--workdir={workdir}", "--images=pictures/0.png", "--output=out")
  return Command(("gcn_flax", *arguments), writes=("out", "out/*"))


_EVALUATION = ("run/eval_*.json", "run/eval_*.png", "run/report.json", "run/report.html")
_TRAINING = (
  "config.json", "run.json", "metrics.jsonl", "eval_*.json", "eval_*.png", "report.json", "report.html", "tensorboard*",
  "checkpoints", "checkpoints/scores.json*", "metrics.jsonl.damaged*", "checkpoints/3*", "checkpoints/damaged*",
  "compiled*", "samples*",
)  # fmt: skip
COMMANDS = {
  "train": _main(STEPS, writes=tuple(f"run/{name}" for name in _TRAINING), always_writes=("run/lock", "run/compiled*")),
  "fine-tune": _main(
    STEPS, "--config.init_from=run/export/network.safetensors", workdir="new", writes=("new*",),
    always_writes=("new", "new/lock", "new/compiled*"),
  ),
  "eval": _main("--mode=eval", writes=_EVALUATION),
  "predict": _main("--mode=predict", "--images=pictures/*.png", "--output=out", writes=("out", "out/*")),
  "by workdir": _predict_by("run"),
  "by file": _predict_by("run/export/network.safetensors"),
  "submission": _main("--mode=predict", "--submission=voc", "--output=sent", writes=("sent*",)),
  "check": _main("--mode=check", "--submission=voc"),
  "search_crf": _main("--mode=search_crf", writes=("run/crf_validation.json",)),
  "export": _main("--mode=export", writes=("run/export", "run/export/*")),
  "explain": _main("--mode=explain", "--other=other", writes=("run/explain", "run/explain/*")),
  "label_errors": _main("--mode=label_errors", writes=("run/label_errors_*",)),
  "compare": _main("--mode=compare", "--other=other", writes=("run/compare.html",)),
  "plan": _main("--mode=plan", "--topology=h100:8", writes=("run/plan.json",)),
  "browse": Command(
    ("data.browse", "--dataset=voc_segmentation", "--data_dir=data", "--output=sheet.png"), writes=("sheet.png",)
  ),
  "prepare": Command(
    ("data.prepare", "--dataset=voc_segmentation", "--manual_dir=archives", "--data_dir=data", "--partial"),
    makes=("data/voc_segmentation*",), error_lines=True,
  ),
}  # fmt: skip


def make_world(root: pathlib.Path) -> World:
  """Fills a world: archives, the data set prepared from them, pictures, and a run with results of every command."""
  world = World(root)
  (world.path / "archives").mkdir()
  archives.write(world.path / "archives", archives.voc())
  prepare("voc_segmentation", str(world.path / "archives"), str(world.path / "data"), partial=True)
  (world.path / "pictures").mkdir()
  for index in range(2):
    cv2.imwrite(str(world.path / "pictures" / f"{index}.png"), np.full((40, 50, 3), 99 * index, np.uint8))
  return world


def begin_run(world: World) -> None:
  """Trains two steps in the world, whose working directory is the current one, and keeps it with every result."""
  train = COMMANDS["train"].arguments
  arguments = [(*train, "--config.total_steps=2", "--config.checkpoint_every_steps=1"), COMMANDS["export"].arguments]
  arguments += [COMMANDS[name].arguments for name in ("plan", "search_crf", "eval")]
  arguments += [tuple(part for part in COMMANDS["submission"].arguments if not part.startswith("--output"))]
  for each in arguments:
    outcome = run(each)
    assert outcome.status == 0, outcome
  # As a compiler leaves them; the steps of this world are not compiled.
  (world.path / "run" / "compiled").mkdir(exist_ok=True)
  for name in ("jit_train_step-00-cache", "jit_train_step-00-atime"):
    (world.path / "run" / "compiled" / name).write_bytes(name.encode())
  shutil.copytree(world.path / "run", world.path / "other")
  world.keep()


def state_files(world: World) -> Iterator[str]:
  """Yields the files of the run and of its data set that a command may read, and the folders that hold them.

  Of the checkpoints it is the newest; of files with a random name, in the same folder, the largest.
  """
  names = [path.relative_to(world.path) for part in ("run", "data") for path in (world.path / part).rglob("*")]
  names = [name for name in names if not (name.parts[:2] == ("run", "checkpoints") and _is_boring(world.path, name))]
  largest = {}
  for name in names:
    is_random = name.parent.name in ("d", "tensorboard", "compiled", "comp6_test_cls") or "array_record" in name.name
    key = name.parent / "*" if is_random and (world.path / name).is_file() else name
    size = (world.path / name).stat().st_size
    if key not in largest or size > (world.path / largest[key]).stat().st_size:
      largest[key] = name
  yield from sorted(map(str, largest.values()))


def stable_name(file: str) -> str:
  """Returns the name of a state file with `*` in place of the random part that libraries give it."""
  return re.sub(r"[0-9a-f]{32}$|(?<=tfevents\.).*", "*", file)


def _is_boring(root: pathlib.Path, name: pathlib.Path) -> bool:
  """Returns True for older checkpoints and for folders inside of a checkpoint."""
  return name.parts[2:3] == ("1",) or (len(name.parts) > 3 and (root / name).is_dir())


def readers(world: World, files: Iterable[str]) -> dict[str, list[str]]:
  """Returns, for each of `files`, the commands that open it or a file of the same unit.

  A checkpoint and a data set are units, because libraries read them without Python's knowledge. A file that the command
  line names, or that the command may write, counts as opened.
  """
  found = {file: [] for file in files}
  for name, command in COMMANDS.items():
    inside = [path for path in map(pathlib.Path, touched_by(command.arguments)) if path.is_relative_to(world.path)]
    units = {_unit(str(path.relative_to(world.path))) for path in inside}
    for file in found:
      is_named = any(argument.endswith(f"={file}") for argument in command.arguments)
      if is_named or command.may_write(file, 0) or any(f"{unit}/".startswith(f"{_unit(file)}/") for unit in units):
        found[file].append(name)
    world.put_back()
  return found


def _unit(name: str) -> str:
  parts = name.split("/")
  return "/".join(parts[:3]) if parts[0] == "data" or parts[:2] == ["run", "checkpoints"] else name


def lost_or_changed(command: Command, before: dict, after: dict, status: int | None) -> list[str]:
  """Returns what a command did to files that it is not documented to write; a file may be moved, not removed."""
  changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
  is_new = {name: before.get(name, ("link",))[0] == "link" for name in changed}  # A link of rubbish leads nowhere.
  wrong = [name for name in changed if not command.may_write(name, status, is_new[name])]
  moved = {signature[1:] for name, signature in after.items() if name not in before and signature[0] == "file"}
  moved_links = {signature for name, signature in after.items() if name not in before and signature[0] == "link"}
  found = []
  for name in sorted(wrong):
    if name not in after:
      signature = before[name]
      kept = signature[1:] in moved or signature in moved_links or signature[0] == "folder"
      found += [] if kept else [f"{name} was removed"]
    else:
      found.append(f"{name} was {'changed' if name in before else 'made'}")
  return found


def lost_metrics(world: World, stderr: str) -> list[str]:
  """Returns the lines of metrics.jsonl that a training dropped, up to the step that it says to resume from."""
  path, resumed = world.path / "run" / "metrics.jsonl", re.search(r"resuming from step (\d+)", stderr)
  there = path.read_text(errors="replace") if path.is_file() else ""
  before = world.content("run/metrics.jsonl").decode().splitlines() if resumed and there else []
  return [f"metrics.jsonl lost {line[:60]}" for line in before if line not in there and _step(line) <= int(resumed[1])]


def _step(line: str) -> int:
  return json.loads(line)["step"]
