"""The one door.

  python -m gcn_flax.main --config=configs/quickstart.py --workdir=runs/quickstart
  python -m gcn_flax.main --config=configs/quickstart.py --workdir=runs/quickstart --mode=eval --checkpoint=last
  python -m gcn_flax.main --config=configs/quickstart.py --workdir=runs/quickstart --mode=export
  python -m gcn_flax.main --config=configs/quickstart.py --workdir=runs/quickstart --mode=predict \\
    --images='a/*.jpg' --output=runs/predictions

Any field of the config can be set on the command line: --config.total_steps=500. On several hosts the same command is
given on each, see `gcn_flax.cluster`.
"""

import errno
import logging
import pathlib
import sys
from collections.abc import Sequence

import jax
import ml_collections
from absl import flags
from absl import logging as absl_logging
from ml_collections import config_flags

from gcn_flax import build, distributed, evaluate, export, files, inference, predict, search_crf, tasks
from gcn_flax import config as config_lib
from gcn_flax.evaluation import crf
from gcn_flax.planning import plan
from gcn_flax.train import train
from gcn_flax.workdir.compatibility import ARCHITECTURE_FIELDS, check_classes, check_workdir, facts
from gcn_flax.workdir.restore import known_label_set, load_checkpoint, load_trained

_CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe to run: configs/NAME.py[:ARGUMENT].")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run's checkpoints, metrics and scores go.")
_MODES = ("train", "eval", "predict", "check", "search_crf", "export", "plan")
_MODE = flags.DEFINE_enum("mode", "train", _MODES, "What to do.")
_SPLIT = flags.DEFINE_string(
  "split", None, "Split to score, config.data.eval_split unless told; of a submission, test unless told."
)
_CHECKPOINT = flags.DEFINE_string(
  "checkpoint", "best", "Checkpoint to score, predict with or export: best, last or a step; 0: first weights."
)
_IMAGES = flags.DEFINE_multi_string(
  "images", [], "Pictures to predict, a pattern in quotes: 'a/*.jpg'. May be repeated."
)
_SUBMISSION = flags.DEFINE_enum("submission", None, ["voc", "cityscapes"], "Server whose form predictions take.")
_OUTPUT = flags.DEFINE_string(
  "output", None, "Folder that predictions go to; of a submission, one in the workdir unless told."
)
_TOPOLOGY = flags.DEFINE_string("topology", None, "Chips to plan for, which need not be there: v5e:4x8, h100:8.")
_BATCH = flags.DEFINE_string(
  "batch", "", "Examples on each device to plan for; auto: as many as fit; unless told, config.batch_size of all."
)
_COORDINATOR = flags.DEFINE_string(
  "coordinator",
  "",
  "HOST:PORT of process 0, with --num_processes and --process_id; SLURM, Open MPI and TPUs need none.",
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of the run, one on each host.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
_JOIN_TIMEOUT = flags.DEFINE_integer("join_timeout", 300, "Seconds that processes wait for each other.", lower_bound=1)
_FLAG_MODES = {
  "topology": ("plan",),
  "batch": ("plan",),
  "images": ("predict",),
  "submission": ("predict", "check"),
  "output": ("predict", "check"),
  "split": ("eval", "predict", "check", "search_crf"),
  "checkpoint": ("eval", "predict", "search_crf", "export"),
}


class UserError(Exception):
  """A mistake on the command line; its text says what, where and how to mend it."""


def parse(argv: Sequence[str]) -> ml_collections.ConfigDict:
  """Parses the command line and returns the config. Raises UserError."""
  try:
    rest = flags.FLAGS(argv)
  except AttributeError as error:
    name = str(error).strip("\"'")
    raise UserError(f"the config has no field {name!r}: see gcn_flax/config.py for all of them.") from error
  except OSError as error:
    raise UserError(f"the config cannot be read: {' '.join(str(error).split())}") from error
  except Exception as error:  # A config file is the user's code: whatever it raises is theirs to mend.
    lines = str(error).strip().splitlines()
    # ml_collections quotes the whole traceback of a config file that raises; its last line says what is wrong.
    raise UserError(lines[-1] if "Traceback" in str(error) else " ".join(lines)) from error
  if len(rest) > 1:
    raise UserError(f"unexpected argument {rest[1]!r}: flags begin with --, see --help.")
  for name, flag in (("config", _CONFIG), ("workdir", _WORKDIR)):
    if flag.value is None:
      raise UserError(f"--{name} is missing, for instance --config=configs/quickstart.py --workdir=runs/quickstart.")
  for name, modes in _FLAG_MODES.items():
    if flags.FLAGS[name].present and _MODE.value not in modes:
      raise UserError(f"--{name} is of --mode={' or '.join(modes)}; this is --mode={_MODE.value}.")
  return _CONFIG.value


def run_eval(config: ml_collections.ConfigDict, workdir: files.Path, split: str, checkpoint: str) -> None:
  """Scores a checkpoint of a workdir. Raises ValueError where the workdir holds no such checkpoint."""
  weights, step, origin, setup = _open_scored(config, workdir, split, checkpoint)
  scores = evaluate.evaluate(config, setup, weights, split)
  if jax.process_index() == 0:
    workdir.mkdir(parents=True, exist_ok=True)
    evaluate.write_scores(workdir, config, split, step, scores, facts(origin).get("partial", {}))


def run_search_crf(config: ml_collections.ConfigDict, workdir: files.Path, split: str, checkpoint: str) -> None:
  """Scores parameters of the dense CRF. Raises ValueError where it is not installed, and as `run_eval`."""
  _refuse_classifier(config)
  crf.check_installed()
  weights, *_ = _open_scored(config, workdir, split, checkpoint)
  search_crf.search(config, weights, split, workdir)


def _open_scored(config: ml_collections.ConfigDict, workdir: files.Path, split: str, checkpoint: str):
  """(weights, step, where they are from, what computes); everything that might be wrong is looked at before."""
  config_lib.validate(config, training=False)
  inference.check_crf_installed(config)
  build.open_split(config, config.data.dataset, split)
  tasks.of(config).check_scored(config, split)
  check_workdir(config, workdir, only=ARCHITECTURE_FIELDS)
  check_classes(config, workdir)
  config_lib.validate(config, jax.device_count(), training=False)
  setup = build.build(config)
  return *load_checkpoint(config, workdir, setup, checkpoint), setup


def run_export(config: ml_collections.ConfigDict, workdir: files.Path, checkpoint: str) -> None:
  """Writes the weights of a checkpoint as files; needs no data set. Raises ValueError where there is no checkpoint."""
  _, weights, step, known = load_trained(config, workdir, checkpoint)
  if jax.process_index() == 0:
    for path, size in export.write_weights(config, workdir, weights, step, known).items():
      print(f"wrote {path}  {size / 1e6:.1f} MB, step {step}")


def run_predict(config: ml_collections.ConfigDict, workdir: files.Path, checkpoint: str) -> None:
  """Writes label maps of pictures, which needs no data set, or a split's as a server takes them.

  Raises ValueError where flags do not fit, and for what could not be predicted.
  """
  kind = _SUBMISSION.value
  if bool(_IMAGES.value) == bool(kind):
    raise ValueError("--mode=predict takes either --images='a/*.jpg' or --submission=voc or cityscapes.")
  if _IMAGES.value and _SPLIT.value:
    raise ValueError(f"--split={_SPLIT.value} is of a data set: --images has none.")
  output = _output(config, workdir)
  config_lib.validate(config, training=False)
  inference.check_crf_installed(config)
  if kind:
    tree = predict.open_tree(config, workdir, kind, _SPLIT.value or "test", output)
    config_lib.validate(config, jax.device_count(), training=False)
    setup, weights, _, _ = load_trained(config, workdir, checkpoint)
    count = predict.predict_split(config, setup, weights, *tree)
    print(f"wrote {count} label maps to {tree[0].folder}, checked")
    return
  targets = predict.find_pictures(_IMAGES.value, output)
  setup, weights, _, known = load_trained(config, workdir, checkpoint)
  count = predict.predict_pictures(config, setup, weights, known_label_set(config, known), targets)
  print(f"wrote label maps and overlays of {count} pictures to {output}")


def run_check(config: ml_collections.ConfigDict, workdir: files.Path) -> None:
  """Reads a submission back. Raises ValueError for what the server would refuse."""
  if not _SUBMISSION.value:
    raise ValueError("--mode=check reads back what --submission=voc or cityscapes wrote: say which.")
  tree, source = predict.open_tree(config, workdir, _SUBMISSION.value, _SPLIT.value or "test", _output(config, workdir))
  print(f"{tree.check(source)} label maps in {tree.folder}: complete")


def _output(config: ml_collections.ConfigDict, workdir: files.Path) -> pathlib.Path:
  """Where label maps go; of a submission into the workdir, unless told."""
  _refuse_classifier(config)
  if not _OUTPUT.value and not _SUBMISSION.value:
    raise ValueError(f"--mode={_MODE.value} needs a folder for the label maps, for instance --output=runs/predictions.")
  if not _OUTPUT.value and files.is_remote(workdir):
    raise ValueError(
      f"--workdir={workdir} is in a bucket: give a folder of this machine for the label maps, --output=..."
    )
  default = workdir / f"submission_{_SUBMISSION.value}_{_SPLIT.value or 'test'}"
  return pathlib.Path(_OUTPUT.value).expanduser().absolute() if _OUTPUT.value else default


def _refuse_classifier(config: ml_collections.ConfigDict) -> None:
  if config_lib.is_classifier(config):
    raise ValueError(f"--mode={_MODE.value} is for classes of pixels, not for config.model.head='classifier'.")


def run_plan(config: ml_collections.ConfigDict, workdir: files.Path) -> None:
  """Says what a step takes on chips that are not there. Raises ValueError as `plan.run`."""
  if not _TOPOLOGY.value:
    raise ValueError("--mode=plan needs the chips to plan for, for instance --topology=v5e:4x8.")
  jax.config.update("jax_platforms", "cpu")  # This machine's own chips are left alone.
  plan.run(config, workdir, _TOPOLOGY.value, _BATCH.value)


def show_progress(quiet: bool = False) -> None:
  """Sends this package's log to stderr, only its warnings where `quiet`; and of absl's, which Orbax fills, errors."""
  absl_logging.set_verbosity(absl_logging.ERROR)
  handler = logging.StreamHandler()
  handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
  logger = logging.getLogger("gcn_flax")
  logger.addHandler(handler)
  logger.setLevel(logging.WARNING if quiet else logging.INFO)
  logger.propagate = False


def main(argv: Sequence[str]) -> int:
  """Runs one command.

  Returns the exit status: 0; 1 with one line on stderr for a mistake of the user; `distributed.STOPPED` where a signal
  stopped a training that goes on when started again.
  """
  try:
    config = parse(argv)
  except UserError as error:
    return _fail(str(error))
  try:
    process = 0  # A plan is one machine's own.
    if _MODE.value != "plan":
      process = distributed.join(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value, _JOIN_TIMEOUT.value)
    show_progress(quiet=process > 0)
    done = _run(config)
  except (ValueError, FloatingPointError, OSError) as error:
    full = getattr(error, "errno", None) == errno.ENOSPC
    return _fail(f"{error}{f': make room for --workdir={_WORKDIR.value}.' if full else ''}")
  except RuntimeError as error:  # JAX's own: no such device, no memory, another process gone.
    if "RESOURCE_EXHAUSTED" in str(error):
      return _fail(f"{str(error)[:500]} (out of memory: {_memory_cure()})")
    if "Unable to initialize backend" in str(error):
      return _fail(str(error))
    distributed.await_verdict()
    raise
  distributed.leave()
  return distributed.STOPPED if done is False else 0


def _run(config: ml_collections.ConfigDict) -> bool | None:
  """Does what --mode says; False where it was stopped before its end."""
  workdir = files.path(_WORKDIR.value)
  split, checkpoint = _SPLIT.value or config.data.eval_split, _CHECKPOINT.value
  return {
    "train": lambda: train(config, workdir),
    "eval": lambda: run_eval(config, workdir, split, checkpoint),
    "predict": lambda: run_predict(config, workdir, checkpoint),
    "check": lambda: run_check(config, workdir),
    "search_crf": lambda: run_search_crf(config, workdir, split, checkpoint),
    "export": lambda: run_export(config, workdir, checkpoint),
    "plan": lambda: run_plan(config, workdir),
  }[_MODE.value]()


def _memory_cure() -> str:
  cure = "lower config.eval.batch_size, or set config.eval.tile, for instance (512, 512)"
  if _MODE.value == "train":
    cure = (
      "set config.model.remat=True, raise config.accumulate_steps or lower config.batch_size; where it is scored, "
      f"{cure}"
    )
  return cure


def _fail(text: str) -> int:
  line = f"error: {' '.join(text.split())}"
  print(line, file=sys.stderr, flush=True)
  distributed.leave(line)
  return 1


if __name__ == "__main__":
  sys.exit(main(sys.argv))
