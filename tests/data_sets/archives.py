"""Small archives of VOC, SBD, COCO and Cityscapes with random images: archive -> file -> content."""

import io
import json
import pathlib
import tarfile
import zipfile

import cv2
import numpy as np
import scipy.io
from PIL import Image
from pycocotools import mask as coco_mask

from gcn_flax.labels import voc_palette
from gcn_flax.rounding import ceil_div

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


def write(root: pathlib.Path, archives: dict[str, dict[str, bytes]]) -> pathlib.Path:
  for name, files in archives.items():
    if name.endswith(".zip"):
      with zipfile.ZipFile(root / name, "w") as archive:
        for path, data in files.items():
          archive.writestr(path, data)
    else:
      with tarfile.open(root / name, "w:gz" if name.endswith(".tgz") else "w") as archive:
        for path, data in files.items():
          info = tarfile.TarInfo(path)
          info.size = len(data)
          archive.addfile(info, io.BytesIO(data))
  return root


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


def jpeg(image, **options):
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, "JPEG", quality=92, **options)
  return buffer.getvalue()


def rotated(image):
  """Encodes a JPEG with an EXIF orientation of a quarter turn."""
  exif = Image.Exif()
  exif[0x0112] = 6
  return jpeg(image, exif=exif)


def png(array, palette=None, **options):
  image = Image.fromarray(array)
  if palette is not None:
    image.putpalette([channel for colour in palette for channel in colour])
  buffer = io.BytesIO()
  image.save(buffer, "PNG", **options)
  return buffer.getvalue()


def voc(seed=0):
  rng = np.random.default_rng(seed)
  root = "VOCdevkit/VOC2012"
  trainval, test, sbd = {}, {}, {}
  for name, ids in (("train", VOC_TRAIN), ("val", VOC_VAL), ("trainval", VOC_TRAIN + VOC_VAL)):
    trainval[f"{root}/ImageSets/Segmentation/{name}.txt"] = _lines(ids)
  for image_id in VOC_TRAIN + VOC_VAL:
    shape = size(rng)
    trainval[f"{root}/JPEGImages/{image_id}.jpg"] = jpeg(picture(rng, shape))
    trainval[f"{root}/SegmentationClass/{image_id}.png"] = png(_bordered(rng, shape), voc_palette(256))
    trainval[f"{root}/SegmentationObject/{image_id}.png"] = png(blocks(rng, shape, range(9)), voc_palette(256))
  test[f"{root}/ImageSets/Segmentation/test.txt"] = _lines(VOC_TEST)
  test |= {f"{root}/JPEGImages/{image_id}.jpg": jpeg(picture(rng, size(rng))) for image_id in VOC_TEST}
  root = "benchmark_RELEASE/dataset"
  sbd |= {f"{root}/train.txt": _lines(SBD_TRAIN), f"{root}/val.txt": _lines(SBD_VAL)}
  for image_id in sorted({*SBD_TRAIN, *SBD_VAL}):
    shape = size(rng)
    sbd[f"{root}/img/{image_id}.jpg"] = jpeg(picture(rng, shape))
    sbd[f"{root}/cls/{image_id}.mat"] = mat(blocks(rng, shape, range(21)))
  return {"VOCtrainval_11-May-2012.tar": trainval, "VOC2012test.tar": test, "benchmark.tgz": sbd}


def _lines(ids):
  return ("\n".join(ids) + "\n").encode()


def _bordered(rng, shape):
  mask = blocks(rng, shape, range(21))
  mask[cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0] = 255
  return mask


def mat(mask):
  buffer = io.BytesIO()
  boundaries = np.empty((20, 1), object)
  boundaries[:, 0] = [np.zeros(mask.shape, np.uint8)] * 20
  record = {"Boundaries": boundaries, "Segmentation": mask, "CategoriesPresent": np.unique(mask[mask > 0])}
  scipy.io.savemat(buffer, {"GTcls": record}, do_compression=True)
  return buffer.getvalue()


def polygon(category, *corners):
  """Returns an instance with the given (x, y) corners."""
  flat = [float(number) for corner in corners for number in corner]
  return {"category_id": category, "iscrowd": 0, "segmentation": [flat]}


def box(category, left, top, right, bottom):
  return polygon(category, (left, top), (right, top), (right, bottom), (left, bottom))


def crowd(category, mask, compressed):
  code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
  counts = code["counts"].decode() if compressed else _run_lengths(mask)
  segmentation = {"size": list(mask.shape), "counts": counts}
  return {"category_id": category, "iscrowd": 1, "segmentation": segmentation}


def _run_lengths(mask):
  """Returns the lengths of alternating runs of 0 and 1, column by column, starting with 0."""
  runs, value = [0], 0
  for pixel in mask.T.ravel().astype(int):
    if pixel != value:
      runs.append(0)
      value = pixel
    runs[-1] += 1
  return runs


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


def coco_document(images):
  """Returns the annotation file of one folder of 60 x 80 images, unordered like COCO's own."""
  listed = [
    {"id": image_id, "file_name": f"{image_id:012d}.jpg", "height": 60, "width": 80} for image_id in reversed(images)
  ]
  instances = [instance | {"image_id": image_id} for image_id, (_, found) in images.items() for instance in found]
  instances = [instance | {"id": number} for number, instance in enumerate(instances, 1)]
  categories = [{"id": number, "name": name} for number, (name, _) in COCO_CATEGORIES.items()]
  return {"images": listed, "annotations": instances, "categories": categories}


def coco(seed=1):
  archives = {"annotations_trainval2017.zip": {}}
  for folder, images in coco_images(seed).items():
    archives[f"{folder}.zip"] = {f"{folder}/{image_id:012d}.jpg": data for image_id, (data, _) in images.items()}
    document = json.dumps(coco_document(images)).encode()
    archives["annotations_trainval2017.zip"][f"annotations/instances_{folder}.json"] = document
  return archives


def cityscapes(seed=2):
  rng = np.random.default_rng(seed)
  images, fine = {"README": b"", "license.txt": b""}, {}
  for split, stems in FINE.items():
    for stem in stems:
      shape = size(rng)
      images[f"leftImg8bit/{split}/{stem}_leftImg8bit.png"] = png(picture(rng, shape))
      ids = blocks(rng, shape, range(34)) if split != "test" else np.zeros(shape, np.uint8)
      fine |= _label_files(f"gtFine/{split}/{stem}_gtFine", ids)
  extra, coarse = {}, {}
  for split, stems in {**FINE, "train_extra": EXTRA}.items():
    for stem in stems if split != "test" else ():
      shape = size(rng)
      coarse |= _label_files(f"gtCoarse/{split}/{stem}_gtCoarse", blocks(rng, shape, (0, 7, 11, 24, 26, 33)))
      if split == "train_extra":
        extra[f"leftImg8bit/{split}/{stem}_leftImg8bit.png"] = png(picture(rng, shape))
  return {
    "leftImg8bit_trainvaltest.zip": images,
    "gtFine_trainvaltest.zip": fine,
    "leftImg8bit_trainextra.zip": extra,
    "gtCoarse.zip": coarse,
  }


def _label_files(stem, ids):
  """Returns the files of one label: raw ids, instance ids (1000 x raw id of a thing + number), colours, outlines."""
  _, numbers = cv2.connectedComponents((ids >= 24).astype(np.uint8))
  instances = np.where(ids >= 24, ids.astype(int) * 1000 + numbers, ids).astype(np.uint16)
  return {
    f"{stem}_labelIds.png": png(ids),
    f"{stem}_instanceIds.png": png(instances),
    f"{stem}_color.png": png(ids, voc_palette(256)),
    f"{stem}_polygons.json": b"{}",
  }
