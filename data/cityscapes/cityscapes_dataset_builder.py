"""TFDS builder of Cityscapes: fine labels, or coarse labels of the extra images."""

import dataclasses
import pathlib
import re

import numpy as np
import tensorflow_datasets as tfds

from data import pictures
from data.archives import Archive, open_archives
from data.builder import Builder as BaseBuilder
from data.builder import Example, Plan
from data.faults import raise_all, size
from gcn_flax.labels import CITYSCAPES, CITYSCAPES_COARSE, LabelSet

_ORIGIN = "https://www.cityscapes-dataset.com/downloads, with an account"

# A black image with labels: part of the published count, but useless. Other loaders skip it, too.
_KNOWN_BAD = ("train_extra/troisdorf/troisdorf_000000_000073",)


@dataclasses.dataclass
class Config(tfds.core.BuilderConfig):
  """The archives of one variant of Cityscapes.

  Attributes:
    images, labels: names of the archives.
    kind: kind of the labels in file names, `gtFine` or `gtCoarse`.
    splits: folder in the archives -> split.
    label_set: classes and published counts.
  """

  images: str = ""
  labels: str = ""
  kind: str = ""
  splits: dict[str, str] = dataclasses.field(default_factory=dict)
  label_set: LabelSet = CITYSCAPES


class Builder(BaseBuilder):
  """Cityscapes (Cordts et al., 2016): street scenes of 1024 x 2048 pixels, raw label ids and instance ids.

  `coarse` contains the extra images only. Coarse labels of the fine images are left out, because no network should be
  evaluated on them. The labels of `test` are dummies.
  """

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First version."}
  BUILDER_CONFIGS = [
    Config(
      name="fine",
      images="leftImg8bit_trainvaltest.zip",
      labels="gtFine_trainvaltest.zip",
      kind="gtFine",
      splits={"train": "train", "val": "validation", "test": "test"},
      label_set=CITYSCAPES,
    ),
    Config(
      name="coarse",
      images="leftImg8bit_trainextra.zip",
      labels="gtCoarse.zip",
      kind="gtCoarse",
      splits={"train_extra": "train_extra"},
      label_set=CITYSCAPES_COARSE,
    ),
  ]
  has_instances = True

  def plan(self, root: pathlib.Path) -> Plan:
    config = self.builder_config
    self._images, self._labels = open_archives(
      root, {config.images: ("leftImg8bit", _ORIGIN), config.labels: (config.kind, _ORIGIN)}
    )
    with_image = _stems(self._images, r"leftImg8bit/(.+)_leftImg8bit\.png", config.splits)
    with_label = _stems(self._labels, rf"{config.kind}/(.+)_{config.kind}_labelIds\.png", config.splits)
    faults = [f"{stem} has an image in {config.images}, but no labels." for stem in sorted(with_image - with_label)]
    faults += [f"{stem} has labels in {config.labels}, but no image." for stem in sorted(with_label - with_image)]
    folders = {folder: sorted(stem for stem in with_image if stem.startswith(f"{folder}/")) for folder in config.splits}
    faults += [f"{config.images} has no images in leftImg8bit/{name}." for name, stems in folders.items() if not stems]
    raise_all(faults)
    splits = {config.splits[folder]: stems for folder, stems in folders.items()}
    counts = {split: len(stems) for split, stems in splits.items()}
    self.published_pictures = counts == config.label_set.split_sizes
    known_bad = [stem for stems in splits.values() for stem in stems if stem in _KNOWN_BAD]
    return Plan(
      splits={split: [stem for stem in stems if stem not in _KNOWN_BAD] for split, stems in splits.items()},
      counts=counts,
      published=config.label_set.split_sizes,
      label_set=config.label_set,
      unlabelled=("test",) if "test" in splits else (),
      notes=tuple(f"{stem} is skipped: its image is known to be black" for stem in known_bad),
    )

  def check_example(self, example: Example, label_set: LabelSet) -> np.ndarray:
    image = super().check_example(example, label_set)
    name = example.label_name.replace("_labelIds", "_instanceIds")
    instances = pictures.decode_instances(example.instances, name)
    if instances.shape != example.label.shape:
      raise ValueError(f"{name} is {size(instances)}, but its labels are {size(example.label)}. Download it again.")
    return image

  def load(self, item: str) -> Example:
    kind = self.builder_config.kind
    image_name = f"leftImg8bit/{item}_leftImg8bit.png"
    label_name = f"{kind}/{item}_{kind}_labelIds.png"
    return Example(
      image_id=item.rpartition("/")[2],
      image=self._images.read(image_name),
      label=pictures.decode_mask(self._labels.read(label_name), label_name),
      instances=self._labels.read(f"{kind}/{item}_{kind}_instanceIds.png"),
      image_name=image_name,
      label_name=label_name,
    )


def _stems(archive: Archive, pattern: str, folders: dict[str, str]) -> set[str]:
  """Returns the pattern's group, such as "train/aachen/aachen_000000_000019", for the files below `folders`."""
  found = (re.fullmatch(pattern, name) for name in archive.names)
  return {match[1] for match in found if match and match[1].partition("/")[0] in folders}
