"""Your own images and masks, from a folder.

  python -m data.prepare --dataset=folder --manual_dir=MY_DATA --data_dir=DATA
  python -m data.browse --dataset=folder --split=train --data_dir=DATA
  python -m gcn_flax.main --config=configs/folder.py --config.data.data_dir=DATA --workdir=runs/folder

MY_DATA contains images/{train,val}/, masks/{train,val}/ and classes.txt, see data/README.md. The argument names the
encoder: the default, `resnet50`, needs a GPU, `configs/folder.py:resnet_tiny` trains on a CPU. To start from ImageNet
weights, add --config.model.pretrained=PATH (docs/WEIGHTS.md). Training uses crops after a random scale, of a size
chosen from your images: at most 512 x 512, and no larger than most of them. Whole images are evaluated, each at its own
size. Encoders up to `resnet34` train with AdamW, which is far ahead of SGD from random weights (docs/RESULTS.md); with
ImageNet weights, let the encoder follow more slowly: --config.optimizer.encoder_lr_factor=0.1. The recipe is ours, a
starting point for your own.
"""

from gcn_flax import config as config_lib

_SMALL = ("resnet_tiny", "resnet18", "resnet34")
ARGUMENTS = (*_SMALL, "resnet50", "resnet101", "resnet152", "resnet50_gcn")


def get_config(backbone: str = "resnet50"):
  """Returns the recipe with the given encoder."""
  config_lib.check_argument(backbone, ARGUMENTS)
  config = config_lib.get_config()
  config.total_steps = 10_000
  config.batch_size = 8
  config.eval_every_steps = config.checkpoint_every_steps = 1_000

  config.data.dataset = "folder"
  config.data.train_mix = (("folder", "train", config_lib.ALL_ONCE),)
  config.data.crop_size = ()
  config.data.random_scale = True
  config.data.color_jitter = 0.4

  config.model.backbone = backbone
  config.model.kernel_size = 15

  config.optimizer.clip_norm = 5.0
  config.optimizer.warmup_steps = 500
  if backbone in _SMALL:
    config.optimizer.kind = "adamw"
    config.optimizer.learning_rate = 0.002
    config.optimizer.weight_decay = 0.01
  else:
    config.optimizer.learning_rate = 0.02
  return config
