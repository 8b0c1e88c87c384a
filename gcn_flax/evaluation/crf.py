"""Fully connected conditional random field after the network (Kraehenbuehl and Koltun, NIPS 2011), as the paper has it.

By `pydensecrf`, an extra: pip install -r requirements-crf.txt -c constraints.txt
"""

import dataclasses
import importlib.util
import os
import threading
import time
from collections.abc import Sequence

import numpy as np

from gcn_flax.evaluation import confusion


@dataclasses.dataclass(frozen=True)
class Parameters:
  """Of mean field inference with two Gaussian kernels, one of places, one of places and colours.

  Attributes:
    iterations: of mean field inference.
    smooth_weight, smooth_xy: weight of the first kernel, and its standard deviation in pixels.
    color_weight, color_xy, color_rgb: weight of the second one, its standard deviations in pixels and in values of 0
      to 255.
  """

  iterations: int
  smooth_weight: float
  smooth_xy: float
  color_weight: float
  color_xy: float
  color_rgb: float


FIELDS = tuple(field.name for field in dataclasses.fields(Parameters))


def end_with_parent() -> None:
  """Ends this process when the one that started it is gone, however that was killed."""
  parent = os.getppid()

  def watch():
    while os.getppid() == parent:
      time.sleep(1)
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


def check_installed() -> None:
  """Raises ValueError where the library is missing."""
  if importlib.util.find_spec("pydensecrf") is None:
    raise ValueError(
      "a dense CRF is asked for, but pydensecrf is not installed: pip install -r requirements-crf.txt "
      "-c constraints.txt (needs a C++ compiler), or set config.eval.crf.iterations=0."
    )


def postprocess(image: np.ndarray, probabilities: np.ndarray, parameters: Parameters) -> np.ndarray:
  """The most probable labels, uint8 `[H, W]`, after mean field inference with a Potts model.

  Args:
    image: RGB uint8 `[H, W, 3]`.
    probabilities: float32 `[H, W, C]`, of the network.
    parameters: of the field.
  """
  from pydensecrf import densecrf

  height, width, num_classes = probabilities.shape
  field = densecrf.DenseCRF2D(width, height, num_classes)
  unary = -np.log(np.maximum(probabilities, 1e-10)).transpose(2, 0, 1).reshape(num_classes, -1)
  field.setUnaryEnergy(np.ascontiguousarray(unary, np.float32))
  field.addPairwiseGaussian(sxy=parameters.smooth_xy, compat=parameters.smooth_weight)
  field.addPairwiseBilateral(
    sxy=parameters.color_xy,
    srgb=parameters.color_rgb,
    rgbim=np.ascontiguousarray(image),
    compat=parameters.color_weight,
  )
  labels = np.argmax(np.array(field.inference(parameters.iterations)), 0)
  return labels.reshape(height, width).astype(np.uint8)


def count_each(
  image: np.ndarray, label: np.ndarray, probabilities: np.ndarray, candidates: Sequence[Parameters]
) -> np.ndarray:
  """Confusion matrices of one image: without refinement first, then with each candidate; int64 `[1 + N, C, C]`."""
  predictions = [np.argmax(probabilities, -1).astype(np.uint8)]
  predictions += [postprocess(image, probabilities, parameters) for parameters in candidates]
  num_classes = probabilities.shape[-1]
  return np.stack([confusion.confusion_matrix(label, prediction, num_classes) for prediction in predictions])
