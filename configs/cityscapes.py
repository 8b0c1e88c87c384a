"""Cityscapes, 19 classes: a modern recipe on the fine labels, and the paper's two stages.

  python -m data.prepare --dataset=cityscapes --manual_dir=DOWNLOADS --data_dir=DATA
  python -m gcn_flax.main --config=configs/cityscapes.py --config.data.data_dir=DATA --workdir=runs/cityscapes

The paper's two stages, each also in a modern variant:

  python -m data.prepare --dataset=cityscapes_coarse --manual_dir=DOWNLOADS --data_dir=DATA
  python -m gcn_flax.main --config=configs/cityscapes.py:stage1 --config.data.data_dir=DATA \
    --workdir=runs/cityscapes_stage1
  python -m gcn_flax.main --config=configs/cityscapes.py:stage2 --config.data.data_dir=DATA \
    --workdir=runs/cityscapes_stage2

| argument | training images | initial weights |
|---|---|---|
| (none) | 2,975 fine | config.model.pretrained, or random |
| stage1 | 19,998 coarse extra + 2,975 fine = 22,973 | config.model.pretrained; the paper's: ImageNet |
| stage2 | 2,975 fine | runs/cityscapes_stage1, or --config.init_from |

The paper starts from ImageNet weights: --config.model.pretrained=resnet152.safetensors (docs/WEIGHTS.md tells where to
get them). Without them all weights are random, and the frozen batch normalisation of the paper's recipe has no
statistics to use.

From the paper: ResNet-152, k = 25, crops of 800 x 800, horizontal flips, batches of one image, momentum 0.99, weight
decay 0.0005. Ours, because the paper does not say: learning rates, schedule, number of steps, frozen batch
normalisation. The variants `stage1:modern` and `stage2:modern` are for several devices: batches of 16, momentum 0.9,
SyncBN, random scale and colour jitter, mixed precision (bfloat16). Their workdirs are runs/cityscapes_stage1_modern and
runs/cityscapes_stage2_modern.

Images are evaluated whole, at 1024 x 2048; in stage1 and stage2 with the paper's sliding window, four crops of
1024 x 1024. docs/EVALUATION.md covers test-time augmentation, CRF post-processing and submissions. On TPUs, use 8
images per chip: two v5e chips with 8 images each take about as long for a batch of 16 as eight chips with 2 each
(compiler estimate, docs/PERFORMANCE.md). If memory is short, use gradient accumulation and evaluate single images,
--config.accumulate_steps=8 --config.eval.batch_size=1, or gradient checkpointing, --config.model.remat=True. We have
not trained these recipes to the end, so no result is claimed.
"""

from gcn_flax import config as config_lib

ARGUMENTS = ("fine", "stage1", "stage2", "stage1:modern", "stage2:modern")
_FINE = (("cityscapes", "train", config_lib.ALL_ONCE),)
_MIXES = {
  "fine": _FINE,
  "stage1": (("cityscapes_coarse", "train_extra", config_lib.ALL_ONCE), *_FINE),
  "stage2": _FINE,
}
# Ours: about 20 epochs in stage 1, 60 in stage 2.
_STEPS = {
  "fine": 60_000, "stage1": 460_000, "stage2": 180_000, "stage1:modern": 28_000, "stage2:modern": 11_000,
}  # fmt: skip


def get_config(argument: str = "fine"):
  """Returns the recipe for `fine`, `stage1`, `stage2`, `stage1:modern` or `stage2:modern`."""
  config_lib.check_argument(argument, ARGUMENTS)
  stage, _, variant = argument.partition(":")
  config = config_lib.get_config()
  config.data.dataset = "cityscapes"
  config.data.train_mix = _MIXES[stage]
  config.data.crop_size = (800, 800)
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
