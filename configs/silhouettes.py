"""Pretraining an encoder in half an hour on a CPU: generated pictures of 64 x 64, 12 classes told by their outline.

  python -m data.silhouettes --output=runs/silhouettes
  python -m data.prepare --dataset=class_folder --manual_dir=runs/silhouettes --data_dir=runs/data
  python -m gcn_flax.main --config=configs/silhouettes.py:resnet50_gcn --workdir=runs/silhouettes_resnet50_gcn

Goes the way of configs/imagenet.py on pictures that need no download. `resnet_tiny`, `resnet50` or
`resnet50_gcn`. The recipe is ours. Scores: docs/RESULTS.md.
"""

from gcn_flax import config as config_lib

ARGUMENTS = ("resnet_tiny", "resnet50", "resnet50_gcn")


def get_config(backbone: str = "resnet_tiny"):
  """One of the encoders."""
  if backbone not in ARGUMENTS:
    raise ValueError(f"configs/silhouettes.py:{backbone} is unknown; choose one of {', '.join(ARGUMENTS)}.")
  config = config_lib.get_config()
  config.total_steps = 1_125  # One and a half times through 24,000 pictures.
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
  config.data.crop_area = (0.6, 1.0)  # Smaller ones would cut the outlines.
  config.data.num_threads = 2

  config.model.backbone = backbone
  config.model.head = "classifier"

  config.loss.label_smoothing = 0.1

  # The last layer sees 2,048 features that all grow together: at the encoder's rate its scores would swing.
  config.optimizer.learning_rate = 0.004
  config.optimizer.encoder_lr_factor = 10.0
  config.optimizer.schedule = "cosine"
  config.optimizer.warmup_steps = 100
  config.optimizer.weight_decay = 1e-4
  config.optimizer.clip_norm = 5.0
  return config
