"""Cityscapes, fine labels: 2,975 images for training, 500 for validation, 19 classes.

  python -m data.prepare --dataset=cityscapes --manual_dir=DIR   # leftImg8bit_trainvaltest.zip, gtFine_trainvaltest.zip
  python -m gcn_flax.main --config=configs/cityscapes.py --workdir=runs/cityscapes

Backbone, kernel size, 800 x 800 crops and weight decay are the paper's; batch
size, schedule and momentum are ours. Whole images are scored at 1024 x 2048. Where
memory is short: --config.accumulate_steps=8 --config.eval.batch_size=1. Not trained
to the end by us yet: no score is claimed.
"""

from gcn_flax import config as config_lib


def get_config():
  """The paper's network on the fine labels alone."""
  config = config_lib.get_config()
  config.total_steps = 60_000
  config.batch_size = 16
  config.eval_every_steps = 2_000

  config.data.dataset = "cityscapes"
  config.data.crop_size = (800, 800)
  config.data.eval_size = (1024, 2048)
  config.data.num_threads = 16  # A PNG of 1024 x 2048 takes 50 ms to decode.
  config.eval.batch_size = 8

  config.model.backbone = "resnet152"
  config.model.kernel_size = 25
  config.model.dtype = "bfloat16"

  config.optimizer.learning_rate = 0.01
  config.optimizer.clip_norm = 5.0
  config.optimizer.warmup_steps = 1_000
  return config
