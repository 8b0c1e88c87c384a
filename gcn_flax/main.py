"""Command-line entry point: `python -m gcn_flax --help`."""

import errno
import logging
import sys
from collections.abc import Sequence

import jax
import ml_collections
from absl import flags
from absl import logging as absl_logging

<<<<<<< HEAD
from gcn_flax import command_line, distributed, evaluate, export, predict, search_crf, submission, train
=======
from gcn_flax import build, distributed, evaluate, export, files, inference, predict, search_crf, tasks, validation
from gcn_flax import config as config_lib
from gcn_flax.evaluation import crf
>>>>>>> wt-data
from gcn_flax.planning import plan
from gcn_flax.workdir.workdir import Workdir


def main(argv: Sequence[str]) -> int:
  """Runs one command.

<<<<<<< HEAD
  Returns the exit status: 0; 1 with one line on stderr for a mistake of the user; `distributed.STOPPED` if a signal
  stopped a training that resumes when it is started again.
  """
  if command_line.asks_for_help(argv):
    print(command_line.help_page(), end="")
    return 0
  try:
    config = command_line.parse(argv)
    process = _join()
    log_to_stderr(quiet=process > 0)
    finished = run(config, flags.FLAGS)
  except (ValueError, FloatingPointError, OSError) as error:
    full = getattr(error, "errno", None) == errno.ENOSPC
    return _fail(f"{error}{f' Make room for --workdir={flags.FLAGS.workdir}.' if full else ''}")
  except RuntimeError as error:  # JAX: no such device, no memory, another process gone.
    if "RESOURCE_EXHAUSTED" in str(error):
      return _fail(f"{str(error)[:500]} (out of memory. {_memory_fix()})")
    if "Unable to initialize backend" in str(error):
      return _fail(str(error))
    distributed.await_verdict()
    raise
  distributed.leave()
  return distributed.STOPPED if finished is False else 0
=======

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
  validation.validate(config, training=False)
  inference.check_crf_installed(config)
  build.open_split(config, config.data.dataset, split)
  tasks.of(config).check_scored(config, split)
  check_workdir(config, workdir, only=ARCHITECTURE_FIELDS)
  check_classes(config, workdir)
  validation.validate(config, jax.device_count(), training=False)
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
  validation.validate(config, training=False)
  inference.check_crf_installed(config)
  if kind:
    tree = predict.open_tree(config, workdir, kind, _SPLIT.value or "test", output)
    validation.validate(config, jax.device_count(), training=False)
    setup, weights, _, _ = load_trained(config, workdir, checkpoint)
    count = predict.predict_split(config, setup, weights, *tree)
    print(f"wrote {count} label maps to {tree[0].folder}, checked")
    return
  targets = predict.find_pictures(_IMAGES.value, output)
  setup, weights, _, known = load_trained(config, workdir, checkpoint)
  count = predict.predict_pictures(config, setup, weights, known_label_set(config, known), targets)
  print(f"wrote label maps and overlays of {count} pictures to {output}")
>>>>>>> wt-data


def run(config: ml_collections.ConfigDict, given: flags.FlagValues) -> object:
  """Runs the command of `--mode`; returns False if a signal stopped it before its end."""
  workdir = Workdir(given.workdir)
  if given.mode == "train":
    return train.run(config, workdir)
  if given.mode == "eval":
    return evaluate.run(config, workdir, given.split, given.checkpoint)
  if given.mode == "predict" and given.images:
    return predict.run(config, workdir, given.images, given.output, given.checkpoint)
  if given.mode == "predict":
    return submission.run(config, workdir, given.submission, given.split, given.output, given.checkpoint)
  if given.mode == "check":
    return submission.check(config, workdir, given.submission, given.split, given.output)
  if given.mode == "search_crf":
    return search_crf.run(config, workdir, given.split, given.checkpoint)
  if given.mode == "export":
    return export.run(config, workdir, given.checkpoint)
  jax.config.update("jax_platforms", "cpu")  # A plan leaves this machine's own chips alone.
  return plan.run(config, workdir, given.topology, given.batch)


def _join() -> int:
  """Joins the processes of the run and returns the number of this one; a plan runs in one process."""
  given = flags.FLAGS
  if given.mode == "plan":
    return 0
  return distributed.join(given.coordinator, given.num_processes, given.process_id, given.join_timeout)


def log_to_stderr(quiet: bool = False) -> None:
  """Sends the log of this package to stderr, if `quiet` only its warnings; of absl's, which Orbax fills, only errors."""
  absl_logging.set_verbosity(absl_logging.ERROR)
  handler = logging.StreamHandler()
  handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
  logger = logging.getLogger("gcn_flax")
  logger.addHandler(handler)
  logger.setLevel(logging.WARNING if quiet else logging.INFO)
  logger.propagate = False


def _memory_fix() -> str:
  fix = "Lower config.eval.batch_size, or set config.eval.tile, for instance (512, 512)"
  if flags.FLAGS.mode == "train":
    fix = (
      "Set config.model.remat=True, raise config.accumulate_steps or lower config.batch_size; if it is evaluation that "
      f"fails: {fix}"
    )
  return fix


def _fail(text: str) -> int:
  line = f"error: {' '.join(text.split())}"
  print(line, file=sys.stderr, flush=True)
  distributed.leave(line)
  return 1


if __name__ == "__main__":
  sys.exit(main(sys.argv))
