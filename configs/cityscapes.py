"""Cityscapes: 19 classes, the paper's two stages, or the fine labels alone.

  python -m data.prepare --dataset=cityscapes --manual_dir=DOWNLOADS --data_dir=DATA
  python -m gcn_flax.main --config=configs/cityscapes.py --config.data.data_dir=DATA --workdir=runs/cityscapes

The paper's way, and a modern one of the same stages:

  python -m data.prepare --dataset=cityscapes_coarse --manual_dir=DOWNLOADS --data_dir=DATA
  python -m gcn_flax.main --config=configs/cityscapes.py:stage1 --config.data.data_dir=DATA \
    --workdir=runs/cityscapes_stage1
  python -m gcn_flax.main --config=configs/cityscapes.py:stage2 --config.data.data_dir=DATA \
    --workdir=runs/cityscapes_stage2

| argument | trained on | starts from |
|---|---|---|
| (none) | 2,975 fine | config.model.pretrained, or random weights |
| stage1 | 19,998 coarse extra + 2,975 fine = 22,973 | config.model.pretrained; the paper: ImageNet's |
| stage2 | 2,975 fine | runs/cityscapes_stage1; another by --config.init_from |

The paper starts from ImageNet's weights: --config.model.pretrained=resnet152.safetensors (docs/WEIGHTS.md says where
from). Without, all weights are random, and the frozen normalisation of the paper's recipe has no statistics to go by.

The paper's: ResNet-152, k = 25, crops of 800 x 800, left-right flips, batches of one
image, momentum 0.99, weight decay 0.0005. Ours, because the paper is silent: learning
rates, schedule, number of steps, frozen batch normalisation. `stage1:modern` and
`stage2:modern` are for several devices: 16 images, momentum 0.9, synchronised batch
normalisation, random scale and colour, bfloat16; their workdirs are
runs/cityscapes_stage1_modern and so on. Images are scored at 1024 x 2048, whole; by
stage1 and stage2 in the paper's four crops of 1024 x 1024 (docs/EVALUATION.md has scales, flips, CRF and
submissions). On TPUs take 8 images for each chip: two v5e chips with 8 each make an update of 16 in about the time that
eight chips with 2 each need (compiler-estimated, docs/PERFORMANCE.md). Where memory is short:
--config.accumulate_steps=8 --config.eval.batch_size=1, or --config.model.remat=True. Not trained to the end by us: no
score is claimed.
"""

from gcn_flax import config as config_lib

ARGUMENTS = ("fine", "stage1", "stage2", "stage1:modern", "stage2:modern")
_FINE = (("cityscapes", "train", config_lib.ALL_ONCE),)
_MIXES = {
  "fine": _FINE,
  "stage1": (("cityscapes_coarse", "train_extra", config_lib.ALL_ONCE), *_FINE),
  "stage2": _FINE,
}
# Ours: about 20 passes in stage 1, 60 in stage 2.
_STEPS = {
  "fine": 60_000, "stage1": 460_000, "stage2": 180_000, "stage1:modern": 28_000, "stage2:modern": 11_000,
}  # fmt: skip


def get_config(argument: str = "fine"):
  """`fine`, or the paper's `stage1` and `stage2`, each also as `stage1:modern`."""
  if argument not in ARGUMENTS:
    raise ValueError(f"configs/cityscapes.py:{argument} is unknown; choose one of {', '.join(ARGUMENTS)}.")
  stage, _, variant = argument.partition(":")
  config = config_lib.get_config()
  config.data.dataset = "cityscapes"
  config.data.train_mix = _MIXES[stage]
  config.data.crop_size = (800, 800)
  config.data.eval_size = (1024, 2048)
  config.data.num_threads = 16  # A PNG of 1024 x 2048 takes 50 ms to decode.
  config.eval.batch_size = 8
  config.model.backbone = "resnet152"
  config.model.kernel_size = 25
  if stage == "stage2":
    config.init_from = f"runs/cityscapes_stage1{'_modern' if variant else ''}"
  if stage == "fine" or variant == "modern":
    _use_large_batches(config)
  else:
    _use_single_images(config)
  config.total_steps = _STEPS[argument]
  config.data.random_scale = variant == "modern"
  config.data.color_jitter = 0.4 if variant == "modern" else 0.0
  return config


def _use_single_images(config) -> None:
  config.batch_size = 1
  config.eval.batch_size = 1
  config.eval.tile, config.eval.overlap = (1024, 1024), 682
  config.eval_every_steps = config.checkpoint_every_steps = 20_000
  config.model.norm = "frozen"
  config.optimizer.momentum = 0.99
  config.optimizer.learning_rate = 1e-4
  config.optimizer.warmup_steps = 1_000


def _use_large_batches(config) -> None:
  config.batch_size = 16
  config.eval_every_steps = 2_000
  config.model.dtype = "bfloat16"
  config.optimizer.learning_rate = 0.01
  config.optimizer.clip_norm = 5.0
  config.optimizer.warmup_steps = 1_000
