"""Checks of each field of a config by itself: its type, choices and range."""

import ml_collections

from gcn_flax.config import get_config
from gcn_flax.labels import DATASETS
from gcn_flax.messages import flag, use_one_of
from gcn_flax.nested import flatten

MAX_SIDE = 2**17  # Of crops, canvases and tiles, pixels.
CHOICES = {
  "data.dataset": DATASETS,
  "model.backbone": (
    "resnet_tiny", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet50_gcn",
  ),
  "model.family": ("torchvision", "timm", "caffe"),
  "model.head": ("gcn", "trivial", "stack", "pointwise", "classifier"),
  "model.init": ("small_heads", "lecun"),
  "model.norm": ("sync", "frozen"),
  "model.dtype": ("float32", "bfloat16"),
  "optimizer.kind": ("sgd", "adamw"),
  "optimizer.schedule": ("poly", "cosine"),
  "optimizer.decayed": ("kernels", "all"),
}  # fmt: skip

# (min, max) of a field. Steps are counted in int32 on the devices; the other maxima are far above what anyone uses.
_MAX_STEPS, _MAX_BATCH, _MAX_PROCESSES, _MAX_FACTOR = 2**31 - 1, 10**6, 1024, 1e6
_RANGES = {
  "total_steps": (1, _MAX_STEPS), "batch_size": (1, _MAX_BATCH), "accumulate_steps": (1, _MAX_BATCH),
  "seed": (0, 2**32 - 1), "log_every_steps": (1, _MAX_STEPS), "eval_every_steps": (1, _MAX_STEPS),
  "early_stop_evaluations": (0, _MAX_STEPS),
  "checkpoint_every_steps": (1, _MAX_STEPS), "keep_checkpoints": (1, _MAX_STEPS), "profile_at_step": (0, _MAX_STEPS),
  "mesh.spatial": (0, _MAX_PROCESSES), "data.color_jitter": (0.0, 1.0), "data.eval_resize": (1, MAX_SIDE),
  "data.class_balance": (0.0, 1.0), "data.rotation": (0.0, 180.0), "data.blur": (0.0, 100.0),
  "data.num_threads": (1, _MAX_PROCESSES), "data.num_workers": (0, _MAX_PROCESSES),
  "eval.batch_size": (1, _MAX_BATCH), "eval.num_pictures": (0, 64), "eval.overlap": (0, MAX_SIDE),
  "eval.crf.iterations": (0, 100), "eval.crf.num_workers": (0, _MAX_PROCESSES),
  "eval.crf.search_images": (1, _MAX_STEPS), "eval.crf.smooth_weight": (0.0, _MAX_FACTOR),
  "eval.crf.smooth_xy": (0.1, _MAX_FACTOR), "eval.crf.color_weight": (0.0, _MAX_FACTOR),
  "eval.crf.color_xy": (0.1, _MAX_FACTOR), "eval.crf.color_rgb": (0.1, _MAX_FACTOR),
  "loss.focal_gamma": (0.0, 10.0), "loss.dice_weight": (0.0, _MAX_FACTOR),
  "loss.label_smoothing": (0.0, 0.999), "loss.ohem_fraction": (1e-6, 1.0), "loss.ohem_threshold": (0.0, 1.0),
  "model.kernel_size": (1, 1001), "model.stack_width": (0, MAX_SIDE),
  "optimizer.learning_rate": (0.0, _MAX_FACTOR), "optimizer.encoder_lr_factor": (0.0, _MAX_FACTOR),
  "optimizer.momentum": (0.0, 1.0), "optimizer.weight_decay": (0.0, _MAX_FACTOR),
  "optimizer.clip_norm": (0.0, _MAX_FACTOR), "optimizer.warmup_steps": (0, _MAX_STEPS),
  "optimizer.poly_power": (0.0, 100.0), "optimizer.ema_decay": (0.0, 0.99999),
}  # fmt: skip
_TYPES = {bool: "True or False", int: "a whole number", float: "a number", str: "text", tuple: "a tuple"}


def error(field: str, value, problem: str, fix: str) -> ValueError:
  """Returns the error about a field, `config.FIELD=VALUE: problem. Fix.`"""
  return ValueError(f"config.{field}={value!r}: {problem}. {fix}.")


def flag_of(field: str, value) -> str:
  """Returns the flag that sets a field, as it is typed in a shell."""
  return flag(f"config.{field}", value)


def check_fields(config: ml_collections.ConfigDict) -> None:
  """Raises ValueError for the first field whose value is of another type, no choice, or out of range."""
  defaults = flatten(get_config().to_dict())
  for field, default in defaults.items():
    value = get(config, field)
    if not _is_like(value, default):
      raise error(field, value, f"must be {_TYPES[type(default)]}", f"Use for instance {default!r}")
  for field, choices in CHOICES.items():
    value = get(config, field)
    if value not in choices:
      raise error(field, value, "unknown", use_one_of(value, choices, f"config.{field}"))
  for field, (low, high) in _RANGES.items():
    value = get(config, field)
    if not low <= value <= high:  # Written so that NaN fails.
      fix = f"Use at most {high}" if high < value < float("inf") else f"Use for instance {defaults[field]}"
      raise error(field, value, f"must be from {low} to {high}", fix)


def _is_like(value, default) -> bool:
  """Returns True if a value has the type of a default; floats may be whole numbers, and tuples lists, as in JSON."""
  if isinstance(default, float):
    return are_numbers((value,))
  if isinstance(default, tuple):
    return isinstance(value, tuple | list)
  return type(value) is type(default)


def are_numbers(values: tuple) -> bool:
  """Returns True if all values are numbers, and none is a bool."""
  return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def get(config: ml_collections.ConfigDict, field: str):
  """Returns the value of a field by its dotted name."""
  for name in field.split("."):
    config = config[name]
  return config
