"""Predicts label maps of pictures."""

import collections
import glob
import logging
import math
import pathlib
from collections.abc import Iterator, Sequence

import jax
import ml_collections
import numpy as np

from gcn_flax import files, inference
from gcn_flax.input_pipeline import loader, pictures, transforms
from gcn_flax.parallel import parallel_map
from gcn_flax.preflight import check_pixels, preflight
from gcn_flax.printable import printable
from gcn_flax.rounding import round_up
from gcn_flax.tasks import segmentation
from gcn_flax.visualize import overlay
from gcn_flax.workdir.trained import Trained, load_trained
from gcn_flax.workdir.workdir import Workdir

_log = logging.getLogger(__name__)
# Pictures are padded to multiples of _MIN_STEP pixels, large ones to coarser steps (1/8 to 1/4 of the side), so that
# few shapes are compiled.
_MIN_STEP = 128
_MAX_WAITING = 4  # Batches of pictures that may wait for others of their shape.


def run(
  config: ml_collections.ConfigDict,
  workdir: Workdir | files.Path | str,
  images: Sequence[str],
  output: pathlib.Path | str,
  checkpoint: str = "best",
) -> int:
  """Writes a label PNG, whose values are class numbers, and an overlay of each picture; needs no data set.

  Args:
    config: config of the network and the evaluation.
    workdir: workdir of the run.
    images: patterns such as `a/*.jpg`.
    output: folder of `NAME.png` and `NAME_overlay.jpg`.
    checkpoint: `best`, `last` or a step.

  Returns:
    The number of pictures.

  Raises:
    ValueError: for what `find_pictures`, `preflight` and `load_trained` reject; and at the end, naming every picture
      that cannot be read, when all others are written.
  """
  workdir = Workdir(workdir)
  check_pixels(config, "predict")
  if jax.process_count() > 1:
    raise ValueError(f"--images: pictures are predicted by one host, not {jax.process_count()}. Start it on one host.")
  targets = find_pictures(images, pathlib.Path(output).expanduser().absolute())
  preflight(config, workdir)
  count = predict_pictures(config, load_trained(config, workdir, checkpoint), targets)
  print(f"wrote label maps and overlays of {count} pictures to {printable(output)}")
  return count


def find_pictures(patterns: Sequence[str], output: pathlib.Path) -> dict[pathlib.Path, pathlib.Path]:
  """Returns the pictures that patterns such as `a/*.jpg` match, each with the path of its label map, `OUTPUT/NAME.png`.

  Raises ValueError for a pattern without a match, and for a file that would be written twice or beside its picture.
  """
  found = []
  for pattern in patterns:
    paths = sorted(glob.glob(str(pathlib.Path(pattern).expanduser()), recursive=True))
    matches = [path for path in map(pathlib.Path, paths) if path.is_file()]
    if not matches:
      raise ValueError(f"--images={pattern!r} matches no picture. Quote the pattern, for instance --images='a/*.jpg'.")
    found += matches
  targets = {path: output / f"{path.stem}.png" for path in dict.fromkeys(found)}
  owners = collections.defaultdict(list)
  for path, target in targets.items():
    owners[target].append(path)
    if path.parent.resolve() == output.resolve():
      raise ValueError(f"--output={output} holds the picture {path}, and may hold its mask. Use another folder.")
  for target, paths in owners.items():
    if len(paths) > 1:
      raise ValueError(f"{paths[0]} and {paths[1]} would both become {target}. Predict them into separate folders.")
  return targets


def _overlay_path(target: pathlib.Path) -> pathlib.Path:
  return target.with_name(f"{target.stem}_overlay.jpg")


def predict_pictures(
  config: ml_collections.ConfigDict, trained: Trained, targets: dict[pathlib.Path, pathlib.Path]
) -> int:
  """Predicts pictures, one for each device at a time, and writes label maps and overlays; returns their number.

  Raises ValueError at the end, naming every picture that cannot be read; all others are written.
  """
  broken = []
  progress = inference.Progress("predicting", len(targets))

  def read(path: pathlib.Path) -> tuple[pathlib.Path, np.ndarray | None]:
    try:
      return path, pictures.read_picture(path)
    except ValueError as error:
      broken.append(str(error))
      return path, None

  def write(predicted: tuple[pathlib.Path, np.ndarray, np.ndarray]) -> None:
    path, image, output = predicted
    label = postprocess(image, output)
    overlay.save_labels(targets[path], label, trained.label_set.palette)
    overlay.save(_overlay_path(targets[path]), overlay.blend(image, label, trained.label_set))

  next(iter(targets.values())).parent.mkdir(parents=True, exist_ok=True)
  decoded = parallel_map(read, targets, config.data.num_threads)
  readable = (pair for pair in decoded if pair[1] is not None)
  batches = _batch(readable, trained.setup.mesh.size, segmentation.padding_pixel(config))
  with inference.crf_postprocessing(config) as postprocess:
    for _ in parallel_map(write, _outputs(trained, batches), inference.num_threads(config)):
      progress.add()
  if broken:
    raise ValueError(f"{len(broken)} of {len(targets)} pictures were left out: {'; '.join(sorted(broken))}")
  return len(targets)


def _batch(
  decoded: Iterator[tuple[pathlib.Path, np.ndarray]], size: int, pixel: Sequence[float]
) -> Iterator[loader.Batch]:
  """Yields batches of pictures that are padded to the same canvas; the last batch of each canvas is filled up."""
  waiting, seen = collections.defaultdict(list), set()
  for path, image in decoded:
    canvas = tuple(map(_canvas_side, image.shape[:2]))
    if canvas not in seen:
      _log.info("compiling for pictures of up to %d x %d.", *canvas)
      seen.add(canvas)
    waiting[canvas].append((path, image))
    if len(waiting[canvas]) == size:
      yield _pad(waiting.pop(canvas), canvas, size, pixel)
    elif sum(map(len, waiting.values())) > _MAX_WAITING * size:
      canvas = max(waiting, key=lambda canvas: len(waiting[canvas]))
      yield _pad(waiting.pop(canvas), canvas, size, pixel)
  for canvas, examples in waiting.items():
    yield _pad(examples, canvas, size, pixel)


def _canvas_side(side: int) -> int:
  step = max(_MIN_STEP, 2 ** math.ceil(math.log2(side)) // 8)
  return round_up(side, step)


def _pad(examples: list[tuple[pathlib.Path, np.ndarray]], canvas: tuple[int, int], size: int, pixel) -> loader.Batch:
  images = [transforms.pad({"image": image, "image_id": str(path)}, canvas, pixel)["image"] for path, image in examples]
  sizes = [image.shape[:2] for _, image in examples]
  filling = size - len(examples)
  return {
    "image": np.stack(images + images[:1] * filling),
    "size": np.array(sizes + sizes[:1] * filling, np.int32),
    "examples": examples,
  }


def _outputs(trained: Trained, batches: Iterator[loader.Batch]) -> Iterator[tuple]:
  """Yields the path, the pixels and the prediction of each picture."""
  for batch, outputs in inference.run(trained.setup, trained.weights, batches):
    for (path, image), output in zip(batch["examples"], outputs, strict=False):
      yield path, image, segmentation.remove_padding(output, image.shape[:2])
