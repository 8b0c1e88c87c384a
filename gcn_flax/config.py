"""Every setting of a run, with its unit and default; `gcn_flax.config_checks` checks them."""

from collections.abc import Collection

import ml_collections

from gcn_flax.messages import use_one_of

ALL_ONCE = "all once"  # In place of a weight in `data.train_mix`: each epoch shows every example exactly once.


def get_config() -> ml_collections.ConfigDict:
  """Returns the default settings, which the recipes in `configs/` override.

  Defaults follow the paper where it gives a value. Values marked "ours" are not in the paper. The recipes come in
  two variants, the paper's and a modern one (`:modern`):

  | field | the paper's recipe | modern |
  |---|---|---|
  | batch_size | 1 | 16 |
  | model.norm | frozen (ours: batches of one leave no choice) | sync |
  | model.dtype | float32 | bfloat16 |
  | data.random_scale, data.color_jitter | False, 0 | True, 0.4 |
  | model.init | small_heads (ours) | small_heads |
  | data.rotation, vertical_flip, blur | 0, False, 0 (off) | 0, False, 0 (off) |
  | data.class_balance | 0 (off) | 0 (off) |
  | optimizer.kind | sgd | sgd |
  | optimizer.momentum | 0.99 | 0.9 |
  | optimizer.weight_decay | 0.0005 | 0.0005 |
  | optimizer.decayed | kernels (ours) | kernels |
  | optimizer.learning_rate, schedule | 0.0001 (ours), poly (ours) | 0.01, poly |
  | optimizer.encoder_lr_factor | 1 | 1 |
  | optimizer.clip_norm | 0 | 5 |
  | optimizer.ema_decay | 0 (off) | 0 (off) |
  | loss.class_weights, label_smoothing, ohem_fraction | (), 0, 1 (all off) | (), 0, 1 (all off) |
  | loss.focal_gamma, dice_weight | 0, 0 (off) | 0, 0 (off) |
  """
  config = ml_collections.ConfigDict()
  config.seed = 0  # Seed of the initial weights, the order of examples and augmentation.
  config.total_steps = 10_000  # Number of weight updates. Ours.
  config.batch_size = 16  # Examples per update, over all devices (data parallel). The paper's: 1.
  # Gradient accumulation: number of micro-batches that each batch is split into, for batches that do not fit into
  # memory. 1 = off.
  config.accumulate_steps = 1
  config.log_every_steps = 50  # Steps between two lines of training metrics.
  config.eval_every_steps = 1_000  # Steps between two evaluations on data.eval_split.
  # Early stopping: end the run after this many evaluations without a better mean IoU (or top-1 accuracy). 0 = off.
  config.early_stop_evaluations = 0
  config.checkpoint_every_steps = 1_000  # Steps between two checkpoints.
  config.keep_checkpoints = 2  # Number of recent checkpoints to keep; the best one is kept too.
  config.log_image_ids = False  # Write the image ids of every step to WORKDIR/examples.
  config.profile_at_step = 0  # Profile five steps from this one on and write the trace to WORKDIR/profile; 0 = off.
  # Weights & Biases (W&B): project that metrics and contact sheets are logged to as well. Needs pip install wandb.
  # '' = off.
  config.wandb_project = ""
  # Initial weights for fine-tuning: a workdir (its best checkpoint is used; may be gs://...) or a local
  # network.safetensors written by --mode=export. '' = none.
  config.init_from = ""

  config.data = data = ml_collections.ConfigDict()
  data.dataset = "shapes"  # Data set to evaluate on, which defines the classes; one of gcn_flax.labels.DATASETS.
  data.data_dir = "~/tensorflow_datasets"  # Where data.prepare wrote the data sets; a local path.
  data.eval_split = "validation"  # Split to evaluate on.
  # Training data: a tuple of (data set, split, weight), all with the classes of `dataset`, shuffled together. Weights
  # are relative sampling rates; or all of them are "all once", and each epoch shows every example exactly once.
  data.train_mix = (("shapes", "train", ALL_ONCE),)
  # Training crop (height, width), pixels, multiples of 32; smaller images are padded. () = chosen from the training
  # images, at most 512 x 512 (docs/TRAINING.md); the log and config.json have it. Classifiers need a size.
  data.crop_size = (512, 512)
  # Canvas of evaluation and prediction: (height, width) that every image is padded to, multiples of 32, for recipes
  # that pad training images in the same way; () = its own size, rounded up (docs/EVALUATION.md). Classifiers: the crop.
  data.eval_size = ()
  # Class-balanced sampling: share of the training images, 0 to 1, that are drawn by class instead, rare classes more
  # often (gcn_flax.input_pipeline.class_balance), from all data sets of train_mix alike. The first start reads all
  # labels. 0 = off.
  data.class_balance = 0.0
  data.random_flip = True  # Random horizontal flip. The paper's.
  data.random_crop = True  # Random crop, as in the paper on Cityscapes; if False, images must fit into crop_size.
  data.random_scale = False  # Random rescaling before the crop. The paper uses none.
  data.scales = (0.5, 2.0)  # (min, max) factor of random_scale.
  data.color_jitter = 0.0  # Max relative change of brightness, contrast and saturation; hue: 1/5 of it, turns. 0 = off.
  # Random rotation of the whole image by up to this many degrees to either side, before the crop; what lies outside of
  # it is void. 0 = off.
  data.rotation = 0.0
  data.vertical_flip = False  # Random vertical flip, for pictures without an up and a down.
  data.blur = 0.0  # Random Gaussian blur: max standard deviation, pixels; each image's is drawn from 0 to it. 0 = off.
  data.crop_area = (0.08, 1.0)  # Classifiers: (min, max) share of the image's area in a random resized crop.
  data.eval_resize = 256  # Classifiers: pixels of the shorter side before the centre crop of eval_size.
  # Replace damaged training examples by others of their data set; they are counted as `skipped` in metrics.jsonl and
  # named in the log. If False, the run stops at the first one. Evaluation never skips an image.
  data.skip_corrupt = False
  data.num_threads = 4  # Threads that decode and augment, per worker.
  data.num_workers = 0  # Processes that decode and augment; 0 = threads of the main process.

  config.eval = evaluation = ml_collections.ConfigDict()  # Evaluation, prediction and export.
  evaluation.batch_size = 8  # Images per step, over all devices.
  evaluation.num_pictures = 6  # Images on the contact sheet, and among the report's best and worst; 0 = none.
  # Sliding window: (height, width) of the tiles, pixels, multiples of 32; () = whole images. The paper's four crops of
  # a Cityscapes image are tile (1024, 1024), overlap 682.
  evaluation.tile = ()
  evaluation.overlap = 0  # Sliding window: min overlap of neighbouring tiles, pixels.
  evaluation.scales = (1.0,)  # Test-time augmentation (TTA): image scales to average over. The paper names none.
  evaluation.flip = False  # Test-time augmentation (TTA): average over the horizontal flip, too.
  # CRF post-processing: a fully connected (dense) CRF (Kraehenbuehl and Koltun, NIPS 2011) after the network. Needs
  # requirements-crf.txt. The parameters are ours, the paper gives none; --mode=search_crf tunes them.
  evaluation.crf = crf = ml_collections.ConfigDict()
  crf.iterations = 0  # Mean-field iterations, usually 10; 0 = no CRF.
  crf.smooth_weight = 3.0  # Weight of the spatial kernel.
  crf.smooth_xy = 3.0  # Spatial standard deviation of the spatial kernel, pixels.
  crf.color_weight = 5.0  # Weight of the bilateral kernel.
  crf.color_xy = 50.0  # Spatial standard deviation of the bilateral kernel, pixels.
  crf.color_rgb = 5.0  # Colour standard deviation of the bilateral kernel, in values from 0 to 255.
  crf.num_workers = 0  # Number of CRF processes; 0 = one per core.
  crf.search_images = 50  # Number of images that --mode=search_crf uses.

  config.model = model = ml_collections.ConfigDict()
  model.backbone = "resnet152"  # Encoder: resnet_tiny, resnet18, 34, 50, 101, 152, or the paper's resnet50_gcn.
  # Head: gcn, or one that Figure 4 compares it with: trivial, stack, pointwise. classifier = no decoder, one class per
  # image, to pretrain an encoder.
  model.head = "gcn"
  model.kernel_size = 15  # k of the GCN heads, odd. At stride 32, 15 spans a 512 x 512 input, 25 one of 800 x 800.
  model.stack_width = 0  # Hidden channels of the head `stack`; 0 = its number of input channels (Table 3).
  model.boundary_refine = True  # Use the Boundary Refinement (BR) blocks.
  # Random initial weights, drawn before the first step only. lecun = LeCun normal throughout; small_heads = the last
  # convolutions of each head at a tenth of it and BR as the identity, so that the first loss is near ln(number of
  # classes). Ours, the paper does not say.
  model.init = "small_heads"
  # Batch normalisation: sync = statistics of the global batch (SyncBN); frozen = running statistics.
  model.norm = "sync"
  model.dtype = "float32"  # bfloat16 = mixed precision: bfloat16 network, float32 weights and loss.
  model.remat = False  # Gradient checkpointing: recompute the encoder's blocks in the backward pass to save memory.
  # Pretrained encoder: a .safetensors or .pth file with torchvision or timm names, also of a whole segmentation network
  # (docs/WEIGHTS.md), or a workdir (its best checkpoint is used). '' = random. Read only before the first step.
  model.pretrained = ""
  # Origin of the pretrained weights: torchvision, timm or caffe. Sets the input normalisation, channel order and stride
  # placement (gcn_flax.models.pretrained.FAMILIES); stored in every checkpoint.
  model.family = "torchvision"

  config.loss = loss = ml_collections.ConfigDict()
  loss.class_weights = ()  # One weight >= 0 per class, in the order of the train ids; () = equal weights.
  loss.label_smoothing = 0.0  # Share of the target distribution that is spread over all classes.
  # Focal loss: multiply each pixel's loss by (1 - probability of its true class) ** focal_gamma, usually 2. 0 = off.
  loss.focal_gamma = 0.0
  # Add this many times the soft Dice loss of the batch, in which each class that occurs counts alike; usually 1. Class
  # weights do not change it. With accumulate_steps it is the mean of the micro-batches' Dice losses. 0 = off.
  loss.dice_weight = 0.0
  # Online hard example mining (OHEM): train on this share of the valid pixels only, the ones with the highest loss.
  loss.ohem_fraction = 1.0  # 1 = off.
  loss.ohem_threshold = 0.0  # OHEM: keep every pixel whose true class has a lower probability than this, too.

  config.optimizer = optimizer = ml_collections.ConfigDict()
  # sgd = SGD with momentum; adamw = AdamW (ours), with b1 = momentum, b2 = 0.999. AdamW needs lower rates, for instance
  # learning_rate 0.001, and a higher weight_decay, for instance 0.01.
  optimizer.kind = "sgd"
  optimizer.learning_rate = 0.01  # Peak learning rate, after the warmup. Ours.
  optimizer.momentum = 0.9  # The paper's: 0.99, with batches of one image.
  optimizer.weight_decay = 5e-4  # The paper's.
  # Parameters with weight decay: kernels; or all, that is biases and normalisation as well. Ours.
  optimizer.decayed = "kernels"
  optimizer.clip_norm = 0.0  # Max global norm of the gradient; 0 = no clipping. Ours.
  optimizer.warmup_steps = 0  # Steps of linear warmup, from 1 / (warmup_steps + 1) at step 0. Ours.
  optimizer.schedule = "poly"  # poly; or cosine: learning rate * (1 + cos(pi * step / total_steps)) / 2. Ours.
  optimizer.poly_power = 0.9  # learning rate * (1 - step / total_steps) ** poly_power. Ours.
  # The encoder's learning rate relative to the rest. For a frozen encoder, 0, set model.norm=frozen as well.
  optimizer.encoder_lr_factor = 1.0
  # Exponential moving average (EMA) of weights and statistics; evaluation, prediction and export use it. 0 = off.
  optimizer.ema_decay = 0.0

  config.mesh = ml_collections.ConfigDict()
  # Spatial partitioning: number of devices that share the rows of each training image, for crops too large for one
  # device; the batch is split over the others. Evaluation keeps each image on one device: see eval.tile. 0 = chosen,
  # and logged: on TPUs the fewest chips that hold at least 8 images together (gcn_flax.spatial), elsewhere 1.
  config.mesh.spatial = 0
  return config.lock()


def is_classifier(config: ml_collections.ConfigDict) -> bool:
  """Returns True if the network predicts one class per image instead of one per pixel."""
  return config.model.head == "classifier"


def check_argument(argument: str, choices: Collection[str]) -> None:
  """Raises ValueError if a recipe's argument, `--config=PATH:ARGUMENT`, is none of the choices."""
  if argument not in choices:
    raise ValueError(f"unknown argument. {use_one_of(argument, choices)}.")
