"""TFDS builder of PASCAL VOC 2012 segmentation and SBD."""

import io
import pathlib

import numpy as np
import scipy.io
import tensorflow_datasets as tfds

from data import pictures
from data.archives import Archive, open_archives
from data.builder import Builder as BaseBuilder
from data.builder import Example, Plan
from data.voc_segmentation import lists
from data.voc_segmentation.lists import SBD_ROOT, VOC_ROOT
from gcn_flax.labels import VOC

_VOC_PAGE = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/"
_ARCHIVES = {
  "VOCtrainval_11-May-2012.tar": (VOC_ROOT, _VOC_PAGE),
  "VOC2012test.tar": (VOC_ROOT, f"{_VOC_PAGE}, with an account"),
  "benchmark.tgz": (SBD_ROOT, "http://home.bharathh.info/pubs/codes/SBD/download.html"),
}


class Builder(BaseBuilder):
  """PASCAL VOC 2012 segmentation (Everingham et al., 2015) and SBD (Hariharan et al., 2011): 20 classes, background.

  Stores VOC's train, validation and test, and as `sbd` the images that SBD adds to train. VOC's masks have a void
  border of 255 around every object, SBD's have none. SBD repeats most of VOC's images; for these, image and mask are
  taken from VOC.
  """

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First version."}

  def plan(self, root: pathlib.Path) -> Plan:
    trainval, test, self._sbd = open_archives(root, _ARCHIVES)
    stored = lists.splits(lists.read(trainval, test, self._sbd))
    counts = lists.counts(stored)
    self.published_pictures = counts == VOC.split_sizes
    self._voc = {"train": trainval, "validation": trainval, "test": test}
    return Plan(
      splits={split: [(split, image_id) for image_id in ids] for split, ids in stored.items() if ids},
      counts=counts,
      published=VOC.split_sizes,
      label_set=VOC,
      unlabelled=("test",),
      notes=("images in both VOC and SBD have VOC's mask; SBD's images of VOC's validation set are left out",),
    )

  def load(self, item: tuple[str, str]) -> Example:
    split, image_id = item
    if split == "sbd":
      return self._load_sbd(image_id)
    archive: Archive = self._voc[split]
    image_name = f"{VOC_ROOT}/JPEGImages/{image_id}.jpg"
    label_name = f"{VOC_ROOT}/SegmentationClass/{image_id}.png"
    label = pictures.decode_mask(archive.read(label_name), label_name) if split != "test" else None
    return Example(image_id, archive.read(image_name), label, image_name=image_name, label_name=label_name)

  def _load_sbd(self, image_id: str) -> Example:
    image_name, label_name = f"{SBD_ROOT}/img/{image_id}.jpg", f"{SBD_ROOT}/cls/{image_id}.mat"
    label = _segmentation(self._sbd.read(label_name), label_name)
    return Example(image_id, self._sbd.read(image_name), label, image_name=image_name, label_name=label_name)


def _segmentation(data: bytes, name: str) -> np.ndarray:
  """Reads the class map, uint8 `[H, W]`, of a `.mat` file of SBD. Raises ValueError if there is none."""
  try:
    label = scipy.io.loadmat(io.BytesIO(data))["GTcls"]["Segmentation"][0, 0]
  except Exception as error:  # scipy raises all kinds of errors for damaged files.
    raise ValueError(f"{name} is not an SBD mask ({error}). Download the archive again.") from error
  if label.ndim != 2 or label.dtype != np.uint8:
    raise ValueError(f"{name} contains {label.dtype} {label.shape}, not uint8 [H, W]. Download the archive again.")
  return label
