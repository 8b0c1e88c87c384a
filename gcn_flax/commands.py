"""Runs the command of a parsed command line, and turns errors into one line and an exit status."""

import errno
import logging
import traceback

import jax
import ml_collections
from absl import flags
from absl import logging as absl_logging
from ml_collections import config_flags

from gcn_flax import (
  compare,
  distributed,
  evaluate,
  explain,
  label_errors,
  nvidia,
  out_of_memory,
  predict,
  search_crf,
  submission,
  train,
)
from gcn_flax.interrupts import INTERRUPTED, MESSAGE
from gcn_flax.planning import plan
from gcn_flax.printable import print_error, printable
from gcn_flax.workdir.stored_config import overridden
from gcn_flax.workdir.trained import with_trained_canvas
from gcn_flax.workdir.workdir import Workdir

_log = logging.getLogger(__name__)
_INFERENCE_MODES = ("eval", "predict", "search_crf", "export", "explain", "label_errors", "serve")


def run(config: ml_collections.ConfigDict, given: flags.FlagValues) -> int:
  """Runs the command of `--mode`; returns its exit status, see `main.main`."""
  try:
    log_to_stderr(quiet=_join(given) > 0)
    finished = dispatch(config, given)
  except (ValueError, FloatingPointError, OSError, RuntimeError, AssertionError) as error:
    return _report(error, given)
  except KeyboardInterrupt:
    return _fail(MESSAGE, INTERRUPTED)
  distributed.leave()
  return distributed.STOPPED if finished is False else 0


def dispatch(config: ml_collections.ConfigDict, given: flags.FlagValues) -> object:
  """Runs the command of `--mode`; returns False if a signal stopped it before its end."""
  workdir = Workdir(given.workdir)
  config = _with_canvas(config, workdir, given)
  if given.mode in _INFERENCE_MODES:
    _log_overrides(workdir, given)
  commands = {
    "train": lambda: train.run(config, workdir),
    "eval": lambda: evaluate.run(config, workdir, given.split, given.checkpoint),
    "predict": lambda: _predict(config, workdir, given),
    "check": lambda: submission.check(config, workdir, given.submission, given.split, given.output),
    "search_crf": lambda: search_crf.run(config, workdir, given.split, given.checkpoint),
    "export": lambda: _export(config, workdir, given),
    "explain": lambda: _explain(config, workdir, given),
    "label_errors": lambda: label_errors.run(config, workdir, given.split, given.checkpoint),
    "compare": lambda: compare.run(config, workdir, given.other),
    "serve": lambda: _serve(config, workdir, given),
    "plan": lambda: plan.run(config, workdir, given.topology, given.batch, given.spatial),
  }
  return commands[given.mode]()


def _log_overrides(workdir: Workdir, given: flags.FlagValues) -> None:
  """Logs the fields that flags set to other values than those of the run."""
  for line in overridden(workdir.settings(), config_flags.get_override_values(given["config"])):
    _log.info("%s", line)


def _with_canvas(
  config: ml_collections.ConfigDict, workdir: Workdir, given: flags.FlagValues
) -> ml_collections.ConfigDict:
  """Returns the config with the canvas of the run, unless a flag gives another; a restart keeps it, too."""
  goes_on = given.mode == "train" and not config.data.eval_size
  if "data.eval_size" in config_flags.get_override_values(given["config"]):
    return config
  return with_trained_canvas(config, workdir, given.checkpoint) if given.mode in _INFERENCE_MODES or goes_on else config


def _predict(config: ml_collections.ConfigDict, workdir: Workdir, given: flags.FlagValues) -> object:
  if given.images:
    return predict.run(config, workdir, given.images, given.output, given.checkpoint)
  return submission.run(config, workdir, given.submission, given.split, given.output, given.checkpoint)


def _explain(config: ml_collections.ConfigDict, workdir: Workdir, given: flags.FlagValues) -> object:
  pixel = tuple(map(int, given.pixel.split(","))) if given.pixel else None
  return explain.run(config, workdir, given.other, given.images, given.split, pixel, given.checkpoint)


def _sides(text: str) -> tuple[int, ...]:
  return tuple(map(int, text.split(","))) if text else ()


def _export(config: ml_collections.ConfigDict, workdir: Workdir, given: flags.FlagValues) -> None:
  from gcn_flax import export  # Imports libraries that no other command needs.

  export.run(config, workdir, given.checkpoint, given.images, _sides(given.export_size))


def _serve(config: ml_collections.ConfigDict, workdir: Workdir, given: flags.FlagValues) -> None:
  from gcn_flax.serving import server  # Imports libraries that no other command needs.

  server.run(config, workdir, given.host, given.port, given.checkpoint)


def _join(given: flags.FlagValues) -> int:
  """Joins the processes of the run and returns the number of this one; a plan runs in one process."""
  if given.mode == "plan":
    jax.config.update("jax_platforms", "cpu")  # This machine's own chips are left alone.
    return 0
  return distributed.join(given.coordinator, given.num_processes, given.process_id, given.join_timeout)


class _Formatter(logging.Formatter):
  """Formats records as printable text: they name files and classes of the user."""

  def format(self, record: logging.LogRecord) -> str:
    return printable(super().format(record))


def log_to_stderr(quiet: bool = False) -> None:
  """Sends this package's log to stderr, only warnings if `quiet`, and the errors of absl's log, which Orbax uses."""
  absl_logging.set_verbosity(absl_logging.ERROR)
  handler = logging.StreamHandler()
  handler.setFormatter(_Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
  logger = logging.getLogger("gcn_flax")
  logger.handlers = [handler]
  logger.setLevel(logging.WARNING if quiet else logging.INFO)
  logger.propagate = False


def _report(error: Exception, given: flags.FlagValues) -> int:
  """Reports an error in one line. Raises it again if it is one of JAX's, unless it is one that a user can fix."""
  if isinstance(error, AssertionError):  # So JAX reports that no platform of JAX_PLATFORMS is there.
    if "_default_backend" not in (traceback.extract_tb(error.__traceback__)[-1].line or ""):
      raise error
    return _fail(f"JAX_PLATFORMS={jax.config.jax_platforms}: none of these is on this machine.{_gpu_fix()}")
  # JAX: no such device, no memory, another process gone. Gloo's errors come as any type, also within those of a save.
  if isinstance(error, RuntimeError) or "gloo" in str(error):
    if "RESOURCE_EXHAUSTED" in str(error):
      is_begun = Workdir(given.workdir).is_begun
      advice = out_of_memory.advice(given.config, given.mode, jax.devices(), is_begun)
      return _fail(f"{str(error)[:500]} (out of memory. {advice})")
    if "Unable to initialize backend" not in str(error):
      distributed.await_verdict()
      raise error
    return _fail(f"{error}{_gpu_fix()}")
  full = getattr(error, "errno", None) == errno.ENOSPC
  return _fail(f"{error}{f' Make room for --workdir={given.workdir}.' if full else ''}")


def _gpu_fix() -> str:
  """Returns why JAX does not see the NVIDIA GPU of this machine, to append to an error; "" without such a GPU."""
  problem = nvidia.find_problem(nvidia.this_machine())
  return problem and f" This machine has an NVIDIA GPU: {problem}"


def _fail(text: str, status: int = 1) -> int:
  line = print_error(text)
  distributed.leave(line, status)
  return status
