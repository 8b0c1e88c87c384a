"""Checks of a config: each field by itself, and fields against each other, before anything slow."""

import math

import ml_collections

from gcn_flax.config import ALL_ONCE, get_config, is_classifier
from gcn_flax.labels import CLASSIFICATION, DATASETS
from gcn_flax.messages import flag, use_one_of
from gcn_flax.nested import flatten
from gcn_flax.rounding import round_up

_STRIDE = 32  # Sides of crops and tiles are multiples of the network's output stride.
_MAX_SIDE, _MAX_PIXELS = 2**17, 2**28  # Of crops, canvases and tiles.

_CHOICES = {
  "data.dataset": DATASETS,
  "model.backbone": (
    "resnet_tiny", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet50_gcn",
  ),
  "model.family": ("torchvision", "timm", "caffe"),
  "model.head": ("gcn", "trivial", "stack", "pointwise", "classifier"),
  "model.norm": ("sync", "frozen"),
  "model.dtype": ("float32", "bfloat16"),
  "optimizer.schedule": ("poly", "cosine"),
  "optimizer.decayed": ("kernels", "all"),
}  # fmt: skip

# (min, max) of a field. Steps are counted in int32 on the devices; the other maxima are far above what anyone uses.
_MAX_STEPS, _MAX_BATCH, _MAX_PROCESSES, _MAX_FACTOR = 2**31 - 1, 10**6, 1024, 1e6
_RANGES = {
  "total_steps": (1, _MAX_STEPS), "batch_size": (1, _MAX_BATCH), "accumulate_steps": (1, _MAX_BATCH),
  "seed": (0, 2**32 - 1), "log_every_steps": (1, _MAX_STEPS), "eval_every_steps": (1, _MAX_STEPS),
  "checkpoint_every_steps": (1, _MAX_STEPS), "keep_checkpoints": (1, _MAX_STEPS), "profile_at_step": (0, _MAX_STEPS),
  "mesh.spatial": (1, _MAX_PROCESSES), "data.color_jitter": (0.0, 1.0), "data.eval_resize": (1, _MAX_SIDE),
  "data.num_threads": (1, _MAX_PROCESSES), "data.num_workers": (0, _MAX_PROCESSES),
  "eval.batch_size": (1, _MAX_BATCH), "eval.num_pictures": (0, 64), "eval.overlap": (0, _MAX_SIDE),
  "eval.crf.iterations": (0, 100), "eval.crf.num_workers": (0, _MAX_PROCESSES),
  "eval.crf.search_images": (1, _MAX_STEPS), "eval.crf.smooth_weight": (0.0, _MAX_FACTOR),
  "eval.crf.smooth_xy": (0.1, _MAX_FACTOR), "eval.crf.color_weight": (0.0, _MAX_FACTOR),
  "eval.crf.color_xy": (0.1, _MAX_FACTOR), "eval.crf.color_rgb": (0.1, _MAX_FACTOR),
  "loss.label_smoothing": (0.0, 0.999), "loss.ohem_fraction": (1e-6, 1.0), "loss.ohem_threshold": (0.0, 1.0),
  "model.kernel_size": (1, 1001), "model.stack_width": (0, _MAX_SIDE),
  "optimizer.learning_rate": (0.0, _MAX_FACTOR), "optimizer.encoder_lr_factor": (0.0, _MAX_FACTOR),
  "optimizer.momentum": (0.0, 1.0), "optimizer.weight_decay": (0.0, _MAX_FACTOR),
  "optimizer.clip_norm": (0.0, _MAX_FACTOR), "optimizer.warmup_steps": (0, _MAX_STEPS),
  "optimizer.poly_power": (0.0, 100.0), "optimizer.ema_decay": (0.0, 0.99999),
}  # fmt: skip
_TYPES = {bool: "True or False", int: "a whole number", float: "a number", str: "text", tuple: "a tuple"}


def check_config(config: ml_collections.ConfigDict, training: bool = True) -> None:
  """Checks every field by itself and against the others; `check_devices` checks batches against the devices.

  Args:
    config: the config to check.
    training: if False, the crop need not divide by `config.mesh.spatial`.

  Raises:
    ValueError: `config.FIELD=VALUE: problem. Fix.`
  """
  _check_each(config)
  _check_data(config.data)
  _check_mix(config.data)
  _check_eval(config)
  _check_model(config)
  _check_task(config)
  _check_loss(config.loss)
  _check_mesh(config, training)


def _error(field: str, value, problem: str, fix: str) -> ValueError:
  return ValueError(f"config.{field}={value!r}: {problem}. {fix}.")


def _flag(field: str, value) -> str:
  return flag(f"config.{field}", value)


def _check_each(config: ml_collections.ConfigDict) -> None:
  defaults = flatten(get_config().to_dict())
  for field, default in defaults.items():
    value = _get(config, field)
    if not _is_like(value, default):
      raise _error(field, value, f"must be {_TYPES[type(default)]}", f"Use for instance {default!r}")
  for field, choices in _CHOICES.items():
    value = _get(config, field)
    if value not in choices:
      raise _error(field, value, "unknown", use_one_of(value, choices, f"config.{field}"))
  for field, (low, high) in _RANGES.items():
    value = _get(config, field)
    if not low <= value <= high:  # Written so that NaN fails.
      fix = f"Use at most {high}" if high < value < float("inf") else f"Use for instance {defaults[field]}"
      raise _error(field, value, f"must be from {low} to {high}", fix)


def _is_like(value, default) -> bool:
  """Returns True if a value has the type of a default; floats may be whole numbers, and tuples lists, as in JSON."""
  if isinstance(default, float):
    return _are_numbers((value,))
  if isinstance(default, tuple):
    return isinstance(value, tuple | list)
  return type(value) is type(default)


def _check_data(data: ml_collections.ConfigDict) -> None:
  crop, canvas = tuple(data.crop_size), tuple(data.eval_size)
  if not _is_size(crop):
    raise _error("data.crop_size", crop, _SIZE_PROBLEM, f"Use {_flag('data.crop_size', _nearest_size(crop))}")
  if canvas and not _is_size(canvas):
    fix = f"Use {_flag('data.eval_size', _nearest_size(canvas))}, or '()' to pad each image to its own size, rounded up"
    raise _error("data.eval_size", canvas, _SIZE_PROBLEM, fix)
  for field, size in (("data.crop_size", crop), ("data.eval_size", canvas)):
    if size and _is_too_large(size):
      raise _error(field, size, _TOO_LARGE, f"Use for instance {_flag(field, (512, 512))}")
  scales, area = tuple(data.scales), tuple(data.crop_area)
  if not _are_numbers(scales) or len(scales) != 2 or not 0.1 <= scales[0] <= scales[1] <= 10:
    fix = f"Use for instance {_flag('data.scales', (0.5, 2.0))}"
    raise _error("data.scales", scales, "must be (min, max) with 0.1 <= min <= max <= 10", fix)
  if not _are_numbers(area) or len(area) != 2 or not 0 < area[0] <= area[1] <= 1:
    fix = f"Use for instance {_flag('data.crop_area', (0.08, 1.0))}"
    raise _error("data.crop_area", area, "must be (min, max) with 0 < min <= max <= 1", fix)
  if data.random_scale and not data.random_crop:
    raise _error("data.random_scale", True, "makes images of any size", "Use --config.data.random_crop=True as well")
  if "://" in data.data_dir:
    problem = "must be a local path, records are not read from buckets (google/array_record#120)"
    command = f"launch/data.sh mount {data.data_dir} DIR"
    fix = f"Run {command}, or stage instead of mount, and set config.data.data_dir=DIR"
    raise _error("data.data_dir", data.data_dir, problem, fix)


def _check_mix(data: ml_collections.ConfigDict) -> None:
  mix = tuple(data.train_mix)
  example = f"Use for instance {_flag('data.train_mix', ((data.dataset, 'train', ALL_ONCE),))}"
  if not mix:
    raise _error("data.train_mix", mix, "names no data set", example)
  for entry in mix:
    if not (isinstance(entry, tuple | list) and len(entry) == 3 and all(isinstance(name, str) for name in entry[:2])):
      raise _error("data.train_mix", mix, f"{entry!r} must be (data set, split, weight)", example)
    dataset, _, weight = entry
    if dataset not in DATASETS:
      raise _error("data.train_mix", mix, f"unknown data set {dataset!r}", use_one_of(dataset, DATASETS))
    if weight != ALL_ONCE and not (_are_numbers((weight,)) and 1e-9 <= weight <= 1e9):
      mended = tuple((*other[:2], 1.0 if other[2] == weight else other[2]) for other in mix)
      fix = f"Use a number above 0, or {ALL_ONCE!r}, for instance {_flag('data.train_mix', mended)}"
      raise _error("data.train_mix", mix, f"{weight!r} is no weight for {dataset}", fix)
  weights = {entry[2] for entry in mix}
  if ALL_ONCE in weights and len(weights) > 1:
    mended = tuple((*entry[:2], ALL_ONCE) for entry in mix)
    fix = f"Use a number for all data sets, or {ALL_ONCE!r}, {_flag('data.train_mix', mended)}"
    raise _error("data.train_mix", mix, f"mixes numbers with {ALL_ONCE!r}", fix)


def _check_eval(config: ml_collections.ConfigDict) -> None:
  settings = config.eval
  tile, scales = tuple(settings.tile), tuple(settings.scales)
  if tile and not _is_size(tile):
    fix = f"Use {_flag('eval.tile', _nearest_size(tile))}, or () for whole images"
    raise _error("eval.tile", tile, _SIZE_PROBLEM, fix)
  if tile and _is_too_large(tile):
    fix = f"Use for instance {_flag('eval.tile', (512, 512))}, or () for whole images"
    raise _error("eval.tile", tile, _TOO_LARGE, fix)
  if settings.overlap and not tile:
    fix = f"Use 0, or a tile, for instance {_flag('eval.tile', _tile_above(settings.overlap))}"
    raise _error("eval.overlap", settings.overlap, "has no effect on whole images, config.eval.tile=()", fix)
  if tile and settings.overlap >= min(tile):
    problem = f"must be less than the shorter side of config.eval.tile={tile}"
    raise _error("eval.overlap", settings.overlap, problem, f"Use at most {min(tile) - 1}")
  if not scales or not _are_numbers(scales) or not all(0.1 <= scale <= 10 for scale in scales):
    fix = f"Use for instance {_flag('eval.scales', (0.75, 1.0, 1.25))}"
    raise _error("eval.scales", scales, "must be scale factors from 0.1 to 10", fix)


def _check_model(config: ml_collections.ConfigDict) -> None:
  model, init_from = config.model, config.init_from
  if model.kernel_size % 2 == 0:
    fix = f"Use {model.kernel_size - 1} or {model.kernel_size + 1}"
    raise _error("model.kernel_size", model.kernel_size, "must be odd", fix)
  if model.head == "stack" and model.kernel_size < 3:
    fix = "Use 3 or more, or config.model.head=pointwise"
    raise _error("model.kernel_size", model.kernel_size, "leaves config.model.head='stack' without a layer", fix)
  if "://" in model.pretrained:
    raise _error("model.pretrained", model.pretrained, "must be a local path", "Copy the file to this machine")
  if "://" in init_from and init_from.endswith((".safetensors", ".pth", ".pt", ".pkl")):
    fix = "Copy the file to this machine, or use the workdir it was exported from"
    raise _error("init_from", init_from, "must be a local path or a workdir", fix)
  if init_from and model.pretrained:
    problem = f"conflicts with config.model.pretrained={model.pretrained!r}, both give the encoder's initial weights"
    raise _error("init_from", init_from, problem, "Use --config.init_from='' or --config.model.pretrained=''")


def _check_task(config: ml_collections.ConfigDict) -> None:
  """Checks that classifiers get data sets with one class per image, and other networks do not."""
  for dataset in (config.data.dataset, *(entry[0] for entry in config.data.train_mix)):
    if (dataset in CLASSIFICATION) != is_classifier(config):
      unit, head = ("image", "classifier") if dataset in CLASSIFICATION else ("pixel", "gcn")
      problem = f"does not fit data set {dataset!r}, which has one class per {unit}"
      raise _error("model.head", config.model.head, problem, f"Use {head!r}, or another data set")
  if not is_classifier(config):
    return
  for field, default in (("tile", ()), ("scales", (1.0,)), ("flip", False), ("crf.iterations", 0)):
    value = _get(config.eval, field)
    value = tuple(value) if isinstance(value, list) else value  # Configs read from JSON have lists.
    if value != default:
      raise _error(
        f"eval.{field}",
        value,
        "is not available with config.model.head='classifier'",
        f"Use {_flag(f'eval.{field}', default)}",
      )
  if config.data.random_scale:
    fix = "Use False, and config.data.crop_area for the range of sizes"
    raise _error("data.random_scale", True, "classifiers are trained on random resized crops instead", fix)
  if not config.data.random_crop:
    raise _error("data.random_crop", False, "classifiers are always trained on random resized crops", "Use True")
  size, resize = tuple(config.data.eval_size), config.data.eval_resize
  if not size:
    raise _error(
      "data.eval_size",
      (),
      "classifiers need the size of their centre crop",
      f"Use for instance {_flag('data.eval_size', (224, 224))}",
    )
  if max(size) > resize:
    problem = f"must be at least {max(size)}, the longer side of config.data.eval_size={size}"
    raise _error("data.eval_resize", resize, problem, f"Use {max(size)} or more")


def _check_loss(loss: ml_collections.ConfigDict) -> None:
  weights = tuple(loss.class_weights)
  if weights and not (
    _are_numbers(weights) and any(weights) and all(weight == 0 or 1e-6 <= weight <= 1e6 for weight in weights)
  ):
    problem = "must be numbers from 1e-6 to 1e6, or 0, and not all 0"
    raise _error("loss.class_weights", weights, problem, "Use one number per class, or () for equal weights")
  if loss.ohem_threshold and loss.ohem_fraction == 1:
    problem = "has no effect with config.loss.ohem_fraction=1, which keeps every pixel"
    fix = "Set config.loss.ohem_fraction to the smallest share of pixels to keep, for instance 0.1"
    raise _error("loss.ohem_threshold", loss.ohem_threshold, problem, fix)


def _check_mesh(config: ml_collections.ConfigDict, training: bool) -> None:
  spatial, (height, width) = config.mesh.spatial, config.data.crop_size
  if spatial > 1 and is_classifier(config):
    problem = "splits the rows of label maps, config.model.head='classifier' has none"
    raise _error("mesh.spatial", spatial, problem, "Use 1")
  if training and height % (_STRIDE * spatial):
    problem = f"the height must be a multiple of {_STRIDE * spatial} = {_STRIDE} x config.mesh.spatial {spatial}"
    size = (round_up(height, _STRIDE * spatial), width)
    raise _error("data.crop_size", (height, width), problem, f"Use {_flag('data.crop_size', size)}")


def check_devices(config: ml_collections.ConfigDict, num_devices: int, training: bool = True) -> None:
  """Checks that batches divide over the devices.

  Args:
    config: one that `check_config` has passed.
    num_devices: devices that a batch is split over.
    training: if False, only the evaluation batch is checked.

  Raises ValueError as `check_config`.
  """
  spatial, accumulate = config.mesh.spatial, config.accumulate_steps
  factor = accumulate * max(1, num_devices // spatial)
  if training and config.batch_size % factor:
    devices = f"{num_devices} devices{f' / config.mesh.spatial {spatial}' if spatial > 1 else ''}"
    parts = [f"config.accumulate_steps {accumulate}"] * (accumulate > 1) + [devices] * (num_devices > 1)
    of = f"{factor} = {' x '.join(parts)}" if accumulate > 1 or spatial > 1 else f"the {devices}"
    fix = f"Use {_nearest_multiples(config.batch_size, factor)}"
    raise _error("batch_size", config.batch_size, f"must be a multiple of {of}", fix)
  if config.eval.batch_size % num_devices:
    problem = f"must be a multiple of the {num_devices} devices"
    fix = f"Use {_nearest_multiples(config.eval.batch_size, num_devices)}"
    raise _error("eval.batch_size", config.eval.batch_size, problem, fix)


_SIZE_PROBLEM = f"must be (height, width) in whole pixels, multiples of {_STRIDE}"
_TOO_LARGE = f"must be at most {_MAX_SIDE} pixels a side, and {_MAX_PIXELS} in all"


def _is_size(size: tuple) -> bool:
  return len(size) == 2 and all(isinstance(side, int) and side >= _STRIDE and side % _STRIDE == 0 for side in size)


def _is_too_large(size: tuple[int, int]) -> bool:
  return max(size) > _MAX_SIDE or math.prod(size) > _MAX_PIXELS


def _nearest_size(size: tuple) -> tuple[int, int]:
  """Returns a valid size close to what was given: its numbers rounded up, 512 for missing ones."""
  sides = [math.ceil(side) if _are_numbers((side,)) and math.isfinite(side) else 512 for side in size] or [512]
  return tuple(max(_STRIDE, round_up(side, _STRIDE)) for side in (sides * 2)[:2])


def _tile_above(overlap: int) -> tuple[int, int]:
  side = max(512, round_up(overlap + 1, _STRIDE))
  return side, side


def _nearest_multiples(value: int, multiple: int) -> str:
  upper = round_up(value, multiple)
  return f"{upper - multiple} or {upper}" if upper > multiple else str(upper)


def _are_numbers(values: tuple) -> bool:
  return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _get(config: ml_collections.ConfigDict, field: str):
  for name in field.split("."):
    config = config[name]
  return config
