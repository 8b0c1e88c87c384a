"""Compares exported files, read back and run by their own runtimes, with the network that they were made from."""

import dataclasses
import importlib.util
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Mapping

import jax
import numpy as np
from jax import export

from gcn_flax import files

# RGB uint8 [1, H, W, 3] -> labels uint8 [1, H, W], probabilities float32 [1, H, W, C].
Runtime = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
# A picture on its canvas, RGB uint8 [H, W, 3], and the network's probabilities without the padding, float32 [h, w, C].
Example = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Agreement:
  """Agreement of the results of a file with the network's.

  Attributes:
    equal_labels: share of the pixels with the same class.
    largest_difference: largest absolute difference of a probability; 1 if a probability is NaN.
  """

  equal_labels: float
  largest_difference: float


def compare(runtimes: Mapping[str, Runtime], examples: Iterable[Example]) -> dict[str, Agreement]:
  """Runs exported files on the same examples, and returns the agreement of each with the network, by name."""
  equal, largest, total = dict.fromkeys(runtimes, 0), dict.fromkeys(runtimes, 0.0), 0
  for padded, probabilities in examples:
    height, width, _ = probabilities.shape
    expected = probabilities.argmax(-1)
    total += expected.size
    for name, run in runtimes.items():
      labels, found = (output[0, :height, :width] for output in run(padded[None]))
      difference = np.nan_to_num(np.abs(found - probabilities), nan=1.0)
      equal[name] += int((labels == expected).sum())
      largest[name] = max(largest[name], float(difference.max()))
  return {name: Agreement(equal[name] / total, largest[name]) for name in runtimes}


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
  """Returns a function that runs `network.py` of a folder by PyTorch; None if that is not installed."""
  if importlib.util.find_spec("torch") is None:
    return None
  import torch

  with tempfile.TemporaryDirectory() as copy:  # The folder may be in a bucket, and should not get Python's caches.
    for name in ("network.py", "network.safetensors"):
      (pathlib.Path(copy) / name).write_bytes((folder / name).read_bytes())
    spec = importlib.util.spec_from_file_location("exported_network", f"{copy}/network.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network = module.load()

  def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
      return tuple(output.numpy() for output in network(torch.from_numpy(images)))

  return run
