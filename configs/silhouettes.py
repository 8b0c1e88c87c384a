"""Pretraining on a CPU: an encoder on generated images of 64 x 64 pixels, 12 classes that differ in their outline.

  python -m data.silhouettes --output=runs/silhouettes
  python -m data.prepare --dataset=class_folder --manual_dir=runs/silhouettes --data_dir=runs/data
  python -m gcn_flax.main --config=configs/silhouettes.py:resnet50_gcn --workdir=runs/silhouettes_resnet50_gcn

Does the same as configs/imagenet.py without a download. Arguments: `resnet_tiny`, `resnet50`, `resnet50_gcn`. On 2 CPU
cores, resnet50_gcn takes 27 minutes to a top-1 accuracy of 84.1 %, resnet50 39 minutes to 87.8 % (docs/RESULTS.md). The
recipe is ours.
"""

from gcn_flax import config as config_lib

ARGUMENTS = ("resnet_tiny", "resnet50", "resnet50_gcn")


def get_config(backbone: str = "resnet_tiny"):
  """Returns the recipe with the given encoder."""
  config_lib.check_argument(backbone, ARGUMENTS)
  config = config_lib.get_config()
  config.total_steps = 1_125  # 1.5 epochs of 24,000 images.
  config.batch_size = 32
  config.log_every_steps = 25
  config.eval_every_steps = 225
  config.checkpoint_every_steps = 225
  config.eval.batch_size = 80
  config.eval.num_pictures = 16

  config.data.dataset = "class_folder"
  config.data.train_mix = (("class_folder", "train", config_lib.ALL_ONCE),)
  config.data.data_dir = "runs/data"
  config.data.crop_size = (64, 64)
  config.data.eval_size = (64, 64)
  config.data.eval_resize = 64
  config.data.crop_area = (0.6, 1.0)  # Smaller crops would cut off the outlines.
  config.data.num_threads = 2

  config.model.backbone = backbone
  config.model.head = "classifier"

  config.loss.label_smoothing = 0.1

  # The last layer has 2,048 inputs that all grow together: at the encoder's rate its logits would oscillate.
  config.optimizer.learning_rate = 0.004
  config.optimizer.encoder_lr_factor = 10.0
  config.optimizer.schedule = "cosine"
  config.optimizer.warmup_steps = 100
  config.optimizer.weight_decay = 1e-4
  config.optimizer.clip_norm = 5.0
  return config
