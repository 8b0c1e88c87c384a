"""Command-line flags: their meaning, the mode each belongs to, and the help page."""

import re
from collections.abc import Sequence

import ml_collections
from absl import flags
from ml_collections import config_flags

from gcn_flax import config

MODES = {
  "train": "train a network, or resume a stopped run (default)",
  "eval": "evaluate a checkpoint on a split: mean IoU (mIoU), boundary scores, report.html",
  "predict": "predict label maps of pictures, or a submission to a benchmark server",
  "check": "read a submission back and check it",
  "search_crf": "search the parameters of CRF post-processing",
  "export": "write encoder and network as safetensors",
  "plan": "compile the train step ahead of time, for chips you don't have: memory and speed",
}
_EVERY = tuple(MODES)
# Flag -> (modes it is valid in, metavariable, meaning).
_FLAGS = {
  "config": (_EVERY, "FILE", "recipe, configs/NAME.py[:ARGUMENT]"),
  "workdir": (_EVERY, "DIR", "folder of the run, local or gs://BUCKET/RUN"),
  "mode": (_EVERY, "MODE", "one of the modes above"),
  "checkpoint": (
    ("eval", "predict", "search_crf", "export"),
    "C",
    "best (default), last, or a step; 0: config.init_from as it is",
  ),
  "split": (
    ("eval", "predict", "check", "search_crf"),
    "SPLIT",
    "default: config.data.eval_split; for --submission: test",
  ),
  "images": (("predict",), "PATTERN", "pictures to predict: folder, file, or quoted 'a/*.jpg'; may be repeated"),
  "submission": (("predict", "check"), "SERVER", "voc or cityscapes"),
  "output": (("predict", "check"), "DIR", "folder for predictions; for --submission default: in the workdir"),
  "topology": (("plan",), "CHIPS", "chips to plan for: v5e:4x8, h100:8"),
  "batch": (
    ("plan",),
    "N",
    "examples per device, or auto for as many as fit; default: config.batch_size over all devices",
  ),
  "coordinator": (_EVERY, "HOST:PORT", "address of process 0; SLURM, Open MPI and TPUs need none"),
  "num_processes": (_EVERY, "N", "number of processes of the run, on all hosts"),
  "process_id": (_EVERY, "I", "number of this process, from 0"),
  "join_timeout": (_EVERY, "SECONDS", "time that processes wait for each other; default: 300"),
}
_HELP = """\
Semantic segmentation with large kernels (GCN, CVPR 2017) in JAX and Flax.

usage: python -m gcn_flax --config=configs/NAME.py --workdir=DIR [--mode=MODE] [flags]

Modes:
{modes}

Flags:
{flags}

Config fields:
  Every field of a config is a flag, for instance --config.total_steps=500 --config.model.backbone=resnet50.
  All fields with their units and defaults: {fields}

Examples:
  python -m data.prepare --dataset=shapes --data_dir=runs/data
  python -m gcn_flax --config=configs/quickstart.py --workdir=runs/quickstart
  python -m gcn_flax --config=configs/quickstart.py --workdir=runs/quickstart --mode=eval --checkpoint=last
  python -m gcn_flax --config=configs/quickstart.py --workdir=runs/quickstart --mode=predict \\
    --images=pictures --output=runs/predictions
"""


class UserError(ValueError):
  """Signals a mistake on the command line; the message says what is wrong and how to fix it."""


def _define_flags(argv: Sequence[str]) -> flags.FlagValues:
  """Defines the flags of one command line, apart from those of other modules and of earlier calls."""
  given = flags.FlagValues()
  options = {name: {"help": meaning, "flag_values": given} for name, (_, _, meaning) in _FLAGS.items()}
  config_flags.DEFINE_config_file("config", None, options["config"]["help"], given, sys_argv=list(argv))
  flags.DEFINE_enum("mode", "train", list(MODES), **options["mode"])
  flags.DEFINE_multi_string("images", [], **options["images"])
  flags.DEFINE_enum("submission", "", ["", "voc", "cityscapes"], **options["submission"])
  flags.DEFINE_integer("join_timeout", 300, lower_bound=1, **options["join_timeout"])
  flags.DEFINE_string("checkpoint", "best", **options["checkpoint"])
  for name in ("workdir", "split", "output", "topology", "batch", "coordinator"):
    flags.DEFINE_string(name, "", **options[name])
  for name in ("num_processes", "process_id"):
    flags.DEFINE_integer(name, None, **options[name])
  return given


def asks_for_help(argv: Sequence[str]) -> bool:
  """Returns True if an argument asks for the help page."""
  return any(argument in ("-h", "-help", "--help", "--helpfull", "--helpshort") for argument in argv[1:])


def help_page() -> str:
  """Returns the help page: modes, flags with the modes they are valid in, examples."""
  modes = "\n".join(f"  {name:<11} {meaning}" for name, meaning in MODES.items())
  width = max(len(name) + len(value) for name, (_, value, _) in _FLAGS.items()) + 4
  lines = []
  for name, (valid, value, meaning) in _FLAGS.items():
    only = "" if valid == _EVERY else f" [{', '.join(valid)}]"
    lines.append(f"  {f'--{name}={value}':<{width}} {meaning}{only}")
  return _HELP.format(modes=modes, flags="\n".join(lines), fields=config.__file__)


def parse(argv: Sequence[str]) -> tuple[ml_collections.ConfigDict, flags.FlagValues]:
  """Parses a command line; returns the config and the flags. Raises UserError."""
  given = _define_flags(argv)
  try:
    rest = given(argv)
  except Exception as error:  # A config file is the user's code and may raise anything.
    raise UserError(_explain(error)) from error
  if len(rest) > 1:
    raise UserError(f"unexpected argument {rest[1]!r}. Flags begin with --, see --help.")
  for name in ("config", "workdir"):
    if not given[name].value:
      raise UserError(f"--{name} is missing, for instance --config=configs/quickstart.py --workdir=runs/quickstart.")
  for name, (valid, *_) in _FLAGS.items():
    if given[name].present and given.mode not in valid:
      raise UserError(f"--{name} is only valid with --mode={' or '.join(valid)} (got {given.mode}).")
  _check_combinations(given)
  flags.FLAGS.mark_as_parsed()  # Grain's worker processes read the global flags.
  return given.config, given


def _explain(error: Exception) -> str:
  """Returns one line about an error in the config file or in a flag."""
  field = _missing_field(error)
  if field:
    return f"the config has no field {field!r}. {config.__file__} lists all fields."
  if isinstance(error, AttributeError | OSError):
    return f"the config cannot be read: {' '.join(str(error).split())}"
  lines = str(error).strip().splitlines()
  # ml_collections quotes the traceback of a config file that raises; its last line says what is wrong.
  return lines[-1].removeprefix("ValueError: ") if "Traceback" in str(error) else " ".join(lines)


def _missing_field(error: Exception) -> str:
  """Returns the field that a ConfigDict lacks, if that is what the error says; otherwise ''."""
  # A ConfigDict raises a KeyError, or an AttributeError whose argument is one. Its text quotes the field, and may
  # list all other fields or suggest a similar one.
  reason = error.args[0] if isinstance(error, AttributeError) and error.args else error
  text = str(reason.args[0]) if isinstance(reason, KeyError) and reason.args else ""
  found = re.match(r"""(?:Key )?['"](\w+)['"](?: does not exist|\n|$)""", text)
  return found[1] if found else ""


def _check_combinations(given: flags.FlagValues) -> None:
  """Raises UserError for flags that need or exclude each other."""
  mode = given.mode
  if mode == "predict" and bool(given.images) == bool(given.submission):
    raise UserError("--mode=predict takes either --images='a/*.jpg' or --submission=voc or cityscapes.")
  if mode == "predict" and given.images and given.split:
    raise UserError(f"--split={given.split} names a split of a data set, and --images is none. Leave it out.")
  if mode == "predict" and given.images and not given.output:
    raise UserError("--mode=predict needs a folder for the label maps, for instance --output=runs/predictions.")
  if "://" in given.output:
    raise UserError(f"--output={given.output}: must be a local folder, for instance --output=runs/predictions.")
  if mode == "check" and not given.submission:
    raise UserError("--mode=check reads back a submission: say which, --submission=voc or cityscapes.")
  if mode == "plan" and not given.topology:
    raise UserError("--mode=plan needs the chips to plan for, for instance --topology=v5e:4x8.")
