"""CamVid: 367 street photos of 360 x 480 pixels, 11 classes.

  python -m data.prepare --dataset=camvid --manual_dir=CAMVID --data_dir=DATA
  python -m gcn_flax.main --config=configs/camvid.py --config.data.data_dir=DATA --workdir=runs/camvid

The default encoder, resnet_tiny, trains from random weights in a quarter of an hour on 2 CPU cores, to a mean IoU
(mIoU) of 59.3 % (docs/RESULTS.md, which also has what was tried). `configs/camvid.py:resnet50` and `:resnet50_gcn` need
a GPU and pay off with ImageNet weights: --config.model.pretrained=PATH (docs/WEIGHTS.md). The recipe is ours.
"""

from gcn_flax import config as config_lib

ARGUMENTS = ("resnet_tiny", "resnet18", "resnet50", "resnet50_gcn")
_ADAMW_RATES = {"resnet_tiny": 0.002, "resnet18": 0.001}  # These start from random weights.
# Square roots of median frequency balancing (Eigen and Fergus, ICCV 2015) over the training photos, in the order of the
# classes: sky, building, pole, road, pavement, tree, sign, fence, car, pedestrian, bicyclist.
CLASS_WEIGHTS = (0.53, 0.45, 2.19, 0.39, 1.0, 0.65, 1.96, 1.4, 0.89, 2.53, 2.98)


def get_config(backbone: str = "resnet_tiny"):
  """Returns the recipe with the given encoder: `resnet_tiny`, or `resnet18`, `resnet50`, `resnet50_gcn` for a GPU."""
  config_lib.check_argument(backbone, ARGUMENTS)
  config = config_lib.get_config()
  config.total_steps = 2_000
  config.batch_size = 8
  config.eval_every_steps = 200
  config.checkpoint_every_steps = 200

  config.data.dataset = "camvid"
  config.data.train_mix = (("camvid", "train", config_lib.ALL_ONCE),)
  config.data.crop_size = (256, 256)
  config.data.random_scale = True

  config.model.backbone = backbone
  config.model.kernel_size = 15

  config.optimizer.clip_norm = 5.0
  config.optimizer.warmup_steps = 100
  if backbone in _ADAMW_RATES:
    config.data.scales = (0.75, 1.5)
    config.loss.class_weights = CLASS_WEIGHTS
    config.optimizer.kind = "adamw"
    config.optimizer.learning_rate = _ADAMW_RATES[backbone]
    config.optimizer.weight_decay = 0.01
  else:
    config.optimizer.learning_rate = 0.05
  return config
