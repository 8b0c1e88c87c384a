"""Your own images and masks, from a folder. The recipe is ours, a start to change from.

  python -m data.prepare --dataset=folder --manual_dir=MY_DATA --data_dir=DATA
  python -m data.browse --dataset=folder --split=train --data_dir=DATA
  python -m gcn_flax.main --config=configs/folder.py --config.data.data_dir=DATA --workdir=runs/folder

MY_DATA holds images/{train,val}/, masks/{train,val}/ and classes.txt, see data/README.md.
Arguments name the encoder, `resnet50` unless told: `configs/folder.py:resnet_tiny` trains on a
laptop's CPU. Crops are 512 x 512 after a random scale; whole images are scored, so
config.data.eval_size must hold the largest. From ImageNet weights: --config.model.pretrained=PATH, see
docs/WEIGHTS.md.
"""

from gcn_flax import config as config_lib

ARGUMENTS = ("resnet_tiny", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet50_gcn")


def get_config(backbone: str = "resnet50"):
  """One of the encoders."""
  if backbone not in ARGUMENTS:
    raise ValueError(f"configs/folder.py:{backbone} is unknown; choose one of {', '.join(ARGUMENTS)}.")
  config = config_lib.get_config()
  config.total_steps = 10_000
  config.batch_size = 8
  config.eval_every_steps = config.checkpoint_every_steps = 1_000

  config.data.dataset = "folder"
  config.data.train_mix = (("folder", "train", config_lib.ALL_ONCE),)
  config.data.crop_size = (512, 512)
  config.data.eval_size = (1024, 1024)
  config.data.random_scale = True
  config.data.color_jitter = 0.4

  config.model.backbone = backbone
  config.model.kernel_size = 15

  config.optimizer.learning_rate = 0.02
  config.optimizer.clip_norm = 5.0
  config.optimizer.warmup_steps = 500
  return config
