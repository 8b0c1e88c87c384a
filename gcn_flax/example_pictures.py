"""Pictures to show networks at work on: files, a split of the data set, or the samples of the workdir."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections
import numpy as np

from gcn_flax import files
from gcn_flax.input_pipeline import datasets, pictures
from gcn_flax.picture_files import pictures_of
from gcn_flax.run_data import RunData
from gcn_flax.workdir import compatibility
from gcn_flax.workdir.samples import sample_pictures
from gcn_flax.workdir.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class ExamplePicture:
  """A picture with its name.

  Attributes:
    name: name of the image in its data set, or of the file.
    image: RGB uint8 `[H, W, 3]`.
    label: ground truth, train ids uint8 `[H, W]`; None if there is none.
  """

  name: str
  image: np.ndarray
  label: np.ndarray | None = None


class ExamplePictures(Sequence):
  """Pictures that are read when they are asked for.

  Args:
    origin: description of where they come from.
    items: what stands for each picture.
    read: item -> `ExamplePicture`.

  Attributes:
    origin: as given.
  """

  def __init__(self, origin: str, items: Sequence[Any], read: Callable[[Any], ExamplePicture]):
    self.origin, self._items, self._read = origin, items, read

  def __len__(self) -> int:
    return len(self._items)

  def __getitem__(self, index: int) -> ExamplePicture:
    return self._read(self._items[index])

  def spread(self, count: int) -> list[int]:
    """Returns the indices of at most `count` pictures, spread evenly."""
    return spread(len(self), count)


def spread(total: int, count: int) -> list[int]:
  """Returns at most `count` of the numbers 0 to `total - 1`, spread evenly."""
  return np.linspace(0, total - 1, min(count, total)).astype(int).tolist()


def find_examples(
  config: ml_collections.ConfigDict,
  workdir: Workdir,
  classes: Sequence[str],
  count: int,
  images: Sequence[str] = (),
  split: str = "",
) -> ExamplePictures:
  """Finds at most `count` pictures, spread evenly over all that there are.

  They are `images` if given; else those of a split, by default `config.data.eval_split`, if the data set of the network
  is prepared; else the samples that training kept in the workdir.

  Args:
    config: config that names the data set.
    workdir: workdir of the run.
    classes: classes of the network.
    count: max number of pictures.
    images: files, folders and patterns, as values of --images.
    split: split of `config.data.dataset`.

  Raises:
    ValueError: if there is no picture, if the split cannot be opened, and if its classes are not those of the network.
  """
  if images:
    return _of_files("--images", pictures_of(images), count)
  data = RunData(config)
  if split or _is_there(config, data, classes):
    return _of_split(config, workdir, data, split or config.data.eval_split, count)
  samples = sample_pictures(workdir)
  if not samples:
    raise ValueError(
      f"{workdir}: there are no pictures to look at: {config.data.dataset} {config.data.eval_split!r} with the classes "
      f"of the network is not in {config.data.data_dir}, and the workdir has no samples. Use --images='a/*.jpg'."
    )
  return _of_files("the samples that training kept", samples, count)


def _is_there(config: ml_collections.ConfigDict, data: RunData, classes: Sequence[str]) -> bool:
  """Returns True if the evaluation split is prepared, with the classes of the network."""
  name = config.data.dataset
  if not datasets.is_prepared(name, config.data.data_dir):
    return False
  return config.data.eval_split in data.dataset(name).splits and data.label_set.classes == tuple(classes)


def _of_split(
  config: ml_collections.ConfigDict, workdir: Workdir, data: RunData, split: str, count: int
) -> ExamplePictures:
  source = data.dataset(config.data.dataset).source(split)
  compatibility.check_classes(config, source.label_set.classes, workdir.path)
  if not len(source):
    raise ValueError(f"--split={split}: {config.data.dataset} has no example in it. Use another split.")

  def read(index: int) -> ExamplePicture:
    example = source[index]
    return ExamplePicture(str(example["image_id"]), example["image"], example.get("label"))

  return ExamplePictures(f"{config.data.dataset} {split}", spread(len(source), count), read)


def _of_files(origin: str, paths: Sequence[files.Path], count: int) -> ExamplePictures:
  chosen = [paths[index] for index in spread(len(paths), count)]
  return ExamplePictures(origin, chosen, lambda path: ExamplePicture(path.name, pictures.read_picture(path)))
