"""Checks of a whole config, each field by itself and fields against each other, before anything slow."""

import math

import ml_collections

from gcn_flax.config import ALL_ONCE, get_config, is_classifier
from gcn_flax.config_fields import MAX_SIDE, are_numbers, check_fields, error, flag_of, get
from gcn_flax.labels import CLASSIFICATION, DATASETS
from gcn_flax.messages import run_in_clone, use_one_of
from gcn_flax.rounding import round_up

_STRIDE = 32  # Sides of crops and tiles are multiples of the network's output stride.
_MAX_PIXELS = 2**28  # Of crops, canvases and tiles.
# Fields that a classifier leaves at their defaults.
_ONLY_FOR_PIXELS = (
  "eval.tile", "eval.scales", "eval.flip", "eval.crf.iterations", "data.rotation", "data.vertical_flip", "data.blur",
  "data.class_balance", "loss.dice_weight",
)  # fmt: skip


def check_config(config: ml_collections.ConfigDict, training: bool = True) -> None:
  """Checks every field by itself and against the others; `check_devices` checks batches against the devices.

  Args:
    config: the config to check.
    training: if False, the crop need not divide by `config.mesh.spatial`.

  Raises:
    ValueError: `config.FIELD=VALUE: problem. Fix.`
  """
  check_fields(config)
  _check_wandb(config.wandb_project)
  _check_data(config.data)
  _check_mix(config.data)
  _check_eval(config)
  _check_model(config)
  _check_task(config)
  _check_loss(config.loss)
  _check_optimizer(config.optimizer)
  _check_mesh(config, training)


def _check_wandb(project: str) -> None:
  if len(project) > 128 or set(project) & set("/\\#?%:"):
    problem = "W&B takes at most 128 characters, and none of / \\ # ? % :"
    raise error("wandb_project", project, problem, "Use another name, for instance 'gcn_flax'")


def _check_data(data: ml_collections.ConfigDict) -> None:
  crop, canvas = tuple(data.crop_size), tuple(data.eval_size)
  if crop and not _is_size(crop):
    fix = f"Use {flag_of('data.crop_size', _nearest_size(crop))}, or '()' to choose it from the training images"
    raise error("data.crop_size", crop, _SIZE_PROBLEM, fix)
  if canvas and not _is_size(canvas):
    fix = (
      f"Use {flag_of('data.eval_size', _nearest_size(canvas))}, or '()' to pad each image to its own size, rounded up"
    )
    raise error("data.eval_size", canvas, _SIZE_PROBLEM, fix)
  for field, size in (("data.crop_size", crop), ("data.eval_size", canvas)):
    if size and _is_too_large(size):
      raise error(field, size, _TOO_LARGE, f"Use for instance {flag_of(field, (512, 512))}")
  scales, area = tuple(data.scales), tuple(data.crop_area)
  if not are_numbers(scales) or len(scales) != 2 or not 0.1 <= scales[0] <= scales[1] <= 10:
    fix = f"Use for instance {flag_of('data.scales', (0.5, 2.0))}"
    raise error("data.scales", scales, "must be (min, max) with 0.1 <= min <= max <= 10", fix)
  if not are_numbers(area) or len(area) != 2 or not 0 < area[0] <= area[1] <= 1:
    fix = f"Use for instance {flag_of('data.crop_area', (0.08, 1.0))}"
    raise error("data.crop_area", area, "must be (min, max) with 0 < min <= max <= 1", fix)
  if data.random_scale and not data.random_crop:
    raise error("data.random_scale", True, "makes images of any size", "Use --config.data.random_crop=True as well")
  if "://" in data.data_dir:
    problem = "must be a local path, records are not read from buckets (google/array_record#120)"
    command = run_in_clone(f"launch/data.sh mount {data.data_dir} DIR")
    fix = f"Mount it ({command}), or stage instead of mount, and set config.data.data_dir=DIR"
    raise error("data.data_dir", data.data_dir, problem, fix)


def _check_mix(data: ml_collections.ConfigDict) -> None:
  mix = tuple(data.train_mix)
  example = f"Use for instance {flag_of('data.train_mix', ((data.dataset, 'train', ALL_ONCE),))}"
  if not mix:
    raise error("data.train_mix", mix, "names no data set", example)
  for entry in mix:
    if not (isinstance(entry, tuple | list) and len(entry) == 3 and all(isinstance(name, str) for name in entry[:2])):
      raise error("data.train_mix", mix, f"{entry!r} must be (data set, split, weight)", example)
    dataset, _, weight = entry
    if dataset not in DATASETS:
      raise error("data.train_mix", mix, f"unknown data set {dataset!r}", use_one_of(dataset, DATASETS))
    if weight != ALL_ONCE and not (are_numbers((weight,)) and 1e-9 <= weight <= 1e9):
      mended = tuple((*other[:2], 1.0 if other[2] == weight else other[2]) for other in mix)
      fix = f"Use a number above 0, or {ALL_ONCE!r}, for instance {flag_of('data.train_mix', mended)}"
      raise error("data.train_mix", mix, f"{weight!r} is no weight for {dataset}", fix)
  weights = {entry[2] for entry in mix}
  if ALL_ONCE in weights and len(weights) > 1:
    mended = tuple((*entry[:2], ALL_ONCE) for entry in mix)
    fix = f"Use a number for all data sets, or {ALL_ONCE!r}, {flag_of('data.train_mix', mended)}"
    raise error("data.train_mix", mix, f"mixes numbers with {ALL_ONCE!r}", fix)


def _check_eval(config: ml_collections.ConfigDict) -> None:
  settings = config.eval
  tile, scales = tuple(settings.tile), tuple(settings.scales)
  if tile and not _is_size(tile):
    fix = f"Use {flag_of('eval.tile', _nearest_size(tile))}, or () for whole images"
    raise error("eval.tile", tile, _SIZE_PROBLEM, fix)
  if tile and _is_too_large(tile):
    fix = f"Use for instance {flag_of('eval.tile', (512, 512))}, or () for whole images"
    raise error("eval.tile", tile, _TOO_LARGE, fix)
  if settings.overlap and not tile:
    fix = f"Use 0, or a tile, for instance {flag_of('eval.tile', _tile_above(settings.overlap))}"
    raise error("eval.overlap", settings.overlap, "has no effect on whole images, config.eval.tile=()", fix)
  if tile and settings.overlap >= min(tile):
    problem = f"must be less than the shorter side of config.eval.tile={tile}"
    raise error("eval.overlap", settings.overlap, problem, f"Use at most {min(tile) - 1}")
  if not scales or not are_numbers(scales) or not all(0.1 <= scale <= 10 for scale in scales):
    fix = f"Use for instance {flag_of('eval.scales', (0.75, 1.0, 1.25))}"
    raise error("eval.scales", scales, "must be scale factors from 0.1 to 10", fix)


def _check_model(config: ml_collections.ConfigDict) -> None:
  model, init_from = config.model, config.init_from
  if model.kernel_size % 2 == 0:
    fix = f"Use {model.kernel_size - 1} or {model.kernel_size + 1}"
    raise error("model.kernel_size", model.kernel_size, "must be odd", fix)
  if model.head == "stack" and model.kernel_size < 3:
    fix = "Use 3 or more, or config.model.head=pointwise"
    raise error("model.kernel_size", model.kernel_size, "leaves config.model.head='stack' without a layer", fix)
  if "://" in model.pretrained:
    raise error("model.pretrained", model.pretrained, "must be a local path", "Copy the file to this machine")
  if "://" in init_from and init_from.endswith((".safetensors", ".pth", ".pt", ".pkl")):
    fix = "Copy the file to this machine, or use the workdir it was exported from"
    raise error("init_from", init_from, "must be a local path or a workdir", fix)
  if init_from and model.pretrained:
    problem = f"conflicts with config.model.pretrained={model.pretrained!r}, both give the encoder's initial weights"
    raise error("init_from", init_from, problem, "Use --config.init_from='' or --config.model.pretrained=''")


def _check_task(config: ml_collections.ConfigDict) -> None:
  """Checks that classifiers get data sets with one class per image, and other networks do not."""
  for dataset in (config.data.dataset, *(entry[0] for entry in config.data.train_mix)):
    if (dataset in CLASSIFICATION) != is_classifier(config):
      unit, head = ("image", "classifier") if dataset in CLASSIFICATION else ("pixel", "gcn")
      problem = f"does not fit data set {dataset!r}, which has one class per {unit}"
      raise error("model.head", config.model.head, problem, f"Use {head!r}, or another data set")
  if not is_classifier(config):
    return
  for field in _ONLY_FOR_PIXELS:
    value, default = get(config, field), get(get_config(), field)
    value = tuple(value) if isinstance(value, list) else value  # Configs read from JSON have lists.
    if value != default:
      problem = "is not available with config.model.head='classifier'"
      raise error(field, value, problem, f"Use {flag_of(field, default)}")
  if config.data.random_scale:
    fix = "Use False, and config.data.crop_area for the range of sizes"
    raise error("data.random_scale", True, "classifiers are trained on random resized crops instead", fix)
  if not config.data.random_crop:
    raise error("data.random_crop", False, "classifiers are always trained on random resized crops", "Use True")
  if not tuple(config.data.crop_size):
    fix = f"Use for instance {flag_of('data.crop_size', (224, 224))}"
    raise error("data.crop_size", (), "classifiers need the size of their crops", fix)
  size, resize = tuple(config.data.eval_size), config.data.eval_resize
  if not size:
    raise error(
      "data.eval_size",
      (),
      "classifiers need the size of their centre crop",
      f"Use for instance {flag_of('data.eval_size', (224, 224))}",
    )
  if max(size) > resize:
    problem = f"must be at least {max(size)}, the longer side of config.data.eval_size={size}"
    raise error("data.eval_resize", resize, problem, f"Use {max(size)} or more")


def _check_loss(loss: ml_collections.ConfigDict) -> None:
  weights = tuple(loss.class_weights)
  if weights and not (
    are_numbers(weights) and any(weights) and all(weight == 0 or 1e-6 <= weight <= 1e6 for weight in weights)
  ):
    problem = "must be numbers from 1e-6 to 1e6, or 0, and not all 0"
    raise error("loss.class_weights", weights, problem, "Use one number per class, or () for equal weights")
  if loss.ohem_threshold and loss.ohem_fraction == 1:
    problem = "has no effect with config.loss.ohem_fraction=1, which keeps every pixel"
    fix = "Set config.loss.ohem_fraction to the smallest share of pixels to keep, for instance 0.1"
    raise error("loss.ohem_threshold", loss.ohem_threshold, problem, fix)


def _check_optimizer(optimizer: ml_collections.ConfigDict) -> None:
  if optimizer.kind == "adamw" and optimizer.momentum == 1:
    problem = "must be less than 1 with config.optimizer.kind='adamw', whose b1 it is"
    raise error("optimizer.momentum", optimizer.momentum, problem, "Use for instance 0.9")


def _check_mesh(config: ml_collections.ConfigDict, training: bool) -> None:
  spatial, crop = config.mesh.spatial or 1, tuple(config.data.crop_size)
  if spatial > 1 and is_classifier(config):
    problem = "splits the rows of label maps, config.model.head='classifier' has none"
    raise error("mesh.spatial", spatial, problem, "Use 1")
  if training and crop and crop[0] % (_STRIDE * spatial):
    height, width = crop
    problem = f"the height must be a multiple of {_STRIDE * spatial} = {_STRIDE} x config.mesh.spatial {spatial}"
    size = (round_up(height, _STRIDE * spatial), width)
    raise error("data.crop_size", (height, width), problem, f"Use {flag_of('data.crop_size', size)}")


def check_devices(config: ml_collections.ConfigDict, num_devices: int, spatial: int, training: bool = True) -> None:
  """Checks that batches divide over the devices.

  Args:
    config: one that `check_config` has passed.
    num_devices: devices that a batch is split over.
    spatial: how many of them share the rows of an image.
    training: if False, only the evaluation batch is checked.

  Raises ValueError as `check_config`.
  """
  accumulate = config.accumulate_steps
  factor = accumulate * max(1, num_devices // spatial)
  if training and config.batch_size % factor:
    devices = f"{num_devices} devices{f' / config.mesh.spatial {spatial}' if spatial > 1 else ''}"
    parts = [f"config.accumulate_steps {accumulate}"] * (accumulate > 1) + [devices] * (num_devices > 1)
    of = f"{factor} = {' x '.join(parts)}" if accumulate > 1 or spatial > 1 else f"the {devices}"
    fix = f"Use {_nearest_multiples(config.batch_size, factor)}"
    raise error("batch_size", config.batch_size, f"must be a multiple of {of}", fix)
  if config.eval.batch_size % num_devices:
    problem = f"must be a multiple of the {num_devices} devices"
    fix = f"Use {_nearest_multiples(config.eval.batch_size, num_devices)}"
    raise error("eval.batch_size", config.eval.batch_size, problem, fix)


_SIZE_PROBLEM = f"must be (height, width) in whole pixels, multiples of {_STRIDE}"
_TOO_LARGE = f"must be at most {MAX_SIDE} pixels a side, and {_MAX_PIXELS} in all"


def _is_size(size: tuple) -> bool:
  return len(size) == 2 and all(isinstance(side, int) and side >= _STRIDE and side % _STRIDE == 0 for side in size)


def _is_too_large(size: tuple[int, int]) -> bool:
  return max(size) > MAX_SIDE or math.prod(size) > _MAX_PIXELS


def _nearest_size(size: tuple) -> tuple[int, int]:
  """Returns a valid size close to what was given: its numbers rounded up, 512 for missing ones."""
  sides = [math.ceil(side) if are_numbers((side,)) and math.isfinite(side) else 512 for side in size] or [512]
  return tuple(max(_STRIDE, round_up(side, _STRIDE)) for side in (sides * 2)[:2])


def _tile_above(overlap: int) -> tuple[int, int]:
  side = max(512, round_up(overlap + 1, _STRIDE))
  return side, side


def _nearest_multiples(value: int, multiple: int) -> str:
  upper = round_up(value, multiple)
  return f"{upper - multiple} or {upper}" if upper > multiple else str(upper)
