"""Large kernels against none, in minutes on a laptop.

  python -m data.prepare --dataset=shapes --data_dir=runs/data
  python -m gcn_flax.main --config=configs/quickstart.py --workdir=runs/quickstart

`configs/quickstart.py:pointwise` is the paper's baseline, a 1 x 1 convolution for
each head, all else equal: as in the paper's Table 1, both without boundary
refinement. The recipe is ours.
"""

from gcn_flax import config as config_lib

ARGUMENTS = ("gcn", "pointwise")


def get_config(variant: str = "gcn"):
  """`gcn` (k = 15) or `pointwise` (the 1 x 1 baseline)."""
  if variant not in ARGUMENTS:
    raise ValueError(f"configs/quickstart.py:{variant} is unknown; choose one of {', '.join(ARGUMENTS)}.")
  config = config_lib.get_config()
  config.total_steps = 600
  config.batch_size = 4
  config.log_every_steps = 50
  config.eval_every_steps = 600
  config.checkpoint_every_steps = 300

  config.data.dataset = "shapes"
  config.data.train_mix = (("shapes", "train", config_lib.ALL_ONCE),)
  config.data.data_dir = "runs/data"
  config.data.crop_size = (256, 256)
  config.data.eval_size = (256, 256)
  config.data.random_crop = False
  config.data.num_threads = 2

  config.model.backbone = "resnet_tiny"
  config.model.head = variant
  config.model.kernel_size = 15
  config.model.boundary_refine = False

  config.optimizer.learning_rate = 0.05
  config.optimizer.clip_norm = 1.0
  config.optimizer.warmup_steps = 50
  return config
