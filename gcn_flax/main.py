"""The one door.

  python -m gcn_flax.main --config=configs/quickstart.py --workdir=runs/quickstart
  python -m gcn_flax.main --config=configs/quickstart.py --workdir=runs/quickstart --mode=eval --checkpoint=last
  python -m gcn_flax.main --config=configs/quickstart.py --workdir=runs/quickstart --mode=export

Any field of the config can be set on the command line: --config.total_steps=500.
"""

import logging
import pathlib
import sys
from collections.abc import Sequence

import jax
import ml_collections
from absl import flags
from absl import logging as absl_logging
from ml_collections import config_flags

from gcn_flax import build, evaluate, export
from gcn_flax import config as config_lib
from gcn_flax.start import trained_weights
from gcn_flax.train import train
from gcn_flax.workdir import OF_THE_WEIGHTS, check_classes, check_workdir, facts

_CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe to run: configs/NAME.py[:ARGUMENT].")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run's checkpoints, metrics and scores go.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval", "export"], "What to do.")
_SPLIT = flags.DEFINE_string("split", None, "Split that --mode=eval scores; config.data.eval_split unless told.")
_CHECKPOINT = flags.DEFINE_string(
  "checkpoint", "best", "Checkpoint to score or export: best, last or a step; 0: first weights as they are."
)


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
  if "://" in _WORKDIR.value:
    raise UserError(f"--workdir={_WORKDIR.value} must be a local path in this version: mount the bucket with gcsfuse.")
  return _CONFIG.value


def run_eval(config: ml_collections.ConfigDict, workdir: pathlib.Path, split: str, checkpoint: str) -> None:
  """Scores a checkpoint of a workdir. Raises ValueError where the workdir holds no such checkpoint."""
  config_lib.validate(config, training=False)
  build.open_split(config, config.data.dataset, split)
  check_workdir(config, workdir, only=OF_THE_WEIGHTS)
  check_classes(config, workdir)
  config_lib.validate(config, jax.device_count(), training=False)
  setup = build.build(config)
  weights, step, origin = trained_weights(config, workdir, setup, checkpoint)
  scores = evaluate.evaluate(config, setup, weights, split)
  if jax.process_index() == 0:
    workdir.mkdir(parents=True, exist_ok=True)
    evaluate.write_scores(workdir, config, split, step, scores, facts(origin).get("partial", {}))


def run_export(config: ml_collections.ConfigDict, workdir: pathlib.Path, checkpoint: str) -> None:
  """Writes the weights of a checkpoint as files; needs no data set. Raises ValueError where there is no checkpoint."""
  config_lib.validate(config, training=False)
  check_workdir(config, workdir, only=OF_THE_WEIGHTS)
  classes = facts(workdir).get("classes")
  setup = build.build(config, num_classes=len(classes) if classes else None)
  weights, step, origin = trained_weights(config, workdir, setup, checkpoint)
  if jax.process_index() == 0:
    for path in export.write_weights(config, workdir, weights, step, facts(origin)):
      print(f"wrote {path}  {path.stat().st_size / 1e6:.1f} MB, step {step}")


def show_progress() -> None:
  """Sends this package's log to stderr, and of absl's, which Orbax fills, only errors."""
  absl_logging.set_verbosity(absl_logging.ERROR)
  handler = logging.StreamHandler()
  handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
  logger = logging.getLogger("gcn_flax")
  logger.addHandler(handler)
  logger.setLevel(logging.INFO)
  logger.propagate = False


def main(argv: Sequence[str]) -> int:
  """Runs one command; returns the exit status, 1 with one line on stderr for a mistake of the user."""
  try:
    config = parse(argv)
    show_progress()
    workdir = pathlib.Path(_WORKDIR.value).expanduser().absolute()
    if _MODE.value == "train":
      train(config, workdir)
    elif _MODE.value == "export":
      run_export(config, workdir, _CHECKPOINT.value)
    else:
      run_eval(config, workdir, _SPLIT.value or config.data.eval_split, _CHECKPOINT.value)
  except (UserError, ValueError, FloatingPointError, OSError) as error:
    return _fail(str(error))
  except RuntimeError as error:  # JAX's own: no such device, no memory.
    if "RESOURCE_EXHAUSTED" not in str(error) and "backend" not in str(error):
      raise
    cure = "raise config.accumulate_steps or lower config.batch_size and config.eval.batch_size"
    return _fail(f"{str(error)[:500]} (out of memory: {cure})" if "EXHAUSTED" in str(error) else str(error))
  return 0


def _fail(text: str) -> int:
  print(f"error: {' '.join(text.split())}", file=sys.stderr)
  return 1


if __name__ == "__main__":
  sys.exit(main(sys.argv))
