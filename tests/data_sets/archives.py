"""Small archives of VOC, SBD, COCO and Cityscapes with random images: archive -> file -> content."""

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from gcn_flax.rounding import ceil_div
from launch import official_archives
from launch.official_archives import jpeg, mat, png, polygon, write  # noqa: F401  (For the tests.)

VOC_TRAIN = ("2007_000032", "2008_000008", "2011_003271")
VOC_VAL = ("2007_000033", "2009_000015")
VOC_TEST = ("2008_000006", "2011_000001")
# The first repeats VOC's train, the second leaks VOC's val, the last is in both lists.
SBD_TRAIN = ("2007_000032", "2009_000015", "2008_000002", "2008_000007", "2010_000123")
SBD_VAL = ("2008_000008", "2010_000123", "2010_000200")
SBD_ONLY = ("2008_000002", "2008_000007", "2010_000123", "2010_000200")

# COCO's category id -> (name, class in VOC's numbering); 0 is none.
COCO_CATEGORIES = {
  1: ("person", 15), 2: ("bicycle", 2), 3: ("car", 7), 4: ("motorcycle", 14), 5: ("airplane", 1), 6: ("bus", 6),
  7: ("train", 19), 8: ("truck", 0), 9: ("boat", 4), 13: ("stop sign", 0), 16: ("bird", 3), 17: ("cat", 8),
  18: ("dog", 12), 19: ("horse", 13), 20: ("sheep", 17), 21: ("cow", 10), 44: ("bottle", 5), 62: ("chair", 9),
  63: ("couch", 18), 64: ("potted plant", 16), 67: ("dining table", 11), 72: ("tv", 20),
}  # fmt: skip

FINE = {
  "train": ("aachen/aachen_000000_000019", "aachen/aachen_000001_000019", "bochum/bochum_000000_000313"),
  "val": ("frankfurt/frankfurt_000000_000294",),
  "test": ("berlin/berlin_000000_000019", "bonn/bonn_000000_000019"),
}
EXTRA = ("augsburg/augsburg_000000_000000", "bamberg/bamberg_000000_000001")


def size(rng):
  return tuple(int(side) for side in rng.integers(40, 91, 2))


def picture(rng, shape):
  """Returns RGB uint8 `[H, W, 3]`, as smooth as a photo."""
  return cv2.resize(rng.integers(0, 256, (5, 6, 3)).astype(np.uint8), shape[::-1], interpolation=cv2.INTER_CUBIC)


def blocks(rng, shape, values):
  """Returns a mask of blocks with the given values, all of which occur if there is room."""
  rows, columns = (ceil_div(side, 8) for side in shape)
  grid = rng.permutation(np.resize(np.asarray(values), rows * columns)).reshape(rows, columns)
  return np.kron(grid, np.ones((8, 8), int))[: shape[0], : shape[1]].astype(np.uint8)


def rotated(image):
  """Encodes a JPEG with an EXIF orientation of a quarter turn."""
  exif = Image.Exif()
  exif[0x0112] = 6
  return jpeg(image, exif=exif)


def voc(seed=0):
  rng = np.random.default_rng(seed)
  labelled = {}
  for image_id in VOC_TRAIN + VOC_VAL:
    shape = size(rng)
    labelled[image_id] = picture(rng, shape), _bordered(rng, shape)
  train, val = ({image_id: labelled[image_id] for image_id in ids} for ids in (VOC_TRAIN, VOC_VAL))
  test = {image_id: picture(rng, size(rng)) for image_id in VOC_TEST}
  sbd = {}
  for image_id in sorted({*SBD_TRAIN, *SBD_VAL}):
    shape = size(rng)
    sbd[image_id] = picture(rng, shape), blocks(rng, shape, range(21))
  return official_archives.voc(train, val, test) | official_archives.sbd(SBD_TRAIN, SBD_VAL, sbd)


def _bordered(rng, shape):
  mask = blocks(rng, shape, range(21))
  mask[cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0] = 255
  return mask


def box(category, left, top, right, bottom):
  return polygon(category, (left, top), (right, top), (right, bottom), (left, bottom))


def crowd(category, mask, compressed):
  code = official_archives.crowd(category, mask)
  if compressed:
    code["segmentation"]["counts"] = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
  return code


def coco_images(seed=1):
  """Returns folder -> image id -> (JPEG, instances)."""
  rng = np.random.default_rng(seed)
  photo = [picture(rng, (60, 80)) for _ in range(10)]
  every = [box(category, *_cell(number)) for number, category in enumerate(COCO_CATEGORIES)]
  overlapping = [
    box(1, 5, 5, 40, 40),
    polygon(1, (20.5, 10.2), (50.7, 12), (35, 50.5)),
    box(2, 30, 20, 70, 55),
    polygon(3, (25, 15), (75.5, 30), (28.3, 58)),
    box(8, 0, 0, 79, 59),
  ]
  two_parts = polygon(18, (2, 2), (20, 3), (10, 25))
  two_parts["segmentation"] += polygon(18, (40, 20), (70, 22), (55, 58))["segmentation"]
  speckle = rng.random((60, 80)) < 0.3
  block = np.zeros((60, 80), bool)
  block[:30, 20:60] = True
  train = {
    9: (jpeg(photo[0]), every),
    25: (jpeg(photo[1]), overlapping),
    30: (jpeg(photo[2]), [box(17, 10, 10, 60, 50), crowd(1, block, compressed=False), box(1, 0, 20, 30, 45)]),
    34: (jpeg(photo[3]), [crowd(20, speckle, compressed=True), box(20, 30, 10, 70, 30)]),
    36: (jpeg(photo[4]), [box(13, 10, 10, 30, 30)]),
    42: (jpeg(photo[5][..., 0]), [box(44, 20, 20, 40, 50)]),
    49: (jpeg(photo[6]), []),
    61: (rotated(photo[7]), [two_parts]),
  }
  val = {
    139: (jpeg(photo[8]), [box(72, 1, 1, 30, 20), crowd(13, block, compressed=False)]),
    285: (jpeg(photo[9]), [crowd(13, block, compressed=True), box(8, 3, 3, 30, 30)]),
  }
  return {"train2017": train, "val2017": val}


def _cell(number):
  left, top = number % 6 * 13, number // 6 * 14
  return left, top, left + 10, top + 12


def coco(seed=1):
  images = {
    folder: {image_id: (data, (60, 80), instances) for image_id, (data, instances) in pictures.items()}
    for folder, pictures in coco_images(seed).items()
  }
  return official_archives.coco(images, {number: name for number, (name, _) in COCO_CATEGORIES.items()})


def cityscapes(seed=2):
  rng = np.random.default_rng(seed)
  fine, coarse = {}, {}
  for split, stems in FINE.items():
    for stem in stems:
      shape = size(rng)
      ids = blocks(rng, shape, range(34)) if split != "test" else np.zeros(shape, np.uint8)
      fine[f"{split}/{stem}"] = picture(rng, shape), ids
  for split, stems in {**FINE, "train_extra": EXTRA}.items():
    for stem in stems if split != "test" else ():
      shape = size(rng)
      coarse[f"{split}/{stem}"] = picture(rng, shape), blocks(rng, shape, (0, 7, 11, 24, 26, 33))
  return official_archives.cityscapes(fine, coarse)
