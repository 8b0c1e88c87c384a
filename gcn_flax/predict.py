"""Predicts label maps of pictures."""

import collections
import logging
import pathlib
from collections.abc import Iterator, Sequence

import jax
import ml_collections
import numpy as np

from gcn_flax import files, inference
from gcn_flax.input_pipeline import loader, pictures
from gcn_flax.parallel import parallel_map
from gcn_flax.picture_files import find_pictures, overlay_path
from gcn_flax.preflight import check_pixels, preflight
from gcn_flax.printable import printable
from gcn_flax.tasks import segmentation
from gcn_flax.visualize import overlay
from gcn_flax.workdir.trained import Trained, load_trained
from gcn_flax.workdir.workdir import Workdir

_log = logging.getLogger(__name__)
_MAX_WHOLE = 2**26  # Pixels of a picture that the network takes whole; feature maps of larger ones fit few devices.
_MAX_FAULTS = 10  # Pictures that an error names.
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
    images: files, folders and patterns such as `a/*.jpg`.
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


def predict_pictures(
  config: ml_collections.ConfigDict, trained: Trained, targets: dict[pathlib.Path, pathlib.Path]
) -> int:
  """Predicts pictures, one for each device at a time, and writes label maps and overlays; returns their number.

  Raises ValueError at the end, naming every picture that cannot be read; all others are written.
  """
  broken, fit = [], segmentation.eval_transform(config)
  progress = inference.Progress("predicting", len(targets))

  def read(path: pathlib.Path) -> tuple[pathlib.Path, np.ndarray, np.ndarray] | None:
    try:
      image = _read(path, whole=not config.eval.tile)
      return path, image, fit({"image": image, "image_id": str(path)})["image"]
    except (ValueError, OSError) as error:
      broken.append(str(error))
      return None

  def write(predicted: tuple[pathlib.Path, np.ndarray, np.ndarray]) -> None:
    path, image, output = predicted
    label = postprocess(image, output)
    overlay.save_labels(targets[path], label, trained.label_set.palette)
    blended = overlay.blend(image, label, trained.label_set)
    files.write(overlay_path(targets[path]), overlay.encode_jpeg(blended))

  next(iter(targets.values())).parent.mkdir(parents=True, exist_ok=True)
  decoded = parallel_map(read, targets, config.data.num_threads)
  readable = (example for example in decoded if example)
  batches = _batch(readable, trained.setup.mesh.size)
  with inference.crf_postprocessing(config) as postprocess:
    for _ in parallel_map(write, _outputs(trained, batches), inference.num_threads(config)):
      progress.add()
  if broken:
    for fault in sorted(broken)[_MAX_FAULTS:]:
      _log.warning("%s", fault)
    rest = f"; and {len(broken) - _MAX_FAULTS} more, listed above" if len(broken) > _MAX_FAULTS else ""
    named = "; ".join(sorted(broken)[:_MAX_FAULTS])
    raise ValueError(f"{len(broken)} of {len(targets)} pictures were left out: {named}{rest}")
  return len(targets)


def _read(path: pathlib.Path, whole: bool) -> np.ndarray:
  image = pictures.read_picture(path)
  height, width = image.shape[:2]
  if whole and height * width > _MAX_WHOLE:
    problem = f"{path} is {height} x {width}, more than the {_MAX_WHOLE:,} pixels that are predicted whole"
    raise ValueError(f'{problem}. Add --config.eval.tile="(1024,1024)".')
  return image


def _batch(decoded: Iterator[tuple[pathlib.Path, np.ndarray, np.ndarray]], size: int) -> Iterator[loader.Batch]:
  """Yields batches of pictures, (path, image, image on its canvas), of one canvas each; the last ones are filled up."""
  waiting = collections.defaultdict(list)
  for example in decoded:
    canvas = example[2].shape[:2]
    waiting[canvas].append(example)
    if len(waiting[canvas]) == size:
      yield _stack(waiting.pop(canvas), size)
    elif sum(map(len, waiting.values())) > _MAX_WAITING * size:
      canvas = max(waiting, key=lambda canvas: len(waiting[canvas]))
      yield _stack(waiting.pop(canvas), size)
  for examples in waiting.values():
    yield _stack(examples, size)


def _stack(examples: list[tuple[pathlib.Path, np.ndarray, np.ndarray]], size: int) -> loader.Batch:
  filled = examples + examples[:1] * (size - len(examples))
  return {
    "image": np.stack([padded for _, _, padded in filled]),
    "size": np.array([image.shape[:2] for _, image, _ in filled], np.int32),
    "examples": examples,
  }


def _outputs(trained: Trained, batches: Iterator[loader.Batch]) -> Iterator[tuple]:
  """Yields the path, the pixels and the prediction of each picture."""
  for batch, outputs in inference.run(trained.setup, trained.weights, batches):
    for (path, image, _), output in zip(batch["examples"], outputs, strict=False):
      yield path, image, segmentation.remove_padding(output, image.shape[:2])
