"""Annotations of the images in a folder, and the masks drawn from them."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping

import numpy as np

from data.annotation_files.outlines import Size
from data.faults import raise_all
from data.user_files import visible_files
from gcn_flax.input_pipeline.pictures import SUFFIXES
from gcn_flax.labels import IGNORE

_SPLITS = ("train", "val", "valid", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Region:
  """An annotated region of an image.

  Attributes:
    place: where it is, such as "a.json shape 3", for error messages.
    name: name of its class; None for a region to leave out.
    draw: its pixels, (height, width) -> bool `[H, W]`; raises ValueError.
  """

  place: str
  name: str | None
  draw: Callable[[Size], np.ndarray]


@dataclasses.dataclass(frozen=True)
class AnnotatedImage:
  """An image with its annotations.

  Attributes:
    path: file of the image.
    split: name of its split; "" if its folders name none.
    regions: its regions, in the order of their file; None for an image without ground truth.
    place: the annotation file, for error messages.
    size: (height, width) that the regions were drawn on, pixels; None if the file does not tell.
  """

  path: pathlib.Path
  split: str
  regions: tuple[Region, ...] | None
  place: str
  size: Size | None = None


@dataclasses.dataclass(frozen=True)
class Annotations:
  """The annotations of a folder.

  Attributes:
    classes: names in their order, without the background.
    images: all annotated images.
    smaller_on_top: where regions overlap, the smaller one counts, and those to leave out before all; otherwise the
      later one in the file does.
    notes: remarks to print for the user.
  """

  classes: tuple[str, ...]
  images: tuple[AnnotatedImage, ...]
  smaller_on_top: bool
  notes: tuple[str, ...] = ()


def draw_mask(
  image: AnnotatedImage, size: Size, values: Mapping[str, int], unlabelled: int, smaller_on_top: bool
) -> np.ndarray:
  """Draws the regions of an image.

  Args:
    image: the image and its regions.
    size: (height, width) of its file, pixels.
    values: value of each class.
    unlabelled: value of pixels in no region.
    smaller_on_top: as in `Annotations`.

  Returns:
    The mask, uint8 `[H, W]`; regions without a class are 255.

  Raises:
    ValueError: listing every region that cannot be drawn; if the annotations are of another size.
  """
  if image.size not in (None, size):
    raise ValueError(
      f"{image.place} was drawn on an image of {image.size[0]} x {image.size[1]}, but {image.path} is {size[0]} x "
      f"{size[1]}. Put the image back that was annotated."
    )
  drawn, faults = [], []
  for region in image.regions:
    try:
      drawn.append((region.name, *_cropped(region.draw(size))))
    except ValueError as error:
      faults.append(f"{region.place} {error}")
  raise_all(faults)
  if smaller_on_top:
    drawn.sort(key=lambda each: (each[0] is None, -np.count_nonzero(each[2])))
  mask = np.full(size, unlabelled, np.uint8)
  for name, window, inside in drawn:
    mask[window][inside] = IGNORE if name is None else values[name]
  return mask


def _cropped(inside: np.ndarray) -> tuple[tuple[slice, slice], np.ndarray]:
  """Returns the window that holds a region, and the region within it: large images may have hundreds of them."""
  rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
  window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if len(rows) else np.s_[:0, :0]
  return window, inside[window].copy()


class Pictures:
  """The picture files below a folder, found by their names; those in folders called `masks` are none.

  Args:
    root: the folder.
  """

  def __init__(self, root: pathlib.Path):
    self._root = root
    self.paths = [path for path in visible_files(root, SUFFIXES) if "masks" not in path.relative_to(root).parent.parts]
    self._named: dict[str, list[pathlib.Path]] = {}
    for path in self.paths:
      self._named.setdefault(path.name, []).append(path)

  def find(self, name: str, annotated_in: pathlib.Path) -> pathlib.Path:
    """Returns the picture that a file names, by its path from there or else by its file name alone.

    Raises ValueError if there is none, or more than one.
    """
    name = name.replace("\\", "/")
    beside = pathlib.Path(os.path.normpath(annotated_in.parent / name))
    if beside.is_relative_to(self._root) and beside.suffix.lower() in SUFFIXES and beside.is_file():
      return beside
    found = self._named.get(pathlib.PurePosixPath(name).name, [])
    found = [path for path in found if path.as_posix().endswith(f"/{name}")] or found
    split = split_of_parts(self._root, annotated_in)
    found = [path for path in found if split and split_of_parts(self._root, path) == split] or found
    if len(found) > 1:
      raise ValueError(
        f"{annotated_in}: its image {name} may be {found[0]} or {found[1]}. Remove or rename one of them."
      )
    if not found:
      raise ValueError(f"{annotated_in}: its image {name} is not in {self._root}. Put it beside the file.")
    return found[0]


def split_of_parts(root: pathlib.Path, path: pathlib.Path) -> str:
  """Returns the first folder between `root` and a file that is called like a split; "" if none is."""
  return next((part for part in path.relative_to(root).parent.parts if part.lower() in _SPLITS), "")
