"""StableHLO of a trained network, which JAX, IREE and other runtimes read: one file for CPUs, GPUs and TPUs."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from gcn_flax.models.gcn import GCN
from gcn_flax.training.steps import normalize

PLATFORMS = ("cpu", "cuda", "tpu")


def serialize(network: GCN, weights: dict[str, Any], size: Sequence[int] = ()) -> bytes:
  """Returns the network with its weights and the normalisation of its input, as written by `jax.export`.

  The program maps RGB uint8 `[B, H, W, 3]` to a label map uint8 `[B, H, W]` and probabilities float32
  `[B, H, W, num_classes]`, for any B and any H and W that are multiples of 32.

  Args:
    network: the network, with the reference implementations, because the program is for several platforms.
    weights: weights from `TrainState.weights`.
    size: (H, W) to fix; () for any.
  """
  weights = jax.device_get(weights)
  variables = {name: weights[name] for name in ("params", "batch_stats")}

  def predict(images: jax.Array) -> tuple[jax.Array, jax.Array]:
    normal = normalize(images, weights["normalization"])
    logits = network.apply(variables, normal, train=False)
    return jnp.argmax(logits, -1).astype(jnp.uint8), jax.nn.softmax(logits)

  shape = export.symbolic_shape("b, 32*h, 32*w, 3")
  shape = (shape[0], *size, 3) if size else shape
  images = jax.ShapeDtypeStruct(shape, jnp.uint8)
  return bytes(export.export(jax.jit(predict), platforms=PLATFORMS)(images).serialize())
