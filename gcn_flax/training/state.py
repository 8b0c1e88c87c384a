"""The train state: everything a run must keep to resume exactly; plain data, no functions."""

from typing import Any

import flax.struct
import jax

COLLECTIONS = ("params", "batch_stats")


@flax.struct.dataclass
class TrainState:
  """The train state.

  Attributes:
    step: int32 scalar, number of updates so far.
    params: float32 weights.
    batch_stats: running statistics of batch normalisation.
    opt_state: state of the optimizer (momentum).
    normalization: normalisation of the pixels, see `steps.normalize`. It is part of the state so that weights get
      the normalisation they were trained with.
    ema: exponential moving averages `{'params': ..., 'batch_stats': ...}`; `{}` if there are none.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any
  normalization: dict[str, jax.Array]
  ema: dict[str, Any]

  def weights(self) -> dict[str, Any]:
    """Returns the weights to evaluate and export: `params`, `batch_stats` (or their averages), `normalization`."""
    weights = self.ema or {"params": self.params, "batch_stats": self.batch_stats}
    return {**weights, "normalization": self.normalization}
