"""Predicts label maps of pictures."""

import logging
import pathlib
from collections.abc import Sequence

import jax
import ml_collections
import numpy as np

from gcn_flax import files, inference
from gcn_flax.input_pipeline import pictures
from gcn_flax.parallel import parallel_map
from gcn_flax.picture_files import find_pictures, overlay_path
from gcn_flax.preflight import check_pixels, preflight
from gcn_flax.printable import printable
from gcn_flax.segmenter import Example, Segmenter
from gcn_flax.visualize import overlay
from gcn_flax.workdir.trained import load_trained
from gcn_flax.workdir.workdir import Workdir

_log = logging.getLogger(__name__)
_MAX_FAULTS = 10  # Pictures that an error names.


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
  count = predict_pictures(Segmenter(config, load_trained(config, workdir, checkpoint)), targets)
  print(f"wrote label maps and overlays of {count} pictures to {printable(output)}")
  return count


def predict_pictures(segmenter: Segmenter, targets: dict[pathlib.Path, pathlib.Path]) -> int:
  """Predicts pictures and writes label maps and overlays; returns their number.

  Raises ValueError at the end, naming every picture that cannot be read; all others are written.
  """
  config, label_set, broken = segmenter.config, segmenter.label_set, []
  progress = inference.Progress("predicting", len(targets))

  def read(path: pathlib.Path) -> Example | None:
    try:
      image = pictures.read_picture(path)
      return path, image, segmenter.pad(image, str(path))
    except (ValueError, OSError) as error:
      broken.append(str(error))
      return None

  def write(predicted: tuple[pathlib.Path, np.ndarray, np.ndarray]) -> None:
    path, image, output = predicted
    label = postprocess(image, output)
    overlay.save_labels(targets[path], label, label_set.palette)
    files.write(overlay_path(targets[path]), overlay.encode_jpeg(overlay.blend(image, label, label_set)))

  next(iter(targets.values())).parent.mkdir(parents=True, exist_ok=True)
  readable = filter(None, parallel_map(read, targets, config.data.num_threads))
  with inference.crf_postprocessing(config) as postprocess:
    for _ in parallel_map(write, segmenter.outputs(readable), inference.num_threads(config)):
      progress.add()
  if broken:
    for fault in sorted(broken)[_MAX_FAULTS:]:
      _log.warning("%s", fault)
    rest = f"; and {len(broken) - _MAX_FAULTS} more, listed above" if len(broken) > _MAX_FAULTS else ""
    named = "; ".join(sorted(broken)[:_MAX_FAULTS])
    raise ValueError(f"{len(broken)} of {len(targets)} pictures were left out: {named}{rest}")
  return len(targets)
