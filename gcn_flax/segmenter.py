"""A trained network for use in Python: `gcn_flax.load("runs/x").predict(image)`."""

import collections
import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import ml_collections
import numpy as np
from absl import logging as absl_logging

from gcn_flax import build, files, inference
from gcn_flax.evaluation import crf
from gcn_flax.flag_errors import closest_field
from gcn_flax.input_pipeline import loader, pictures
from gcn_flax.preflight import check_pixels, preflight
from gcn_flax.printable import one_line
from gcn_flax.tasks import segmentation
from gcn_flax.visualize import overlay
from gcn_flax.workdir.network_paths import find_network
from gcn_flax.workdir.stored_config import stored_config
from gcn_flax.workdir.trained import Trained, load_trained
from gcn_flax.workdir.workdir import Workdir

MAX_WHOLE = 2**26  # Pixels of a picture that the network takes whole; feature maps of larger ones fit few devices.
_MAX_WAITING = 4  # Batches of pictures that may wait for others of their shape.

Image = pictures.Picture  # uint8 [H, W, 3] RGB, the path of a file, or a Pillow image.
Example = tuple[Any, np.ndarray, np.ndarray]  # (key, RGB uint8 [H, W, 3], the same on its canvas).


class Segmenter:
  """A trained network with the settings of its run: canvas, sliding window, scales, flips and CRF.

  A prediction depends on its image alone and equals that of `--mode=predict`, pixel by pixel. Each canvas is compiled
  on first use. Methods may be called from several threads.

  Args:
    config: config of the run.
    trained: its network.

  Attributes:
    config: as given.
    trained: as given.
    label_set: its classes.
  """

  def __init__(self, config: ml_collections.ConfigDict, trained: Trained):
    self.config, self.trained, self.label_set = config, trained, trained.label_set

  def __repr__(self) -> str:
    model = self.config.model
    return (
      f"Segmenter({model.backbone}, head {model.head}, k = {model.kernel_size}, {len(self.classes)} classes, "
      f"step {self.trained.step})"
    )

  @property
  def classes(self) -> tuple[str, ...]:
    """Names of the classes, in the order of the numbers in a label map."""
    return self.label_set.classes

  @property
  def palette(self) -> tuple[tuple[int, int, int], ...]:
    """RGB of each class, 0 to 255."""
    return self.label_set.palette

  def predict(self, images: Image | Iterable[Image]) -> np.ndarray | list[np.ndarray]:
    """Predicts the class of each pixel.

    Args:
      images: RGB uint8 `[H, W, 3]`, the path of a picture file, a Pillow image, or an iterable of these. Pictures are
        read as by `--mode=predict`.

    Returns:
      A label map uint8 `[H, W]` of the image's own size; a list of them for several images.

    Raises:
      ValueError: for anything else, for files that cannot be read, and for images that are too large.
    """
    return self._one_or_all(images, self._label_maps)

  def probabilities(self, images: Image | Iterable[Image]) -> np.ndarray | list[np.ndarray]:
    """Returns the probability of each class for each pixel, before CRF post-processing.

    Args:
      images: as for `predict`.

    Returns:
      float32 `[H, W, num_classes]` of the image's own size; a list of them for several images.

    Raises:
      ValueError: as `predict`.
    """
    return self._one_or_all(images, self._probabilities)

  def overlay(self, image: Image, labels: np.ndarray) -> np.ndarray:
    """Blends an image with the colours of its classes.

    Args:
      image: as for `predict`.
      labels: label map uint8 `[H, W]` of the image's size; 255 = void.

    Returns:
      RGB uint8 `[H, W, 3]`.

    Raises:
      ValueError: if sizes differ.
    """
    image, _ = pictures.as_rgb(image)
    if labels.shape != image.shape[:2] or labels.dtype != np.uint8:
      raise ValueError(f"labels: {labels.dtype} {labels.shape}; must be uint8 {image.shape[:2]}, as the image.")
    return overlay.blend(image, labels, self.label_set)

  def pad(self, image: np.ndarray, name: str = "") -> np.ndarray:
    """Returns RGB uint8 `[H, W, 3]` on the canvas that it is predicted on.

    Raises ValueError, with the name of the image, if it is larger than a fixed canvas, or too large to be predicted
    without a sliding window.
    """
    height, width = image.shape[:2]
    if height * width > MAX_WHOLE and not self.config.eval.tile:
      raise ValueError(
        f"{name or 'the image'} is {height} x {width}, more than the {MAX_WHOLE:,} pixels that are predicted whole. "
        'Add --config.eval.tile="(1024,1024)"; in Python, overrides={"eval.tile": (1024, 1024)}.'
      )
    return segmentation.eval_transform(self.config)({"image": image, "image_id": name})["image"]

  def outputs(self, examples: Iterable[Example]) -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
    """Yields (key, image, output) of each example; the order changes, because images of one canvas share a batch.

    An output is a label map uint8 `[H, W]`; with CRF post-processing, which is left to the caller, it is the
    probabilities float32 `[H, W, num_classes]`.
    """
    return _run(self.trained, self.trained.setup, examples)

  def _label_maps(self, examples: Iterable[Example]) -> dict[Any, np.ndarray]:
    if not self.config.eval.crf.iterations:
      return {key: output for key, _, output in self.outputs(examples)}
    parameters = inference.crf_parameters(self.config)
    return {key: crf.postprocess(image, output, parameters) for key, image, output in self.outputs(examples)}

  def _probabilities(self, examples: Iterable[Example]) -> dict[Any, np.ndarray]:
    return {key: output for key, _, output in _run(self.trained, self._probability_setup, examples)}

  @functools.cached_property
  def _probability_setup(self) -> build.Setup:
    return build.with_probabilities(self.config, self.trained.setup)

  def _one_or_all(self, images: Image | Iterable[Image], find: Callable) -> Any:
    """Returns the result of one image, or a list of those of several; `find` maps examples to results by key."""
    if pictures.is_picture(images):
      return self._one_or_all([images], find)[0]
    examples = ((index, rgb, self.pad(rgb, name)) for index, (rgb, name) in enumerate(map(pictures.as_rgb, images)))
    found = find(examples)
    return [found[index] for index in range(len(found))]


def load(
  path: files.Path | str, checkpoint: str | int = "best", overrides: Mapping[str, Any] | None = None
) -> Segmenter:
  """Loads a trained network; needs no data set.

  Args:
    path: a workdir, local or `gs://BUCKET/RUN`; an exported `network.safetensors`, or a released folder with one; or
      the address of such a file with its digest, `https://HOST/PATH#sha256=DIGEST`, which is downloaded once.
    checkpoint: `best`, `last` or a step of the workdir.
    overrides: other values of config fields, such as `{"eval.flip": True, "eval.tile": (512, 512)}`; all fields are in
      `gcn_flax.config`.

  Raises:
    ValueError: if there is no such network or it cannot be downloaded, for a classifier of whole images, and for
      overrides that do not fit.
  """
  path = find_network(path)
  config = stored_config(path)
  is_exported = path.is_file()
  if is_exported and checkpoint != "best":
    raise ValueError(f"checkpoint={checkpoint!r}: an exported network has no checkpoints. Leave it out.")
  for field, value in (overrides or {}).items():
    _override(config, field, value)
  check_pixels(config, "gcn_flax.load")
  with _quiet_orbax():
    preflight(config, Workdir(path))
    return Segmenter(config, load_trained(config, Workdir(path), "0" if is_exported else str(checkpoint)))


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
  """Keeps Orbax from warning that checkpoints are only read."""
  before = absl_logging.get_verbosity()
  absl_logging.set_verbosity(absl_logging.ERROR)
  try:
    yield
  finally:
    absl_logging.set_verbosity(before)


def _override(config: ml_collections.ConfigDict, field: str, value: Any) -> None:
  """Sets a field of a config. Raises ValueError if there is no such field, or for a value of another type."""
  try:
    config.update_from_flattened_dict({field: value})
  except (AttributeError, KeyError) as error:
    similar = closest_field(field)
    hint = f"Did you mean {similar!r}?" if similar else "gcn_flax.config lists all fields."
    raise ValueError(f"overrides: the config has no field {field!r}. {hint}") from error
  except TypeError as error:
    raise ValueError(f"overrides: {field}={value!r}: {one_line(error)}") from error


def _run(
  trained: Trained, setup: build.Setup, examples: Iterable[Example]
) -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
  for batch, outputs in inference.run(setup, trained.weights, _batch(examples, setup.mesh.size)):
    for (key, image, _), output in zip(batch["examples"], outputs, strict=False):
      yield key, image, segmentation.remove_padding(output, image.shape[:2])


def _batch(examples: Iterable[Example], size: int) -> Iterator[loader.Batch]:
  """Yields batches of examples of one canvas each; the last ones are filled up."""
  waiting = collections.defaultdict(list)
  for example in examples:
    canvas = example[2].shape[:2]
    waiting[canvas].append(example)
    if len(waiting[canvas]) == size:
      yield _stack(waiting.pop(canvas), size)
    elif sum(map(len, waiting.values())) > _MAX_WAITING * size:
      canvas = max(waiting, key=lambda canvas: len(waiting[canvas]))
      yield _stack(waiting.pop(canvas), size)
  for rest in waiting.values():
    yield _stack(rest, size)


def _stack(examples: list[Example], size: int) -> loader.Batch:
  filled = examples + examples[:1] * (size - len(examples))
  return {
    "image": np.stack([padded for _, _, padded in filled]),
    "size": np.array([image.shape[:2] for _, image, _ in filled], np.int32),
    "examples": examples,
  }
