"""CRF post-processing: a fully connected CRF (Kraehenbuehl and Koltun, NIPS 2011), as in the paper.

Uses the optional `pydensecrf`: pip install -r requirements-crf.txt -c constraints.txt
"""

import dataclasses
import importlib.util
from collections.abc import Sequence

import numpy as np

from gcn_flax.evaluation import confusion


@dataclasses.dataclass(frozen=True)
class Parameters:
  """Parameters of mean-field inference with a spatial and a bilateral Gaussian kernel.

  Attributes:
    iterations: number of mean-field iterations.
    smooth_weight, smooth_xy: weight of the spatial kernel; its standard deviation, pixels.
    color_weight, color_xy, color_rgb: weight of the bilateral kernel; its standard deviations in space, pixels, and
      in colour, values from 0 to 255.
  """

  iterations: int
  smooth_weight: float
  smooth_xy: float
  color_weight: float
  color_xy: float
  color_rgb: float


FIELDS = tuple(field.name for field in dataclasses.fields(Parameters))


def check_installed() -> None:
  """Raises ValueError if pydensecrf is not installed."""
  if importlib.util.find_spec("pydensecrf") is None:
    raise ValueError(
      "CRF post-processing: pydensecrf is not installed. Run pip install pydensecrf2 (needs a C++ compiler), or "
      "set config.eval.crf.iterations=0."
    )


def postprocess(image: np.ndarray, probabilities: np.ndarray, parameters: Parameters) -> np.ndarray:
  """Returns the most probable labels, uint8 `[H, W]`, after mean-field inference with a Potts model.

  Args:
    image: RGB uint8 `[H, W, 3]`.
    probabilities: class probabilities from the network, float32 `[H, W, C]`.
    parameters: parameters of the CRF.
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
  """Returns confusion matrices of one image, without a CRF and with each of N candidates, int64 `[1 + N, C, C]`."""
  predictions = [np.argmax(probabilities, -1).astype(np.uint8)]
  predictions += [postprocess(image, probabilities, parameters) for parameters in candidates]
  num_classes = probabilities.shape[-1]
  return np.stack([confusion.confusion_matrix(label, prediction, num_classes) for prediction in predictions])
