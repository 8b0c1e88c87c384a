"""The trees of label maps that the servers of VOC and Cityscapes take."""

import dataclasses
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from gcn_flax.input_pipeline.datasets import Source
from gcn_flax.labels import CITYSCAPES, VOC, voc_palette
from gcn_flax.visualize import overlay

_log = logging.getLogger(__name__)
_DATASETS = {"voc": "voc_segmentation", "cityscapes": "cityscapes"}
_SHOWN = 10  # Faults that an error lists.


@dataclasses.dataclass(frozen=True)
class SubmissionFolder:
  """A folder of label maps of one split.

  Attributes:
    kind: `voc`: indexed PNGs of class numbers with VOC's palette, `results/VOC2012/Segmentation/comp6_test_cls/ID.png`
      (VOC2012 devkit, sections 5.3 and 5.4); `cityscapes`: PNGs of raw label ids, `ID_labelIds.png`, in one folder.
    folder: of the files.
  """

  kind: str
  folder: pathlib.Path

  @classmethod
  def of(cls, settings: Mapping[str, Any], kind: str, split: str, output: pathlib.Path) -> "SubmissionFolder":
    """The tree of a split below `output`; `settings` are those of the training, as `config.json` holds them.

    Raises ValueError where the data set is another.
    """
    dataset = settings["data"]["dataset"]
    if dataset != _DATASETS[kind]:
      raise ValueError(
        f"--submission={kind} is for the data set {_DATASETS[kind]}, but config.data.dataset={dataset!r}."
      )
    if kind == "cityscapes":
      return cls(kind, output)
    name = f"{competition(settings)}_{ {'validation': 'val'}.get(split, split) }_cls"
    return cls(kind, output / "results" / "VOC2012" / "Segmentation" / name)

  def path(self, image_id: str) -> pathlib.Path:
    """Where the label map of an image is."""
    return self.folder / f"{image_id}{'_labelIds' if self.kind == 'cityscapes' else ''}.png"

  def write(self, image_id: str, label: np.ndarray) -> None:
    """Writes the label map of an image, train ids uint8 `[H, W]`, at its own size."""
    if self.kind == "cityscapes":
      overlay.save_labels(self.path(image_id), _RAW_IDS[label])
    else:
      overlay.save_labels(self.path(image_id), label, voc_palette(256))

  def check(self, source: Source) -> int:
    """Reads the tree back and returns the number of label maps.

    Raises:
      ValueError: listing what the server would refuse: files that are missing, are none of the split's, cannot be
        read, have another size than the image, more than one channel, another palette, or values that are no class.
    """
    names = {self.path(source.image_id(index)).name: index for index in range(len(source))}
    there = {path.name for path in self.folder.glob("*")} if self.folder.is_dir() else set()
    missing, others = sorted(names.keys() - there), sorted(there - names.keys())
    faults = [f"{name} is missing" for name in missing] + [f"{name} belongs to no image" for name in others]
    for name in sorted(names.keys() & there):
      fault = self._fault(self.folder / name, source[names[name]]["image"].shape[:2])
      faults += [f"{name} {fault}"] if fault else []
    if faults:
      for fault in faults[_SHOWN:]:
        _log.warning("%s", fault)
      rest = f"; and {len(faults) - _SHOWN} more, listed above" if len(faults) > _SHOWN else ""
      raise ValueError(
        f"{self.folder} is not ready for the server, {len(missing)} of {len(names)} files are missing: "
        f"{'; '.join(faults[:_SHOWN])}{rest}."
      )
    return len(names)

  def _fault(self, path: pathlib.Path, size: Sequence[int]) -> str:
    """What is wrong with a file; '' where nothing is."""
    try:
      with Image.open(path) as image:
        image.load()
    except Exception as error:  # Decoders of damaged files raise what they like.
      return f"cannot be read ({error})"
    wanted = "L" if self.kind == "cityscapes" else "P"
    if image.mode != wanted:
      return f"is of mode {image.mode} instead of {wanted}"
    if image.size[::-1] != tuple(size):
      return f"is {image.height} x {image.width}, its image {size[0]} x {size[1]}"
    if self.kind == "voc" and image.getpalette()[: 3 * 256] != [
      value for colour in voc_palette(256) for value in colour
    ]:
      return "has another palette than VOC's"
    allowed = _RAW_IDS if self.kind == "cityscapes" else np.arange(VOC.num_classes)
    values = np.unique(np.asarray(image))
    strange = np.setdiff1d(values, allowed)
    return f"holds {', '.join(map(str, strange[:5]))}, which is no class" if strange.size else ""


_RAW_IDS = np.array([np.flatnonzero(CITYSCAPES.raw_to_train == index)[0] for index in range(19)], np.uint8)


def competition(settings: Mapping[str, Any]) -> str:
  """VOC's `comp5`, where nothing but VOC's own segmentation images was learned from, else `comp6`."""
  mix = {(dataset, split) for dataset, split, _ in settings["data"]["train_mix"]}
  own = {("voc_segmentation", split) for split in ("train", "validation", "trainval")}
  given = settings["model"]["pretrained"] or settings["init_from"]
  return "comp5" if mix <= own and not given else "comp6"
