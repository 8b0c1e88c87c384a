"""Label maps of pictures: the user's own, or a split's as the benchmark servers take them."""

import collections
import glob
import logging
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from gcn_flax import build, inference, submission
from gcn_flax.input_pipeline import datasets, loader, pictures, transforms
from gcn_flax.labels import LabelSet
from gcn_flax.tasks import segmentation
from gcn_flax.training import sharding
from gcn_flax.visualize import overlay
from gcn_flax.workdir.compatibility import settings_of

_log = logging.getLogger(__name__)
_LEAST = 128  # Pixels; pictures are padded to multiples of so many, or of an eighth to a quarter of a larger side, so
# that few shapes are compiled.
_WAITING = 4  # Batches' worth of pictures that may wait for others of their shape.


def find_pictures(patterns: Sequence[str], output: pathlib.Path) -> dict[pathlib.Path, pathlib.Path]:
  """The pictures that patterns such as `a/*.jpg` name, and where the label map of each goes, `OUTPUT/NAME.png`.

  Raises ValueError where a pattern names nothing, and where a file would be written twice or beside a picture.
  """
  found = []
  for pattern in patterns:
    paths = sorted(glob.glob(str(pathlib.Path(pattern).expanduser()), recursive=True))
    named = [path for path in map(pathlib.Path, paths) if path.is_file()]
    if not named:
      raise ValueError(f"--images={pattern!r} names no picture: quote the pattern, for instance --images='a/*.jpg'.")
    found += named
  targets = {path: output / f"{path.stem}.png" for path in dict.fromkeys(found)}
  owners = collections.defaultdict(list)
  for path, target in targets.items():
    owners[target].append(path)
    if path.parent.resolve() == output.resolve():
      raise ValueError(f"--output={output} holds the picture {path}, and may hold its mask: take another folder.")
  for target, paths in owners.items():
    if len(paths) > 1:
      raise ValueError(f"{paths[0]} and {paths[1]} would both become {target}: predict them into folders of their own.")
  return targets


def _overlay_of(target: pathlib.Path) -> pathlib.Path:
  return target.with_name(f"{target.stem}_overlay.jpg")


def predict_pictures(
  config: ml_collections.ConfigDict,
  setup: build.Setup,
  weights: dict[str, Any],
  label_set: LabelSet,
  targets: dict[pathlib.Path, pathlib.Path],
) -> int:
  """Writes a label PNG, whose values are class numbers, and an overlay of each picture; returns how many.

  A batch is one picture for each device, and the next is on the way.

  Raises:
    ValueError: at the end, naming every picture that could not be read; all others are written.
  """
  if jax.process_count() > 1:
    raise ValueError(f"--images is worked off by one host, not by {jax.process_count()}: start it on one of them.")
  broken = []
  progress = inference.Progress("predicting", len(targets))

  def read(path: pathlib.Path) -> tuple[pathlib.Path, np.ndarray | None]:
    try:
      return path, pictures.read_picture(path)
    except ValueError as error:
      broken.append(str(error))
      return path, None

  def write(refine: Callable, path: pathlib.Path, image: np.ndarray, output: np.ndarray) -> None:
    label = refine(image, output)
    overlay.save_labels(targets[path], label, label_set.palette)
    overlay.save(_overlay_of(targets[path]), overlay.blend(image, label, label_set))

  next(iter(targets.values())).parent.mkdir(parents=True, exist_ok=True)
  decoded = inference.each(read, ((path,) for path in targets), config.data.num_threads)
  batches = _batch((pair for pair in decoded if pair[1] is not None), setup.mesh.size, segmentation.filling(config))
  with inference.crf_postprocessing(config) as refine:
    for _ in inference.each(
      write, ((refine, *each) for each in _run(setup, weights, batches)), inference.num_threads(config)
    ):
      progress.add()
  if broken:
    raise ValueError(f"{len(broken)} of {len(targets)} pictures were left out: {'; '.join(sorted(broken))}")
  return len(targets)


def _batch(
  decoded: Iterator[tuple[pathlib.Path, np.ndarray]], size: int, pixel: Sequence[float]
) -> Iterator[loader.Batch]:
  """Batches of pictures that are padded to the same canvas; the last of each canvas is filled up."""
  waiting, seen = collections.defaultdict(list), set()
  for path, image in decoded:
    canvas = tuple(map(_round_up, image.shape[:2]))
    if canvas not in seen:
      _log.info("pictures of up to %d x %d: compiling.", *canvas)
      seen.add(canvas)
    waiting[canvas].append((path, image))
    if len(waiting[canvas]) == size:
      yield _pad(waiting.pop(canvas), canvas, size, pixel)
    elif sum(map(len, waiting.values())) > _WAITING * size:
      canvas = max(waiting, key=lambda canvas: len(waiting[canvas]))
      yield _pad(waiting.pop(canvas), canvas, size, pixel)
  for canvas, examples in waiting.items():
    yield _pad(examples, canvas, size, pixel)


def _round_up(side: int) -> int:
  step = max(_LEAST, 2 ** math.ceil(math.log2(side)) // 8)
  return -(-side // step) * step


def _pad(examples: list[tuple[pathlib.Path, np.ndarray]], canvas: tuple[int, int], size: int, pixel) -> loader.Batch:
  images = [transforms.pad({"image": image, "image_id": str(path)}, canvas, pixel)["image"] for path, image in examples]
  sizes = [image.shape[:2] for _, image in examples]
  filling = size - len(examples)
  return {
    "image": np.stack(images + images[:1] * filling),
    "size": np.array(sizes + sizes[:1] * filling, np.int32),
    "examples": examples,
  }


def _run(setup: build.Setup, weights: dict[str, Any], batches: Iterator[loader.Batch]) -> Iterator[tuple]:
  """Each picture's path, pixels and what the network says of it."""
  for batch, outputs in inference.run(setup, weights, batches):
    for (path, image), output in zip(batch["examples"], outputs, strict=False):
      yield path, image, segmentation.crop(output, image.shape[:2])


def open_tree(
  config: ml_collections.ConfigDict, workdir: pathlib.Path, kind: str, split: str, output: pathlib.Path
) -> tuple[submission.SubmissionFolder, datasets.Source]:
  """Where a split's label maps go, in the form that the server of `kind` takes, and the split.

  Raises ValueError where the data set is another, is not prepared, or has images that do not fit
  `config.data.eval_size`.
  """
  tree = submission.SubmissionFolder.of(settings_of(config, workdir), kind, split, output)
  source = datasets.open_source(config.data.dataset, split, config.data.data_dir)
  segmentation.check_scored(config, split)
  return tree, source


def predict_split(
  config: ml_collections.ConfigDict,
  setup: build.Setup,
  weights: dict[str, Any],
  tree: submission.SubmissionFolder,
  source: datasets.Source,
) -> int:
  """Writes a label map of every image of a split, reads them back, and returns how many.

  Raises ValueError where the folder holds something already, which might be another network's, and as `SubmissionFolder.check`.
  """
  if any(sharding.all_gather(jax.process_index() == 0 and tree.folder.is_dir() and any(tree.folder.iterdir()))):
    raise ValueError(f"{tree.folder} is not empty: remove what is in it, or take another --output.")
  tree.folder.mkdir(parents=True, exist_ok=True)
  progress = inference.Progress(f"predicting {source.split}", -(-len(source) // jax.process_count()))

  def examples() -> Iterator[tuple]:
    for example, output in inference.examples(setup, weights, build.eval_batches(config, source)):
      image, found = (segmentation.crop(array, example["size"]) for array in (example["image"], output))
      yield source.image_id(example["index"]), image, found

  with inference.crf_postprocessing(config) as refine:

    def write(image_id: str, image: np.ndarray, found: np.ndarray) -> None:
      tree.write(image_id, refine(image, found))

    for _ in inference.each(write, examples(), inference.num_threads(config)):
      progress.add()
  sharding.all_gather(None)  # All hosts have written.
  return tree.check(source)
