"""Pretraining on ImageNet: ResNet-50, the paper's ResNet50-GCN or another encoder as a classifier of 1,000 classes.

  python -m data.prepare --dataset=imagenet2012 --manual_dir=DOWNLOADS --data_dir=DATA
  python -m gcn_flax.main --config=configs/imagenet.py:resnet50_gcn --config.data.data_dir=DATA \
    --workdir=runs/imagenet_resnet50_gcn

Its best checkpoint initialises the encoder of a segmentation network:

  python -m gcn_flax.main --config=configs/cityscapes.py --config.data.data_dir=DATA --workdir=runs/cityscapes \
    --config.model.backbone=resnet50_gcn --config.model.pretrained=runs/imagenet_resnet50_gcn

Weights from elsewhere are evaluated without training:

  python -m gcn_flax.main --config=configs/imagenet.py:resnet50 --config.data.data_dir=DATA \
    --workdir=runs/imagenet_check --config.model.pretrained=resnet50.safetensors --config.model.dtype=float32 \
    --mode=eval

`configs/imagenet.py:resnet50:class_folder` reads your own images from `<split>/<class>/`, see data/README.md; adapt
config.total_steps, config.eval_every_steps and config.optimizer.warmup_steps to their number.

The standard recipe (Goyal et al., 2017; He et al., CVPR 2019): 90 epochs in batches of 1,024, random resized crops of
224 x 224, flips, label smoothing 0.1, learning rate 0.4 with 5 epochs of warmup and cosine decay, momentum 0.9, weight
decay 0.0001 on kernels, mixed precision (bfloat16). Top-1 and top-5 accuracy are measured on the 224 x 224 centre crop
at a shorter side of 256. For TPU pods or 8 GPUs. We have not trained it to the end, so no result is claimed. The
paper's Table 6 has a top-5 error of 7.7 % for ResNet-50 and 7.9 % for ResNet50-GCN.
"""

from gcn_flax import config as config_lib

BACKBONES = ("resnet50", "resnet50_gcn", "resnet18", "resnet34", "resnet101", "resnet152")
DATASETS = ("imagenet2012", "class_folder")
ARGUMENTS = (*BACKBONES, *(f"{backbone}:{dataset}" for backbone in BACKBONES for dataset in DATASETS))
_STEPS_PER_EPOCH = 1_252  # 1,281,167 images in batches of 1,024, rounded up.


def get_config(argument: str = "resnet50"):
  """Returns the recipe for `ENCODER` on ImageNet or `ENCODER:class_folder` on your own images."""
  config_lib.check_argument(argument, ARGUMENTS)
  backbone, _, dataset = argument.partition(":")
  dataset = dataset or DATASETS[0]
  config = config_lib.get_config()
  config.total_steps = 90 * _STEPS_PER_EPOCH
  config.batch_size = 1_024
  config.log_every_steps = 100
  config.eval_every_steps = 5 * _STEPS_PER_EPOCH
  config.checkpoint_every_steps = _STEPS_PER_EPOCH
  config.eval.batch_size = 1_024

  config.data.dataset = dataset
  config.data.train_mix = ((dataset, "train", config_lib.ALL_ONCE),)
  config.data.crop_size = (224, 224)
  config.data.eval_size = (224, 224)
  config.data.eval_resize = 256
  config.data.num_threads = 32

  config.model.backbone = backbone
  config.model.head = "classifier"
  config.model.dtype = "bfloat16"

  config.loss.label_smoothing = 0.1

  config.optimizer.learning_rate = 0.4
  config.optimizer.schedule = "cosine"
  config.optimizer.warmup_steps = 5 * _STEPS_PER_EPOCH
  config.optimizer.weight_decay = 1e-4
  return config
