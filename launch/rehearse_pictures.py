"""Generated pictures for the rehearsal, in the archives of VOC, SBD, COCO and Cityscapes.

Scenes show the outlines of `data/silhouettes.py` in the colours of their classes. As in the real archives, SBD repeats
images of VOC, also of its validation set; one image of COCO has none of VOC's classes, one has a crowd, one has two
objects that overlap; and the labels of Cityscapes' test set are dummies.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np

from data import silhouettes
from gcn_flax.input_pipeline.pictures import encode
from gcn_flax.labels import voc_palette
from launch import official_archives

# Class of VOC -> (id, name) in COCO. Few classes, so that each is in several of the few pictures.
_CATEGORIES = {5: (44, "bottle"), 7: (3, "car"), 12: (18, "dog"), 15: (1, "person")}
_STOP_SIGN = (13, "stop sign")  # None of VOC's classes.
_STREET_FIGURES = (20, 24, 26, 33)  # Raw ids: traffic sign, person, car, bicycle.
_STREET_GROUND = ((0.3, 23), (0.3, 11), (0.4, 7))  # (share of the height, raw id): sky, building, road.
_STREET_SIZE, _STREET_SCALE = (256, 512), 4  # Streets are drawn small, then enlarged to 1024 x 2048.
_VOID_BORDER = 5  # Width of the border that VOC's masks have around objects, pixels.
_COLOURS = np.array(voc_palette(256), np.float32)
_PICTURES_PER_SILHOUETTE = {"train": 16, "val": 2}


@dataclasses.dataclass(frozen=True)
class Scene:
  """A generated picture.

  Attributes:
    image: RGB uint8 `[H, W, 3]`.
    labels: uint8 `[H, W]`.
    figures: (value, outline int32 `[N, 2]` as x, y); later ones hide earlier ones.
  """

  image: np.ndarray
  labels: np.ndarray
  figures: Sequence[tuple[int, np.ndarray]]


def draw_scene(
  rng: np.random.Generator,
  size: tuple[int, int],
  values: Sequence[int],
  ground: Sequence[tuple[float, int]] = ((1.0, 0),),
) -> Scene:
  """Draws three to five figures with some of `values` on horizontal bands of ground, (share of the height, value)."""
  height, width = size
  ends = np.round(np.cumsum([share for share, _ in ground]) * height).astype(int)
  labels = np.zeros(size, np.uint8)
  for start, end, (_, value) in zip([0, *ends[:-1]], ends, ground, strict=True):
    labels[start:end] = value
  figures = [(int(rng.choice(values)), _outline(rng, size)) for _ in range(rng.integers(3, 6))]
  for value, outline in figures:
    cv2.fillPoly(labels, [outline], value)
  image = 40 + 0.75 * _COLOURS[labels] + rng.normal(0, 15, (height, width, 3))
  return Scene(np.clip(image, 0, 255).astype(np.uint8), labels, figures)


def _outline(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
  """Returns the outer outline of a random silhouette, somewhere in the picture."""
  name = rng.choice(list(silhouettes.OUTLINES))
  radius, angle = rng.uniform(0.12, 0.25) * min(size), rng.uniform(0, 2 * np.pi)
  turn = radius * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
  centre = rng.uniform(radius, np.array(size[::-1]) - radius)
  return np.round(np.asarray(silhouettes.OUTLINES[name][0]) @ turn.T + centre).astype(np.int32)


def write_archives(root: pathlib.Path, seed: int = 0) -> None:
  """Writes all ten archives into a folder that exists: 4 to 10 pictures to train on, 2 or 3 for each other split."""
  rng = np.random.default_rng(seed)
  for archives in (_voc_and_sbd(rng), _coco(rng), _cityscapes(rng)):
    official_archives.write(root, archives)


def _photo(rng: np.random.Generator) -> Scene:
  return draw_scene(rng, tuple(rng.integers(280, 501, 2).tolist()), list(_CATEGORIES))


def _voc_and_sbd(rng: np.random.Generator) -> official_archives.Archives:
  numbers = itertools.count(3)
  train, val, test, added = ({f"2011_{next(numbers):06d}": _photo(rng) for _ in range(count)} for count in (6, 3, 2, 4))
  repeated = [*list(train)[:2], list(val)[0]]
  sbd = {image_id: (scene.image, scene.labels) for image_id, scene in (train | val | added).items()}
  bordered = ({image_id: (scene.image, _bordered(scene)) for image_id, scene in part.items()} for part in (train, val))
  new = list(added)
  return official_archives.voc(*bordered, {image_id: scene.image for image_id, scene in test.items()}) | (
    official_archives.sbd([*repeated, *new[:2]], new[2:], {image_id: sbd[image_id] for image_id in (*repeated, *new)})
  )


def _bordered(scene: Scene) -> np.ndarray:
  """Returns the labels with a void border around every figure."""
  labels = scene.labels.copy()
  labels[cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, np.ones((_VOID_BORDER,) * 2, np.uint8)) > 0] = 255
  return labels


def _coco(rng: np.random.Generator) -> official_archives.Archives:
  images = {}
  for folder, count in (("train2017", 6), ("val2017", 2)):
    images[folder] = {}
    for number in range(1, count + 1):
      scene = _photo(rng)
      instances = [official_archives.polygon(_CATEGORIES[value][0], *outline) for value, outline in scene.figures]
      images[folder][number] = official_archives.jpeg(scene.image), scene.labels.shape, instances
  train = images["train2017"]
  square = (10, 10), (60, 10), (60, 60), (10, 60)
  _, size, instances = train[1]
  instances.append(official_archives.crowd(1, np.pad(np.ones((50, 50)), ((0, size[0] - 50), (0, size[1] - 50)))))
  train[2][2].extend(official_archives.polygon(category, *square) for category in (1, 18))
  train[6][2][:] = [official_archives.polygon(_STOP_SIGN[0], *square)]
  return official_archives.coco(images, dict([*_CATEGORIES.values(), _STOP_SIGN]))


def _street(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
  scene = draw_scene(rng, _STREET_SIZE, _STREET_FIGURES, _STREET_GROUND)
  size = tuple(_STREET_SCALE * side for side in reversed(_STREET_SIZE))
  image = cv2.resize(scene.image, size, interpolation=cv2.INTER_LINEAR)
  return image, cv2.resize(scene.labels, size, interpolation=cv2.INTER_NEAREST)


def _cityscapes(rng: np.random.Generator) -> official_archives.Archives:
  def streets(split, city, count):
    return {f"{split}/{city}/{city}_{number:06d}_000019": _street(rng) for number in range(count)}

  labelled = streets("train", "aachen", 4) | streets("val", "frankfurt", 2)
  test = {stem: (image, np.zeros_like(ids)) for stem, (image, ids) in streets("test", "berlin", 2).items()}
  coarse = {
    stem: (image, _coarse(ids)) for stem, (image, ids) in (labelled | streets("train_extra", "augsburg", 4)).items()
  }
  return official_archives.cityscapes(labelled | test, coarse)


def _coarse(ids: np.ndarray) -> np.ndarray:
  """Returns labels without those near boundaries, as coarse ones are."""
  return np.where(cv2.morphologyEx(ids, cv2.MORPH_GRADIENT, np.ones((41, 41), np.uint8)) > 0, 0, ids)


def write_silhouettes(root: pathlib.Path, seed: int = 0) -> None:
  """Writes `<split>/<class>/*.png` for the data set `class_folder`, a small version of `data/silhouettes.py`."""
  rng = np.random.default_rng(seed)
  for split, count in _PICTURES_PER_SILHOUETTE.items():
    for name in silhouettes.OUTLINES:
      folder = root / split / name
      folder.mkdir(parents=True, exist_ok=True)
      for number in range(count):
        (folder / f"{number:02d}.png").write_bytes(encode(silhouettes.draw(name, rng), ".png"))
