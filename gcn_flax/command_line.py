"""Command-line flags: their meaning, the mode each belongs to, and the help page."""

import os
import re
import sys
from collections.abc import Sequence

import ml_collections
from absl import flags
from ml_collections import config_flags

from gcn_flax import config, files, flag_errors
from gcn_flax.download import is_address
from gcn_flax.messages import flag, in_clone, use_one_of
from gcn_flax.workdir.network_paths import find_network
from gcn_flax.workdir.stored_config import stored_config

MODES = {
  "train": "train a network, or resume a stopped run (default)",
  "eval": "evaluate a checkpoint on a split: mean IoU (mIoU), boundary scores, report.html",
  "predict": "predict label maps of pictures, or a submission to a benchmark server",
  "check": "read a submission back and check it",
  "search_crf": "search the parameters of CRF post-processing",
  "export": "write the network as ONNX, StableHLO, PyTorch and safetensors",
  "explain": "show what networks look at: receptive fields and predictions side by side, in WORKDIR/explain",
  "label_errors": "find masks of a split that a confident network contradicts: label_errors_SPLIT.html",
  "compare": "compare runs: settings, metrics, curves, classes and predictions, in compare.html",
  "serve": "serve a web page to try a network on, and its predictions over HTTP",
  "plan": "compile the train step ahead of time, for chips you don't have: memory and speed",
}
SERVERS = ("voc", "cityscapes")
_EVERY = tuple(MODES)
_TRAINED = ("eval", "predict", "search_crf", "export", "explain", "label_errors", "serve")  # Modes that use a network.
_EXPORTED = ("predict", "serve")  # Those that take an exported network as --workdir.
# Flag -> (modes it is valid in, metavariable, meaning).
_FLAGS = {
  "config": (
    _EVERY,
    "FILE",
    "recipe, configs/NAME.py[:ARGUMENT], or the config.json of a run; default: that of the workdir",
  ),
  "workdir": (
    _EVERY,
    "DIR",
    "folder of the run, local or gs://BUCKET/RUN; predict, serve: also an exported network, or its address",
  ),
  "mode": (_EVERY, "MODE", "one of the modes above"),
  "checkpoint": (
    _TRAINED,
    "C",
    "best (default), last, or a step; 0: config.init_from as it is",
  ),
  "split": (
    ("eval", "predict", "check", "search_crf", "explain", "label_errors"),
    "SPLIT",
    "default: config.data.eval_split; for --submission: test; for label_errors: the one trained on",
  ),
  "images": (
    ("predict", "export", "explain"),
    "PATTERN",
    "pictures to predict, explain, or compare exported files on: folder, file, or quoted 'a/*.jpg'; may be repeated",
  ),
  "other": (("explain", "compare"), "DIR", "workdir of another run to put beside it; may be repeated"),
  "pixel": (("explain",), "ROW,COLUMN", "pixel whose class score is explained; default: the centre"),
  "export_size": (("export",), "H,W", "fixes the input size of the StableHLO and ONNX files; default: any"),
  "submission": (("predict", "check"), "SERVER", "voc or cityscapes"),
  "output": (("predict", "check"), "DIR", "folder for predictions; for --submission default: in the workdir"),
  "host": (("serve",), "ADDRESS", "address to serve on; default: 127.0.0.1, which only this machine can reach"),
  "port": (("serve",), "N", "port to serve on, 0 for any that is free; default: 8000"),
  "topology": (("plan",), "CHIPS", "chips to plan for: v5e:4x8, h100:8"),
  "batch": (
    ("plan",),
    "N",
    "examples per device, or auto for as many as fit; default: config.batch_size over all devices",
  ),
  "spatial": (
    ("plan",),
    "all",
    "plan every possible config.mesh.spatial for a TPU; default: its own value, or the one that 0 chooses",
  ),
  "coordinator": (_EVERY, "HOST:PORT", "address of process 0; SLURM, Open MPI and TPUs need none"),
  "num_processes": (_EVERY, "N", "number of processes of the run, on all hosts"),
  "process_id": (_EVERY, "I", "number of this process, from 0"),
  "join_timeout": (_EVERY, "SECONDS", "time that processes wait for each other; default: 300"),
}
_HELP = """\
Semantic segmentation with large kernels (GCN, CVPR 2017) in JAX and Flax.

usage: python -m gcn_flax --config=configs/NAME.py --workdir=DIR [flags]     trains a network
       python -m gcn_flax --mode=MODE --workdir=DIR [flags]                  uses one, with the settings of its run
The command gcn_flax, which pip installs, is the same as python -m gcn_flax.

Modes:
{modes}

Flags:
{flags}

Config fields:
  Every field of a config is a flag, for instance --config.total_steps=500 --config.model.backbone=resnet50.
  All fields with their units and defaults: {fields}

Examples{place}:
  python -m data.prepare --dataset=shapes --data_dir=runs/data
  python -m gcn_flax --config=configs/quickstart.py --workdir=runs/quickstart
  python -m gcn_flax --mode=eval --workdir=runs/quickstart --checkpoint=last
  python -m gcn_flax --mode=predict --workdir=runs/quickstart --images=pictures --output=runs/predictions
  python -m gcn_flax --mode=serve --workdir=runs/quickstart
"""


class UserError(ValueError):
  """Signals a mistake on the command line; the message says what is wrong and how to fix it."""


def _define_flags(argv: Sequence[str], stored: ml_collections.ConfigDict | None) -> flags.FlagValues:
  """Defines the flags of one command line, apart from those of other modules and of earlier calls.

  Args:
    argv: the command line.
    stored: the config; None for one that `--config` names.
  """
  given = flags.FlagValues()
  options = {name: {"help": meaning, "flag_values": given} for name, (_, _, meaning) in _FLAGS.items()}
  if stored is None:
    config_flags.DEFINE_config_file("config", None, options["config"]["help"], given, sys_argv=list(argv))
  else:
    config_flags.DEFINE_config_dict("config", stored, options["config"]["help"], given, sys_argv=list(argv))
  flags.DEFINE_string("mode", "train", **options["mode"])
  for name in ("images", "other"):
    flags.DEFINE_multi_string(name, [], **options[name])
  flags.DEFINE_integer("join_timeout", 300, lower_bound=1, **options["join_timeout"])
  flags.DEFINE_string("host", "127.0.0.1", **options["host"])
  flags.DEFINE_integer("port", 8000, lower_bound=0, upper_bound=65535, **options["port"])
  flags.DEFINE_string("checkpoint", "best", **options["checkpoint"])
  for name in (
    "workdir", "split", "submission", "export_size", "output", "topology", "batch", "spatial", "coordinator", "pixel",
  ):  # fmt: skip
    flags.DEFINE_string(name, "", **options[name])
  for name in ("num_processes", "process_id"):
    flags.DEFINE_integer(name, None, **options[name])
  return given


def asks_for_help(argv: Sequence[str]) -> bool:
  """Returns True if an argument asks for the help page."""
  return any(argument in ("-h", "-help", "--help", "--helpfull", "--helpshort") for argument in argv[1:])


def help_page() -> str:
  """Returns the help page: modes, flags with the modes they are valid in, examples."""
  longest = max(map(len, MODES))
  modes = "\n".join(f"  {name:<{longest}} {meaning}" for name, meaning in MODES.items())
  width = max(len(name) + len(value) for name, (_, value, _) in _FLAGS.items()) + 4
  lines = []
  for name, (valid, value, meaning) in _FLAGS.items():
    only = "" if valid == _EVERY else f" [{', '.join(valid)}]"
    lines.append(f"  {f'--{name}={value}':<{width}} {meaning}{only}")
  place = "" if in_clone() else ", in a clone of gcn_flax, which holds data/ and configs/"
  return _HELP.format(modes=modes, flags="\n".join(lines), fields=config.__file__, place=place)


def parse(argv: Sequence[str]) -> tuple[ml_collections.ConfigDict, flags.FlagValues]:
  """Parses a command line; returns the config and the flags. Raises UserError."""
  argv = _with_local_network(argv)
  recipe, rest = flag_errors.split_flag(argv, "config")
  stored = _stored_config(recipe, rest)
  if stored is None:
    _let_import_neighbours(recipe)
    argv = [rest[0], f"--config={recipe}", *rest[1:]]  # First, because overrides of its fields are parsed by it.
  else:
    argv = rest
  try:
    given = _define_flags(argv, stored)
    rest = given(argv)
    getattr(given.config, "lock", None)  # Raises the error of a recipe that could not read a file.
  except Exception as error:  # A recipe is the user's code and may raise anything.
    raise UserError(flag_errors.explain(error, argv, recipe or "", _FLAGS)) from error
  if len(rest) > 1:
    raise UserError(f"unexpected argument {rest[1]!r}. Flags begin with --, see --help.")
  problem = flag_errors.config_problem(given.config)
  if problem:
    raise UserError(f"{flag('config', recipe)}: {problem}")
  for name, choices in (("mode", MODES), ("submission", ("", *SERVERS))):
    if given[name].value not in choices:
      fix = use_one_of(given[name].value, filter(None, choices), name)
      raise UserError(f"{flag(name, given[name].value)}: unknown. {fix}.")
  if not given.workdir:
    raise UserError(f"--workdir is missing, for instance {flag('config', recipe)} --workdir=runs/first.")
  for name, (valid, *_) in _FLAGS.items():
    if given[name].present and given.mode not in valid:
      raise UserError(f"--{name} is only valid with --mode={' or '.join(valid)} (got {given.mode}).")
  _check_combinations(given)
  _check_exported(given)
  flags.FLAGS.mark_as_parsed()  # Grain's worker processes read the global flags.
  return given.config, given


def _with_local_network(argv: Sequence[str]) -> list[str]:
  """Returns the command line with the path of a released network in place of its folder or address.

  Raises UserError if it cannot be downloaded.
  """
  workdir, rest = flag_errors.split_flag(argv, "workdir")
  mode, _ = flag_errors.split_flag(argv, "mode")
  if not workdir or mode not in (_EXPORTED if is_address(workdir) else _TRAINED):
    return list(argv)
  try:
    return [rest[0], f"--workdir={find_network(workdir)}", *rest[1:]]
  except (ValueError, OSError) as error:
    raise UserError(str(error)) from error


def _let_import_neighbours(recipe: str) -> None:
  """Lets a recipe import those beside it, `from FOLDER import NAME`, from any working directory."""
  above = os.path.dirname(os.path.dirname(os.path.abspath(recipe.partition(":")[0])))
  if above not in sys.path:
    sys.path.append(above)  # Last, so that nothing in it hides an installed package.


def _stored_config(recipe: str | None, rest: Sequence[str]) -> ml_collections.ConfigDict | None:
  """Returns the config of a run: of the one that `--config` names, else `--workdir`, else `--config.init_from`.

  Returns None if `--config` names a recipe. Raises UserError if there is no config at all.
  """
  if recipe and not (recipe.endswith(".json") and os.path.isfile(recipe)):
    problem = flag_errors.recipe_problem(recipe)
    if problem:
      raise UserError(problem)
    return None
  names = [recipe] if recipe else [flag_errors.split_flag(rest, name)[0] for name in ("workdir", "config.init_from")]
  problems = []
  for name in filter(None, names):
    try:
      if files.path(name).exists():
        return stored_config(files.path(name))
    except (ValueError, OSError) as error:
      problems.append(str(error))
  raise UserError(
    f"--config is missing, for instance --config=configs/quickstart.py --workdir=runs/quickstart. {' '.join(problems)}"
    if not recipe
    else problems[0]
  )


def _check_exported(given: flags.FlagValues) -> None:
  """Makes an exported network, given as `--workdir`, the network of the command. Raises UserError if it cannot be."""
  path = given.workdir
  if "://" in path or not os.path.isfile(os.path.expanduser(path)):
    return
  if given.mode not in _EXPORTED:
    use = f"{flag('config.init_from', path)} --checkpoint=0 --workdir=DIR"
    raise UserError(f"{flag('workdir', path)}: is a file, and --mode={given.mode} writes into a folder. Use {use}.")
  if given["checkpoint"].present:
    raise UserError(f"{flag('checkpoint', given.checkpoint)}: an exported network has no checkpoints. Leave it out.")
  given.checkpoint = "0"


def _check_combinations(given: flags.FlagValues) -> None:
  """Raises UserError for flags that need or exclude each other."""
  mode = given.mode
  if mode == "predict" and bool(given.images) == bool(given.submission):
    raise UserError("--mode=predict takes either --images='a/*.jpg' or --submission=voc or cityscapes.")
  if given.images and given.split:
    raise UserError(f"--split={given.split} names a split of a data set, and --images is none. Leave it out.")
  if mode == "predict" and given.images and not given.output:
    raise UserError("--mode=predict needs a folder for the label maps, for instance --output=runs/predictions.")
  if given.export_size and not re.fullmatch(r"[0-9]{1,6},[0-9]{1,6}", given.export_size):
    raise UserError(f"{flag('export_size', given.export_size)}: must be H,W. Use for instance --export_size=512,512.")
  if "://" in given.output:
    raise UserError(f"--output={given.output}: must be a local folder, for instance --output=runs/predictions.")
  if mode == "check" and not given.submission:
    raise UserError("--mode=check reads back a submission: say which, --submission=voc or cityscapes.")
  if given.pixel and not re.fullmatch("[0-9]{1,9},[0-9]{1,9}", given.pixel):
    raise UserError(f"{flag('pixel', given.pixel)}: must be a row and a column. Use for instance --pixel=100,150.")
  if mode == "compare" and not given.other:
    raise UserError("--mode=compare needs another run to compare with, for instance --other=runs/second.")
  if mode == "plan" and not given.topology:
    raise UserError("--mode=plan needs the chips to plan for, for instance --topology=v5e:4x8.")
