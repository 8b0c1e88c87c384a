"""Compares exported files, read back and run by their own runtimes, with the network that they were made from."""

import dataclasses
import importlib.util
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax import export

from gcn_flax import files

# RGB uint8 [1, H, W, 3] -> labels uint8 [1, H, W], probabilities float32 [1, H, W, C].
Runtime = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Agreement:
  """Agreement of the results of a file with the network's.

  Attributes:
    equal_labels: share of the pixels with the same class.
    largest_difference: largest absolute difference of a probability.
  """

  equal_labels: float
  largest_difference: float


def compare(run: Runtime, padded: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> Agreement:
  """Compares a runtime with the network.

  Args:
    run: runs an exported file.
    padded: pictures on their canvases, RGB uint8 `[H, W, 3]`.
    expected: the network's probabilities of each picture without its canvas, float32 `[h, w, C]`.
  """
  equal, total, largest = 0, 0, 0.0
  for image, probabilities in zip(padded, expected, strict=True):
    height, width, _ = probabilities.shape
    labels, found = (output[0, :height, :width] for output in run(image[None]))
    equal += int((labels == probabilities.argmax(-1)).sum())
    total += labels.size
    largest = max(largest, float(np.abs(found - probabilities).max()))
  return Agreement(equal / total, largest)


def stablehlo_runtime(content: bytes) -> Runtime:
  """Returns a function that runs `network.stablehlo` by JAX."""
  call = jax.jit(export.deserialize(bytearray(content)).call)
  return lambda images: tuple(map(np.asarray, call(images)))


def onnx_runtime(content: bytes) -> Runtime | None:
  """Returns a function that runs `network.onnx` by ONNX Runtime; None if that is not installed."""
  if importlib.util.find_spec("onnxruntime") is None:
    return None
  import onnxruntime

  session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
  return lambda images: session.run(["labels", "probabilities"], {"images": images})


def torch_runtime(folder: files.Path) -> Runtime | None:
  """Returns a function that runs `network.py` of a local folder by PyTorch; None if that is not installed."""
  if importlib.util.find_spec("torch") is None:
    return None
  import torch

  spec = importlib.util.spec_from_file_location("exported_network", folder / "network.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  network = module.load(folder / "network.safetensors")

  def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
      return tuple(output.numpy() for output in network(torch.from_numpy(images)))

  return run
