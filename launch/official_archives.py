"""Packs images and labels into archives with the names, folders and formats of VOC, SBD, COCO and Cityscapes.

An archive is a mapping from the path of a file in it to its content; `write` takes a mapping from names to archives.
The rehearsal (`launch/rehearse.py`) and the tests of the builders in `data/` write small ones.
"""

import io
import json
import pathlib
import tarfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import scipy.io
from PIL import Image

from gcn_flax.labels import voc_palette

NAMES = (
  "VOCtrainval_11-May-2012.tar", "VOC2012test.tar", "benchmark.tgz", "train2017.zip", "val2017.zip",
  "annotations_trainval2017.zip", "leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip",
  "leftImg8bit_trainextra.zip", "gtCoarse.zip",
)  # fmt: skip
Archives = dict[str, dict[str, bytes]]
_VOC, _SBD = "VOCdevkit/VOC2012", "benchmark_RELEASE/dataset"
_THINGS = 24  # Cityscapes' raw ids of classes with instances begin here.


def write(root: pathlib.Path, archives: Mapping[str, Mapping[str, bytes]]) -> pathlib.Path:
  """Writes archives, zip or tar by their suffix, into a folder that exists, and returns the folder."""
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


def jpeg(image: np.ndarray, **options: Any) -> bytes:
  """Encodes uint8 `[H, W]` or RGB uint8 `[H, W, 3]`; `options` are those of Pillow."""
  return _encoded(Image.fromarray(image), "JPEG", quality=92, **options)


def png(array: np.ndarray, palette: Sequence[Sequence[int]] | None = None, **options: Any) -> bytes:
  """Encodes uint8 or uint16 `[H, W]`, or RGB uint8 `[H, W, 3]`; with a palette of RGB triples, an indexed PNG.

  `options` are those of Pillow.
  """
  image = Image.fromarray(array)
  if palette is not None:
    image.putpalette([channel for colour in palette for channel in colour])
  return _encoded(image, "PNG", **options)


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def mat(mask: np.ndarray) -> bytes:
  """Encodes a class map as SBD does, in a MATLAB file."""
  buffer = io.BytesIO()
  boundaries = np.empty((20, 1), object)
  boundaries[:, 0] = [np.zeros(mask.shape, np.uint8)] * 20
  record = {"Boundaries": boundaries, "Segmentation": mask, "CategoriesPresent": np.unique(mask[mask > 0])}
  scipy.io.savemat(buffer, {"GTcls": record}, do_compression=True)
  return buffer.getvalue()


def voc(
  train: Mapping[str, tuple[np.ndarray, np.ndarray]],
  val: Mapping[str, tuple[np.ndarray, np.ndarray]],
  test: Mapping[str, np.ndarray],
) -> Archives:
  """Returns VOC 2012's archives of id -> (image, class map with a void border), and of id -> image for `test`."""
  lists = {"train": train, "val": val, "trainval": [*train, *val]}
  trainval = {f"{_VOC}/ImageSets/Segmentation/{name}.txt": _lines(ids) for name, ids in lists.items()}
  for image_id, (image, mask) in (*train.items(), *val.items()):
    _, objects = cv2.connectedComponents(((mask > 0) & (mask < 255)).astype(np.uint8))
    trainval[f"{_VOC}/JPEGImages/{image_id}.jpg"] = jpeg(image)
    for folder, values in (("Class", mask), ("Object", np.where(mask == 255, 255, objects).astype(np.uint8))):
      trainval[f"{_VOC}/Segmentation{folder}/{image_id}.png"] = png(values, voc_palette(256))
  pictures = {f"{_VOC}/ImageSets/Segmentation/test.txt": _lines(test)}
  pictures |= {f"{_VOC}/JPEGImages/{image_id}.jpg": jpeg(image) for image_id, image in test.items()}
  return {"VOCtrainval_11-May-2012.tar": trainval, "VOC2012test.tar": pictures}


def sbd(train: Iterable[str], val: Iterable[str], examples: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Archives:
  """Returns SBD's archive: two lists of ids, and id -> (image, class map without a border) for all of them."""
  files = {f"{_SBD}/train.txt": _lines(train), f"{_SBD}/val.txt": _lines(val)}
  for image_id, (image, mask) in examples.items():
    files[f"{_SBD}/img/{image_id}.jpg"] = jpeg(image)
    files[f"{_SBD}/cls/{image_id}.mat"] = mat(mask)
  return {"benchmark.tgz": files}


def _lines(ids: Iterable[str]) -> bytes:
  return "".join(f"{image_id}\n" for image_id in ids).encode()


def polygon(category: int, *corners: Sequence[float]) -> dict[str, Any]:
  """Returns an instance of COCO with the given (x, y) corners."""
  flat = [float(number) for corner in corners for number in corner]
  return {"category_id": category, "iscrowd": 0, "segmentation": [flat]}


def crowd(category: int, mask: np.ndarray) -> dict[str, Any]:
  """Returns a crowd region of COCO, as uncompressed run-length code."""
  return {
    "category_id": category,
    "iscrowd": 1,
    "segmentation": {"size": list(mask.shape), "counts": _run_lengths(mask)},
  }


def _run_lengths(mask: np.ndarray) -> list[int]:
  """Returns the lengths of alternating runs of 0 and 1, column by column, starting with 0."""
  flat = np.concatenate([[0], (mask > 0).T.ravel().astype(int)])
  starts = np.concatenate([[0], np.flatnonzero(np.diff(flat)), [len(flat) - 1]])
  return np.diff(starts).tolist()


def coco(
  images: Mapping[str, Mapping[int, tuple[bytes, tuple[int, int], Sequence[Mapping[str, Any]]]]],
  categories: Mapping[int, str],
) -> Archives:
  """Returns the archives of COCO 2017.

  Args:
    images: folder, such as `train2017` -> image id -> (JPEG, (height, width), instances).
    categories: category id -> name.
  """
  archives, documents = {}, {}
  for folder, pictures in images.items():
    archives[f"{folder}.zip"] = {f"{folder}/{image_id:012d}.jpg": data for image_id, (data, *_) in pictures.items()}
    instances = [dict(each, image_id=image_id) for image_id, (*_, found) in pictures.items() for each in found]
    document = {
      "images": [  # In no order, like COCO's own.
        {"id": image_id, "file_name": f"{image_id:012d}.jpg", "height": size[0], "width": size[1]}
        for image_id, (_, size, _) in reversed(pictures.items())
      ],
      "annotations": [dict(each, id=number) for number, each in enumerate(instances, 1)],
      "categories": [{"id": number, "name": name} for number, name in categories.items()],
    }
    documents[f"annotations/instances_{folder}.json"] = json.dumps(document).encode()
  return {**archives, "annotations_trainval2017.zip": documents}


def cityscapes(
  fine: Mapping[str, tuple[np.ndarray, np.ndarray]],
  coarse: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> Archives:
  """Returns Cityscapes' four archives.

  Args:
    fine: stem, such as `train/aachen/aachen_000000_000019` -> (image, raw label ids).
    coarse: likewise; images are packed of `train_extra` alone, as the others are those of `fine`.
  """
  images, labels = {"README": b"", "license.txt": b""}, {}
  for stem, (image, ids) in fine.items():
    images[f"leftImg8bit/{stem}_leftImg8bit.png"] = png(image, compress_level=1)
    labels |= _label_files(f"gtFine/{stem}_gtFine", ids)
  extra, coarse_labels = {}, {}
  for stem, (image, ids) in coarse.items():
    coarse_labels |= _label_files(f"gtCoarse/{stem}_gtCoarse", ids)
    if stem.startswith("train_extra/"):
      extra[f"leftImg8bit/{stem}_leftImg8bit.png"] = png(image, compress_level=1)
  return {
    "leftImg8bit_trainvaltest.zip": images,
    "gtFine_trainvaltest.zip": labels,
    "leftImg8bit_trainextra.zip": extra,
    "gtCoarse.zip": coarse_labels,
  }


def _label_files(stem: str, ids: np.ndarray) -> dict[str, bytes]:
  """Returns the files of one label: raw ids, instance ids (1000 x raw id of a thing + number), colours, outlines."""
  _, numbers = cv2.connectedComponents((ids >= _THINGS).astype(np.uint8))
  instances = np.where(ids >= _THINGS, ids.astype(int) * 1000 + numbers, ids).astype(np.uint16)
  return {
    f"{stem}_labelIds.png": png(ids),
    f"{stem}_instanceIds.png": png(instances),
    f"{stem}_color.png": png(ids, voc_palette(256)),
    f"{stem}_polygons.json": b"{}",
  }
