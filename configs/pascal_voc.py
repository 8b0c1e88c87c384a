"""PASCAL VOC 2012, 20 classes and background: the paper's ablations and its three stages.

  python -m data.prepare --dataset=voc_segmentation --manual_dir=DOWNLOADS --data_dir=DATA
  python -m gcn_flax.main --config=configs/pascal_voc.py:ablation --config.data.data_dir=DATA \
    --workdir=runs/pascal_voc_ablation

  python -m data.prepare --dataset=coco_voc --manual_dir=DOWNLOADS --data_dir=DATA
  python -m gcn_flax.main --config=configs/pascal_voc.py:stage1 --config.data.data_dir=DATA \
    --workdir=runs/pascal_voc_stage1      # then stage2, then stage3

| argument | training images | padded to | initial weights |
|---|---|---|---|
| ablation | VOC + SBD, 10,582 | 512 x 512 | config.model.pretrained; the paper's: ImageNet |
| stage1 | COCO + VOC + SBD, 109,892 in the paper | 640 x 640 | config.model.pretrained; the paper's: ImageNet |
| stage2 | VOC + SBD, 10,582 | 512 x 512 | runs/pascal_voc_stage1, or --config.init_from |
| stage3 | VOC, 1,464 | 512 x 512 | runs/pascal_voc_stage2, or --config.init_from |

The paper starts from ImageNet weights: --config.model.pretrained=resnet152.safetensors (docs/WEIGHTS.md tells where to
get them). Without them all weights are random, and the frozen batch normalisation of the paper's recipe has no
statistics to use.

From the paper: ResNet-152, k = 15, padding and horizontal flips, batches of one image, momentum 0.99, weight decay
0.0005. Ours, because the paper does not say: learning rates, schedule, number of steps, frozen batch normalisation.
Each argument has a `:modern` variant for several devices, such as `stage1:modern`: batches of 16, crops of 512 x 512,
momentum 0.9, SyncBN, random scale and colour jitter, mixed precision (bfloat16). Its workdirs are
runs/pascal_voc_stage1_modern and so on.

Evaluation uses VOC's 1,449 validation images. docs/EVALUATION.md covers test-time augmentation, CRF post-processing
and submissions. We have not trained these recipes to the end, so no result is claimed.
"""

from gcn_flax import config as config_lib

STAGES = ("ablation", "stage1", "stage2", "stage3")
ARGUMENTS = (*STAGES, *(f"{stage}:modern" for stage in STAGES))
_AUGMENTED = (("voc_segmentation", "train_aug", config_lib.ALL_ONCE),)
# COCO's training set alone is too small for the paper's 109,892 images, see data/README.md.
_COCO = tuple(("coco_voc", split, config_lib.ALL_ONCE) for split in ("train", "validation"))
_MIXES = {
  "ablation": _AUGMENTED,
  "stage1": (*_COCO, *_AUGMENTED),
  "stage2": _AUGMENTED,
  "stage3": (("voc_segmentation", "train", config_lib.ALL_ONCE),),
}
# Ours: about 30 epochs for the ablations; 8, 20 and 50 in the stages.
_STEPS = {
  "ablation": 320_000, "stage1": 880_000, "stage2": 210_000, "stage3": 73_000,
  "ablation:modern": 20_000, "stage1:modern": 55_000, "stage2:modern": 13_000, "stage3:modern": 4_500,
}  # fmt: skip
_PREVIOUS = {"stage2": "stage1", "stage3": "stage2"}


def get_config(argument: str = "ablation"):
  """Returns the recipe for `ablation`, `stage1`, `stage2` or `stage3`, each also with `:modern`."""
  config_lib.check_argument(argument, ARGUMENTS)
  stage, _, variant = argument.partition(":")
  config = config_lib.get_config()
  config.data.dataset = "voc_segmentation"
  config.data.train_mix = _MIXES[stage]
  config.data.crop_size = (640, 640) if stage == "stage1" else (512, 512)
  config.data.eval_size = (512, 512)  # Pads as training does, in all but stage1.
  config.model.backbone = "resnet152"
  config.model.kernel_size = 15
  if stage in _PREVIOUS:
    config.init_from = f"runs/pascal_voc_{_PREVIOUS[stage]}{'_modern' if variant else ''}"
  if variant == "modern":
    _use_large_batches(config)
  else:
    _use_single_images(config)
  config.total_steps = _STEPS[argument]
  return config


def _use_single_images(config) -> None:
  config.batch_size = 1
  config.eval_every_steps = config.checkpoint_every_steps = 20_000
  config.data.random_crop = False
  config.model.norm = "frozen"
  config.optimizer.momentum = 0.99
  config.optimizer.learning_rate = 1e-4
  config.optimizer.warmup_steps = 1_000


def _use_large_batches(config) -> None:
  config.batch_size = 16
  config.eval.batch_size = 16
  config.eval_every_steps = config.checkpoint_every_steps = 2_000
  config.data.crop_size = (512, 512)
  config.data.random_scale = True
  config.data.color_jitter = 0.4
  config.model.dtype = "bfloat16"
  config.optimizer.learning_rate = 0.01
  config.optimizer.clip_norm = 5.0
  config.optimizer.warmup_steps = 1_000
