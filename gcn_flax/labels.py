"""What the pixel values of every data set mean: class names, colours, the ignore label, split sizes."""

import dataclasses

import numpy as np

IGNORE = 255  # Void: neither trained on nor scored.


@dataclasses.dataclass(frozen=True)
class LabelSet:
  """The classes of a data set.

  Attributes:
    classes: names, in the order of the train ids 0, 1, ...
    palette: RGB of each class, 0 to 255.
    split_sizes: published number of examples of each split.
    raw_to_train: uint8 `[256]`, from stored label values to train ids.
  """

  classes: tuple[str, ...]
  palette: tuple[tuple[int, int, int], ...]
  split_sizes: dict[str, int]
  raw_to_train: np.ndarray

  @property
  def num_classes(self) -> int:
    return len(self.classes)


def identity_table(num_classes: int) -> np.ndarray:
  """The table (uint8 `[256]`) of stored values that are train ids already; all others are ignored."""
  table = np.full(256, IGNORE, np.uint8)
  table[:num_classes] = np.arange(num_classes)
  return table


SHAPES = LabelSet(
  classes=("background", "red", "green", "blue", "yellow"),
  palette=((40, 40, 40), (210, 60, 50), (60, 170, 70), (60, 90, 215), (215, 190, 50)),
  split_sizes={"train": 3000, "validation": 300},
  raw_to_train=identity_table(5),
)

# SegNet's 11 classes and split (Badrinarayanan et al., 2017) of CamVid (Brostow et al., 2009).
CAMVID = LabelSet(
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
  raw_to_train=identity_table(11),
)

# Name, raw id and colour of the 19 evaluated classes, from cityscapesScripts' helpers/labels.py;
# every other raw id is ignored.
_CITYSCAPES = (
  ("road", 7, (128, 64, 128)),
  ("sidewalk", 8, (244, 35, 232)),
  ("building", 11, (70, 70, 70)),
  ("wall", 12, (102, 102, 156)),
  ("fence", 13, (190, 153, 153)),
  ("pole", 17, (153, 153, 153)),
  ("traffic light", 19, (250, 170, 30)),
  ("traffic sign", 20, (220, 220, 0)),
  ("vegetation", 21, (107, 142, 35)),
  ("terrain", 22, (152, 251, 152)),
  ("sky", 23, (70, 130, 180)),
  ("person", 24, (220, 20, 60)),
  ("rider", 25, (255, 0, 0)),
  ("car", 26, (0, 0, 142)),
  ("truck", 27, (0, 0, 70)),
  ("bus", 28, (0, 60, 100)),
  ("train", 31, (0, 80, 100)),
  ("motorcycle", 32, (0, 0, 230)),
  ("bicycle", 33, (119, 11, 32)),
)


def _cityscapes_table() -> np.ndarray:
  table = np.full(256, IGNORE, np.uint8)
  for train_id, (_, raw_id, _) in enumerate(_CITYSCAPES):
    table[raw_id] = train_id
  return table


CITYSCAPES = LabelSet(
  classes=tuple(name for name, _, _ in _CITYSCAPES),
  palette=tuple(colour for _, _, colour in _CITYSCAPES),
  split_sizes={"train": 2975, "validation": 500, "test": 1525},
  raw_to_train=_cityscapes_table(),
)

LABELS = {"shapes": SHAPES, "camvid": CAMVID, "cityscapes": CITYSCAPES}


def label_set(dataset: str) -> LabelSet:
  """The classes of a data set. Raises ValueError for an unknown one."""
  if dataset not in LABELS:
    raise ValueError(f"data set {dataset!r} is unknown; choose one of {', '.join(LABELS)}.")
  return LABELS[dataset]
