"""TFDS builder of COCO 2017 with the classes of VOC."""

import json
import pathlib
from collections import Counter, defaultdict

import tensorflow_datasets as tfds

from data.archives import Archive, open_archives
from data.builder import Builder as BaseBuilder
from data.builder import Example, Plan
from data.coco_voc import masks
from data.faults import raise_all
from gcn_flax.labels import COCO_VOC, VOC
from gcn_flax.printable import one_line

_IMAGES = "http://images.cocodataset.org/zips"
_ANNOTATIONS = "annotations_trainval2017.zip"
_FOLDERS = {"train": "train2017", "validation": "val2017"}
_PUBLISHED = {"images in train2017": 118_287, "images in val2017": 5_000}
_PAPER_TOTAL = 109_892  # Images of COCO, SBD and VOC together, from the paper.


class Builder(BaseBuilder):
  """COCO 2017 (Lin et al., 2014) with its instances drawn as VOC's 20 classes and background.

  Contains only images with at least one of the classes. Crowd regions, and pixels where instances of different classes
  overlap, are void.
  """

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First version."}
  published_pictures = True

  def plan(self, root: pathlib.Path) -> Plan:
    archives = open_archives(
      root,
      {
        _ANNOTATIONS: ("annotations", f"http://images.cocodataset.org/annotations/{_ANNOTATIONS}"),
        **{f"{folder}.zip": (folder, f"{_IMAGES}/{folder}.zip") for folder in _FOLDERS.values()},
      },
    )
    self._images = dict(zip(_FOLDERS, archives[1:], strict=True))
    splits, counts = {}, {}
    for split, folder in _FOLDERS.items():
      print(f"reading the annotations of {folder} ...", flush=True)
      splits[split], counts[f"images in {folder}"] = _items(split, archives[0])
    found = sum(map(len, splits.values()))
    rest = VOC.split_sizes["train_aug"]
    return Plan(
      splits={split: items for split, items in splits.items() if items},
      counts=counts | {split: len(items) for split, items in splits.items()},
      published=_PUBLISHED,
      label_set=COCO_VOC,
      notes=(
        f"{found:,} images contain a class of VOC; with the {rest:,} of VOC and SBD that makes {found + rest:,}. "
        f"The paper has {_PAPER_TOTAL:,}, so {_PAPER_TOTAL - rest:,} of COCO",
      ),
    )

  def load(self, item) -> Example:
    split, file_name, height, width, annotations = item
    folder = _FOLDERS[split]
    name = f"{folder}/{file_name}"
    try:
      label = masks.class_map(height, width, annotations)
    except Exception as error:  # pycocotools raises all kinds of errors for bad input.
      raise ValueError(f"annotations of {name} cannot be drawn ({one_line(error)}). Download them again.") from error
    return Example(
      image_id=pathlib.PurePath(file_name).stem,
      image=self._images[split].read(name),
      label=label,
      image_name=name,
      label_name=f"label map of {name}",
    )


def _items(split: str, archive: Archive) -> tuple[list, int]:
  """Returns the items (split, file name, height, width, annotations) with a VOC class, and the number of all images.

  Raises ValueError if the annotations cannot be read or list an image twice.
  """
  name = f"annotations/instances_{_FOLDERS[split]}.json"
  try:
    document = json.loads(archive.read(name))
    train_ids = masks.train_ids(document["categories"])
    images = [(image["id"], image["file_name"], image["height"], image["width"]) for image in document["images"]]
    annotations = defaultdict(list)
    for annotation in document["annotations"]:
      if annotation["category_id"] in train_ids:
        train_id = train_ids[annotation["category_id"]]
        annotations[annotation["image_id"]].append((train_id, bool(annotation["iscrowd"]), annotation["segmentation"]))
  except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
    raise ValueError(f"{name} in {archive.path} is no COCO instances file ({error!r}). Download it again.") from error
  twice = [image_id for image_id, count in Counter(image_id for image_id, *_ in images).items() if count > 1]
  raise_all([f"{name} lists image {image_id} more than once." for image_id in sorted(twice)])
  items = [
    (split, file_name, height, width, annotations[image_id])
    for image_id, file_name, height, width in sorted(images)
    if image_id in annotations
  ]
  return items, len(images)
