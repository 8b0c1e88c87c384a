"""Quick start: a small GCN on generated scenes that only a large kernel can segment.

  python -m data.prepare --dataset=shapes --data_dir=runs/data
  python -m gcn_flax.main --config=configs/quickstart.py --workdir=runs/quickstart

Trains in about a minute on 2 CPU cores, to a mean IoU (mIoU) above 99 % with k = 15. The baseline of the paper's
Table 1, `configs/quickstart.py:pointwise`, has 1 x 1 heads, is otherwise the same, and reaches about 73 %
(docs/RESULTS.md). Both are without Boundary Refinement, as in that table. The recipe is ours.
"""

from gcn_flax import config as config_lib

ARGUMENTS = ("gcn", "pointwise")


def get_config(variant: str = "gcn"):
  """Returns the recipe with `gcn` heads (k = 15) or `pointwise` ones (the 1 x 1 baseline)."""
  config_lib.check_argument(variant, ARGUMENTS)
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
  config.data.random_crop = False
  config.data.num_threads = 2

  config.model.backbone = "resnet_tiny"
  config.model.head = variant
  config.model.kernel_size = 15
  config.model.boundary_refine = False

  config.optimizer.kind = "adamw"
  config.optimizer.learning_rate = 0.002
  config.optimizer.weight_decay = 0.01
  config.optimizer.clip_norm = 1.0
  config.optimizer.warmup_steps = 50
  return config
