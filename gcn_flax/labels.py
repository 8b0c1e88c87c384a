"""Label sets of all data sets: class names, palettes, the ignore label, published split sizes.

A new data set needs a label set in `LABELS`, or its name in `DATASETS` if its classes are read from the prepared data,
and a builder in `data/NAME/NAME_dataset_builder.py`.
"""

import dataclasses

import numpy as np

from gcn_flax.messages import use_one_of

IGNORE = 255  # Label of void pixels, which count neither in training nor in evaluation.
NO_CLASS = -1  # The same for whole images, which may have a class 255.


@dataclasses.dataclass(frozen=True)
class LabelSet:
  """The classes of a data set.

  Attributes:
    classes: names, in the order of the train ids 0, 1, ...
    palette: RGB of each class, 0 to 255.
    split_sizes: published number of examples of each split; empty if unpublished.
    raw_to_train: stored label value -> train id, uint8 `[256]`.
    raw_values: values allowed in stored labels.
    categories: category of each class; () without categories.
    instance_sizes: class -> mean size of an instance, pixels, for classes with instance metrics.

  If there is one class per image, `palette`, `raw_to_train` and `raw_values` are empty.
  """

  classes: tuple[str, ...]
  palette: tuple[tuple[int, int, int], ...]
  split_sizes: dict[str, int]
  raw_to_train: np.ndarray
  raw_values: frozenset[int]
  categories: tuple[str, ...] = ()
  instance_sizes: dict[str, float] = dataclasses.field(default_factory=dict)

  @property
  def num_classes(self) -> int:
    """Number of classes."""
    return len(self.classes)


def plain_labels(
  classes: tuple[str, ...], palette: tuple[tuple[int, int, int], ...], split_sizes: dict[str, int]
) -> LabelSet:
  """Returns a label set whose labels are stored as train ids, with 255 for void."""
  table = np.full(256, IGNORE, np.uint8)
  table[: len(classes)] = np.arange(len(classes))
  return LabelSet(classes, palette, split_sizes, table, frozenset({*range(len(classes)), IGNORE}))


def image_labels(classes: tuple[str, ...], split_sizes: dict[str, int]) -> LabelSet:
  """Returns the label set of a data set with one class per image."""
  return LabelSet(classes, (), split_sizes, np.zeros(0, np.uint8), frozenset())


def voc_palette(num_classes: int) -> tuple[tuple[int, int, int], ...]:
  """Returns VOC's colour map: bit i of a class is bit 7 - i // 3 of channel i % 3 (VOC devkit, VOClabelcolormap)."""
  palette = np.zeros((num_classes, 3), int)
  for bit in range(8):
    palette[:, bit % 3] |= (np.arange(num_classes) >> bit & 1) << (7 - bit // 3)
  return tuple(tuple(colour) for colour in palette.tolist())


SHAPES = plain_labels(
  classes=("background", "red", "green", "blue", "yellow"),
  palette=((40, 40, 40), (210, 60, 50), (60, 170, 70), (60, 90, 215), (215, 190, 50)),
  split_sizes={"train": 3000, "validation": 300},
)

# CamVid (Brostow et al., 2009) with the 11 classes and the split of SegNet (Badrinarayanan et al., 2017).
CAMVID = plain_labels(
  classes=(
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
  ),  # fmt: skip
  palette=(
    (128, 128, 128),
    (128, 0, 0),
    (192, 192, 128),
    (128, 64, 128),
    (0, 0, 192),
    (128, 128, 0),
    (192, 128, 128),
    (64, 64, 128),
    (64, 0, 128),
    (64, 64, 0),
    (0, 128, 192),
  ),  # fmt: skip
  split_sizes={"train": 367, "validation": 101},
)

# (name, raw id, category, colour) of the 19 evaluated classes, from helpers/labels.py of cityscapesScripts; all other
# raw ids are ignored.
_CITYSCAPES = (
  ("road", 7, "flat", (128, 64, 128)),
  ("sidewalk", 8, "flat", (244, 35, 232)),
  ("building", 11, "construction", (70, 70, 70)),
  ("wall", 12, "construction", (102, 102, 156)),
  ("fence", 13, "construction", (190, 153, 153)),
  ("pole", 17, "object", (153, 153, 153)),
  ("traffic light", 19, "object", (250, 170, 30)),
  ("traffic sign", 20, "object", (220, 220, 0)),
  ("vegetation", 21, "nature", (107, 142, 35)),
  ("terrain", 22, "nature", (152, 251, 152)),
  ("sky", 23, "sky", (70, 130, 180)),
  ("person", 24, "human", (220, 20, 60)),
  ("rider", 25, "human", (255, 0, 0)),
  ("car", 26, "vehicle", (0, 0, 142)),
  ("truck", 27, "vehicle", (0, 0, 70)),
  ("bus", 28, "vehicle", (0, 60, 100)),
  ("train", 31, "vehicle", (0, 80, 100)),
  ("motorcycle", 32, "vehicle", (0, 0, 230)),
  ("bicycle", 33, "vehicle", (119, 11, 32)),
)
# Constants of the official evalPixelLevelSemanticLabeling.py (avgClassSize).
_CITYSCAPES_INSTANCE_SIZES = {
  "person": 3462.4756337644, "rider": 3930.4788056518, "car": 12794.0202738185, "truck": 27855.1264367816,
  "bus": 35732.1511111111, "train": 67583.7075812274, "motorcycle": 6298.7200839748, "bicycle": 4672.3249222261,
}  # fmt: skip


def _cityscapes_table() -> np.ndarray:
  table = np.full(256, IGNORE, np.uint8)
  for train_id, (_, raw_id, *_) in enumerate(_CITYSCAPES):
    table[raw_id] = train_id
  return table


CITYSCAPES = LabelSet(
  classes=tuple(name for name, *_ in _CITYSCAPES),
  palette=tuple(colour for *_, colour in _CITYSCAPES),
  split_sizes={"train": 2975, "validation": 500, "test": 1525},
  raw_to_train=_cityscapes_table(),
  raw_values=frozenset(range(34)),
  categories=tuple(category for _, _, category, _ in _CITYSCAPES),
  instance_sizes=_CITYSCAPES_INSTANCE_SIZES,
)

# Coarse labels of the fine images are left out, so that nobody evaluates on them by mistake.
CITYSCAPES_COARSE = dataclasses.replace(CITYSCAPES, split_sizes={"train_extra": 19_998})

_VOC_CLASSES = (
  "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
  "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

# train_aug is VOC's train plus SBD's train and val, without VOC's val: the 10,582 images of the paper.
VOC = plain_labels(
  classes=_VOC_CLASSES,
  palette=voc_palette(21),
  split_sizes={"train": 1464, "validation": 1449, "trainval": 2913, "train_aug": 10_582, "test": 1456},
)

# The number of COCO images with a class of VOC is unpublished; data/coco_voc checks the number of all images.
COCO_VOC = dataclasses.replace(VOC, split_sizes={})

LABELS = {
  "shapes": SHAPES,
  "camvid": CAMVID,
  "cityscapes": CITYSCAPES,
  "cityscapes_coarse": CITYSCAPES_COARSE,
  "voc_segmentation": VOC,
  "coco_voc": COCO_VOC,
}
# Data sets with one class per image. Their classes are stored in the prepared data set.
CLASSIFICATION = ("imagenet2012", "class_folder")
IMAGENET_SIZES = {"train": 1_281_167, "validation": 50_000}
IMAGENET_CLASSES = 1_000
# `folder` and `class_folder` are the user's own images.
DATASETS = (*LABELS, "folder", *CLASSIFICATION)


def check_dataset(dataset: str) -> None:
  """Raises ValueError for an unknown data set."""
  if dataset not in DATASETS:
    raise ValueError(f"data set {dataset!r}: unknown. {use_one_of(dataset, DATASETS)}.")


def differences(found: dict[str, int], published: dict[str, int]) -> list[str]:
  """Lists the counts that differ from the published ones, each as "train 8 instead of 1464"."""
  return [
    f"{name} {found.get(name, 0)} instead of {size}" for name, size in published.items() if found.get(name, 0) != size
  ]


def label_set_of(dataset: str, classes: tuple[str, ...], palette: tuple[tuple[int, int, int], ...] = ()) -> LabelSet:
  """Returns the label set of a data set; `classes` and `palette` count where they are the user's own.

  Without a palette, classes of pixels get VOC's colours.
  """
  if dataset in LABELS:
    return LABELS[dataset]
  if dataset in CLASSIFICATION:
    return image_labels(classes, {})
  return plain_labels(classes, palette or voc_palette(len(classes)), {})
