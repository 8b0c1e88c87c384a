"""Every setting of a run with its unit, and every check of settings against each other."""

import ml_collections

from gcn_flax.labels import CLASSIFICATION, DATASETS

ALL_ONCE = "all once"  # In place of a weight: each epoch shows every example once.

_MIX_EXAMPLE = 'For instance --config.data.train_mix=\'(("cityscapes", "train", "all once"),)\'.'

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

# (lowest, highest) allowed value; None is no limit.
_RANGES = {
  "total_steps": (1, None),
  "batch_size": (1, None),
  "accumulate_steps": (1, None),
  "seed": (0, 2**32 - 1),
  "log_every_steps": (1, None),
  "eval_every_steps": (1, None),
  "checkpoint_every_steps": (1, None),
  "keep_checkpoints": (1, None),
  "profile_at_step": (0, None),
  "data.color_jitter": (0.0, 1.0),
  "data.eval_resize": (1, None),
  "data.num_threads": (1, None),
  "data.num_workers": (0, None),
  "mesh.spatial": (1, None),
  "eval.batch_size": (1, None),
  "eval.num_pictures": (0, 64),
  "eval.overlap": (0, None),
  "eval.crf.iterations": (0, 100),
  "eval.crf.smooth_weight": (0.0, None),
  "eval.crf.smooth_xy": (0.1, None),
  "eval.crf.color_weight": (0.0, None),
  "eval.crf.color_xy": (0.1, None),
  "eval.crf.color_rgb": (0.1, None),
  "eval.crf.num_workers": (0, None),
  "eval.crf.search_images": (1, None),
  "loss.label_smoothing": (0.0, 0.999),
  "loss.ohem_fraction": (1e-6, 1.0),
  "loss.ohem_threshold": (0.0, 1.0),
  "model.kernel_size": (1, None),
  "model.stack_width": (0, None),
  "optimizer.learning_rate": (0.0, None),
  "optimizer.momentum": (0.0, 1.0),
  "optimizer.weight_decay": (0.0, None),
  "optimizer.clip_norm": (0.0, None),
  "optimizer.warmup_steps": (0, None),
  "optimizer.poly_power": (0.0, None),
  "optimizer.encoder_lr_factor": (0.0, None),
  "optimizer.ema_decay": (0.0, 0.99999),
}


def get_config() -> ml_collections.ConfigDict:
  """The settings that a recipe in `configs/` starts from.

  Defaults follow the paper where it gives a value; what it leaves open is ours
  and marked so. What the recipes of the paper and the modern ones (`:modern`) set:

  | field | the paper's recipe | modern |
  |---|---|---|
  | batch_size | 1 | 16 |
  | model.norm | frozen (ours: batches of one leave no choice) | sync |
  | model.dtype | float32 | bfloat16 |
  | data.random_scale, data.color_jitter | False, 0 | True, 0.4 |
  | optimizer.momentum | 0.99 | 0.9 |
  | optimizer.weight_decay | 0.0005 | 0.0005 |
  | optimizer.decayed | kernels (ours) | kernels |
  | optimizer.learning_rate, schedule | 0.0001 (ours), poly (ours) | 0.01, poly |
  | optimizer.encoder_lr_factor | 1 | 1 |
  | optimizer.clip_norm | 0 | 5 |
  | optimizer.ema_decay | 0: none | 0: none |
  | loss.class_weights, label_smoothing, ohem_fraction | (), 0, 1: none of them | (), 0, 1: none of them |
  """
  config = ml_collections.ConfigDict()
  config.seed = 0  # Of initial weights, example order and augmentation.
  config.total_steps = 10_000  # Updates of the weights. Ours.
  config.batch_size = 16  # Examples of one update, over all devices. The paper's is 1.
  config.accumulate_steps = 1  # Parts a batch is worked off in, one after the other, where it does not fit at once.
  config.log_every_steps = 50
  config.eval_every_steps = 1_000
  config.checkpoint_every_steps = 1_000
  config.keep_checkpoints = 2  # The newest so many; the best by score stays besides.
  config.log_image_ids = False  # Whether WORKDIR/examples gets the names of the images of every step.
  config.profile_at_step = 0  # Traces five steps from here into WORKDIR/profile; 0 = never.
  # Workdir, also in a bucket, whose best checkpoint, or network.safetensors (--mode=export) that gives the first
  # weights; '' = none.
  config.init_from = ""

  config.data = data = ml_collections.ConfigDict()
  data.dataset = "shapes"  # One of gcn_flax.labels.DATASETS; gives the classes, and is scored.
  data.data_dir = "~/tensorflow_datasets"  # Where data.prepare wrote it; a local path.
  data.eval_split = "validation"
  # (data set, split, weight) of all that is trained on; the classes must be those of `dataset`. Weights are shares of
  # what is seen, in any unit; or all are "all once", and each epoch shows every example once. Shuffled over all.
  data.train_mix = (("shapes", "train", ALL_ONCE),)
  data.crop_size = (512, 512)  # (height, width) trained on, pixels, multiples of 32; smaller images are padded.
  data.eval_size = (512, 512)  # (height, width) images are padded to for scoring, multiples of 32; all must fit.
  data.random_flip = True  # Left and right; the paper's.
  data.random_crop = True  # The paper's on Cityscapes; without it every image must fit into crop_size.
  data.random_scale = False  # The paper does not scale.
  data.scales = (0.5, 2.0)  # (smallest, largest) factor of random_scale.
  data.color_jitter = 0.0  # Largest relative change of brightness, contrast, saturation; hue: / 5 of a turn. 0 = none.
  data.crop_area = (0.08, 1.0)  # Whole images: (smallest, largest) share of the image's area in a random resized crop.
  data.eval_resize = 256  # Whole images: pixels of the shorter side, before the centre crop of eval_size.
  # Whether another image of its set stands in for a damaged one while training, counted as `skipped` in metrics.jsonl
  # and named in the log; False ends the run. What is scored is never skipped.
  data.skip_corrupt = False
  data.num_threads = 4  # That decode and augment, in each worker.
  data.num_workers = 0  # Processes that decode and augment; 0 = threads of the main process alone.

  config.eval = evaluation = ml_collections.ConfigDict()  # How images are scored and predicted.
  evaluation.batch_size = 8  # Images over all devices.
  evaluation.num_pictures = 6  # Rows of the contact sheet, and of the report's best and worst; 0 = none.
  # (height, width) of the tiles an image is seen in, pixels, multiples of 32; () = the whole image at once. The paper's
  # four crops of a Cityscapes image: tile (1024, 1024), overlap 682.
  evaluation.tile = ()
  evaluation.overlap = 0  # Pixels that neighbouring tiles share at least.
  evaluation.scales = (1.0,)  # Factors of the image's size whose probabilities are averaged. The paper gives none.
  evaluation.flip = False  # Whether those of the mirror image, left and right, are averaged, too.
  # Dense CRF (Kraehenbuehl and Koltun, NIPS 2011) after that; needs requirements-crf.txt. The paper gives no
  # parameters: these are ours, for --mode=search_crf to improve.
  evaluation.crf = crf = ml_collections.ConfigDict()
  crf.iterations = 0  # Of mean field inference, usually 10; 0 = no CRF.
  crf.smooth_weight = 3.0  # Of the kernel of places alone.
  crf.smooth_xy = 3.0  # Its standard deviation, pixels.
  crf.color_weight = 5.0  # Of the kernel of places and colours.
  crf.color_xy = 50.0  # Its standard deviations, pixels,
  crf.color_rgb = 5.0  # and values of 0 to 255.
  crf.num_workers = 0  # Processes; 0 = one for each core.
  crf.search_images = 50  # That --mode=search_crf looks at.

  config.model = model = ml_collections.ConfigDict()
  model.backbone = "resnet152"  # resnet_tiny, resnet18, 34, 50, 101 or 152; resnet50_gcn is the paper's own.
  # gcn, or what Figure 4 compares it to: trivial, stack, pointwise. classifier: one class for each image, no decoder.
  model.head = "gcn"
  model.kernel_size = 15  # k, odd. 15 sees all of a 512 x 512 input from stride 32, 25 all of 800 x 800.
  model.stack_width = 0  # Channels inside the head `stack`; 0 = those of its input (Table 3).
  model.boundary_refine = True
  model.norm = "sync"  # Batch normalisation: sync = statistics of the global batch, frozen = running ones.
  model.dtype = "float32"  # Of the computation, or bfloat16; weights and logits are float32.
  model.remat = False  # Whether the encoder's blocks are computed again in the backward pass: less memory, more time.
  # Weights of the encoder: .safetensors or .pth with torchvision's or timm's names, or the workdir of a classifier
  # (configs/imagenet.py), whose best checkpoint counts; '' = random ones. Only read before the first step.
  model.pretrained = ""
  # Of these weights, torchvision, timm or caffe: gives normalisation, channel order and place of the strides, see
  # gcn_flax.models.pretrained.FAMILIES. Kept in every checkpoint.
  model.family = "torchvision"

  config.loss = loss = ml_collections.ConfigDict()
  loss.class_weights = ()  # One weight >= 0 for each class, in the order of the train ids; () = all alike.
  loss.label_smoothing = 0.0  # Share of the target that is spread over all classes.
  loss.ohem_fraction = 1.0  # Hard-pixel mining: only this share of the valid pixels counts, those of highest loss.
  loss.ohem_threshold = 0.0  # And every pixel whose true class gets a lower probability than this.

  config.optimizer = optimizer = ml_collections.ConfigDict()
  optimizer.learning_rate = 0.01  # At the end of the warm-up. Ours.
  optimizer.momentum = 0.9  # The paper's is 0.99, with batches of one image.
  optimizer.weight_decay = 5e-4  # The paper's.
  optimizer.decayed = "kernels"  # What weight decay acts on: kernels, or all, biases and normalisation too. Ours.
  optimizer.clip_norm = 0.0  # Largest global norm of the gradient; 0 = no clipping. Ours.
  optimizer.warmup_steps = 0  # Linear, from 0. Ours.
  optimizer.schedule = "poly"  # poly, or cosine: learning rate * (1 + cos(pi * step / total_steps)) / 2. Ours.
  optimizer.poly_power = 0.9  # learning rate * (1 - step / total_steps) ** poly_power. Ours.
  # The encoder's learning rate is so many times the others'; with 0, take model.norm=frozen, too.
  optimizer.encoder_lr_factor = 1.0
  # Exponential moving average of weights and statistics, which are scored and exported in their place; 0 = none.
  optimizer.ema_decay = 0.0

  config.mesh = ml_collections.ConfigDict()
  # Devices that share the rows of each image in training, so that large crops fit; the others split the batch. Scored
  # and predicted images are each on one device: see config.eval.tile.
  config.mesh.spatial = 1
  return config.lock()


def is_classifier(config: ml_collections.ConfigDict) -> bool:
  """Whether the network tells one class for each image, not for each pixel."""
  return config.model.head == "classifier"


def validate(config: ml_collections.ConfigDict, num_devices: int = 1, training: bool = True) -> None:
  """Checks every setting, alone and against the others, before anything slow.

  Args:
    config: to check.
    num_devices: that will share the batches.
    training: whether the size of the training batch matters.

  Raises:
    ValueError: naming the field, its value, the limit and the cure.
  """
  for field, choices in _CHOICES.items():
    if _get(config, field) not in choices:
      raise ValueError(f"config.{field}={_get(config, field)!r} is unknown; choose one of {', '.join(choices)}.")
  for field, (low, high) in _RANGES.items():
    value = _get(config, field)
    if not (low <= value and (high is None or value <= high)):  # Written so that NaN fails.
      limit = f"at least {low}" if high is None else f"from {low} to {high}"
      raise ValueError(f"config.{field}={value} must be {limit}.")
  if "://" in config.model.pretrained:
    raise ValueError(f"config.model.pretrained={config.model.pretrained!r} must be a local path: copy the file here.")
  if "://" in config.init_from and config.init_from.endswith((".safetensors", ".pth", ".pt", ".pkl")):
    raise ValueError(f"config.init_from={config.init_from!r} must be a local path, or a workdir: copy the file here.")
  if config.init_from and config.model.pretrained:
    raise ValueError(
      f"config.init_from={config.init_from!r} and config.model.pretrained={config.model.pretrained!r} both give the "
      "encoder's first weights: set one of them to ''."
    )
  _validate_data(config.data)
  _validate_eval(config)
  _validate_model(config.model)
  _validate_task(config)
  _validate_loss(config.loss)
  _validate_batches(config, num_devices, training)


def _validate_data(data: ml_collections.ConfigDict) -> None:
  for field in ("crop_size", "eval_size"):
    size = tuple(data[field])
    if any(not isinstance(side, int) for side in size):
      raise ValueError(f"config.data.{field}={size} must be whole numbers of pixels, for instance (512, 512).")
    if len(size) != 2 or any(side < 32 or side % 32 for side in size):
      cure = tuple(max(32, -(-side // 32) * 32) for side in (size * 2)[:2])
      raise ValueError(f"config.data.{field}={size} must be (height, width), multiples of 32, for instance {cure}.")
  scales = tuple(data.scales)
  if not _are_numbers(scales) or len(scales) != 2 or not 0 < scales[0] <= scales[1]:
    raise ValueError(f"config.data.scales={scales} must be (smallest, largest) with 0 < smallest <= largest.")
  area = tuple(data.crop_area)
  if not _are_numbers(area) or len(area) != 2 or not 0 < area[0] <= area[1] <= 1:
    raise ValueError(f"config.data.crop_area={area} must be (smallest, largest) with 0 < smallest <= largest <= 1.")
  if data.random_scale and not data.random_crop:
    raise ValueError("config.data.random_scale=True makes images of any size: set config.data.random_crop=True too.")
  _validate_mix(tuple(data.train_mix))
  if "://" in data.data_dir:
    raise ValueError(
      f"config.data.data_dir={data.data_dir!r}: records are read from local paths only (google/array_record#120): run "
      f"launch/data.sh mount {data.data_dir} DIR, or stage in place of mount, and set it to DIR."
    )


def _validate_eval(config: ml_collections.ConfigDict) -> None:
  tile, scales = tuple(config.eval.tile), tuple(config.eval.scales)
  if tile and (len(tile) != 2 or any(not isinstance(side, int) or side < 32 or side % 32 for side in tile)):
    raise ValueError(
      f"config.eval.tile={tile} must be (height, width), multiples of 32, for instance (1024, 1024), or () for none."
    )
  if config.eval.overlap >= min(tile, default=1):
    limit = f"less than the tile's {min(tile)}" if tile else "0 while config.eval.tile=() takes the whole image"
    raise ValueError(f"config.eval.overlap={config.eval.overlap} must be {limit}.")
  if not scales or not _are_numbers(scales) or not all(0.1 <= scale <= 10 for scale in scales):
    raise ValueError(f"config.eval.scales={scales} must be factors from 0.1 to 10, for instance (0.75, 1.0, 1.25).")
  if is_classifier(config) and (tile or scales != (1.0,) or config.eval.flip or config.eval.crf.iterations):
    raise ValueError(
      "config.eval.tile, scales, flip and crf are for classes of pixels: leave them as they are with "
      "config.model.head='classifier'."
    )


def _validate_mix(mix: tuple) -> None:
  for part in mix:
    if not (isinstance(part, tuple | list) and len(part) == 3 and all(isinstance(name, str) for name in part[:2])):
      raise ValueError(f"config.data.train_mix: {part!r} must be (data set, split, weight). {_MIX_EXAMPLE}")
    dataset, _, weight = part
    if dataset not in DATASETS:
      raise ValueError(f"config.data.train_mix: data set {dataset!r} is unknown; choose one of {', '.join(DATASETS)}.")
    if weight != ALL_ONCE and not (_are_numbers((weight,)) and 0 < weight < float("inf")):
      raise ValueError(
        f"config.data.train_mix: weight {weight!r} of {dataset} must be a number above 0 or {ALL_ONCE!r}."
      )
  weights = [part[2] for part in mix]
  if not mix:
    raise ValueError(f"config.data.train_mix is empty. {_MIX_EXAMPLE}")
  if ALL_ONCE in weights and set(weights) != {ALL_ONCE}:
    raise ValueError(f"config.data.train_mix mixes weights with {ALL_ONCE!r}: give that, or a number, to all.")


def _validate_model(model: ml_collections.ConfigDict) -> None:
  if model.kernel_size % 2 == 0:
    raise ValueError(f"config.model.kernel_size={model.kernel_size} must be odd: use {model.kernel_size + 1}.")
  if model.head == "stack" and model.kernel_size < 3:
    raise ValueError("config.model.kernel_size=1 leaves the head 'stack' empty: use 3 or more, or head 'pointwise'.")


def _validate_task(config: ml_collections.ConfigDict) -> None:
  """Whole images have one class each, and only a classifier takes them."""
  for dataset in (config.data.dataset, *(part[0] for part in config.data.train_mix)):
    if (dataset in CLASSIFICATION) != is_classifier(config):
      cure = "'classifier'" if dataset in CLASSIFICATION else "'gcn'"
      raise ValueError(
        f"config.model.head={config.model.head!r} does not go with data set {dataset!r}, "
        f"which has one class for each {'image' if dataset in CLASSIFICATION else 'pixel'}: set it to {cure}, or take "
        "another data set."
      )
  if not is_classifier(config):
    return
  if config.data.random_scale or not config.data.random_crop:
    raise ValueError(
      f"config.data.random_scale={config.data.random_scale}, random_crop={config.data.random_crop}: whole images are "
      "always cropped at random and resized, set them to False, True and take config.data.crop_area."
    )
  size, resize = tuple(config.data.eval_size), config.data.eval_resize
  if max(size) > resize:
    raise ValueError(f"config.data.eval_resize={resize} must be at least {max(size)}: config.data.eval_size is {size}.")


def _validate_loss(loss: ml_collections.ConfigDict) -> None:
  weights = tuple(loss.class_weights)
  if weights and not (_are_numbers(weights) and all(0 <= weight < float("inf") for weight in weights) and any(weights)):
    raise ValueError(f"config.loss.class_weights={weights} must be numbers of at least 0, not all 0.")
  if loss.ohem_threshold and loss.ohem_fraction == 1:
    raise ValueError(
      f"config.loss.ohem_threshold={loss.ohem_threshold} changes nothing while config.loss.ohem_fraction=1 takes all: "
      "set that to the least share of pixels to take, for instance 0.1."
    )


def _validate_batches(config: ml_collections.ConfigDict, num_devices: int, training: bool) -> None:
  spatial, height = config.mesh.spatial, config.data.crop_size[0]
  if spatial > 1 and is_classifier(config):
    raise ValueError(f"config.mesh.spatial={spatial} splits label maps, which a classifier has not: set it to 1.")
  if training and height % (32 * spatial):
    raise ValueError(
      f"config.data.crop_size: the height {height} must be a multiple of {32 * spatial} = 32 x config.mesh.spatial "
      f"{spatial}: for instance {-(-height // (32 * spatial)) * 32 * spatial}."
    )
  shares = max(1, num_devices // spatial)
  parts = config.accumulate_steps * shares
  if training and config.batch_size % parts:
    devices = f"{num_devices} devices{f' / config.mesh.spatial {spatial}' if spatial > 1 else ''}"
    raise ValueError(
      f"config.batch_size={config.batch_size} must be a multiple of {parts} = config.accumulate_steps "
      f"{config.accumulate_steps} x {devices}: for instance {-(-config.batch_size // parts) * parts}."
    )
  if config.eval.batch_size % num_devices:
    raise ValueError(
      f"config.eval.batch_size={config.eval.batch_size} must be a multiple of the {num_devices} devices: "
      f"for instance {-(-config.eval.batch_size // num_devices) * num_devices}."
    )


def _are_numbers(values: tuple) -> bool:
  return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _get(config: ml_collections.ConfigDict, field: str):
  for name in field.split("."):
    config = config[name]
  return config
