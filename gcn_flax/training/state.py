"""Everything a run must keep to go on exactly: plain data, no functions."""

from typing import Any

import flax.struct
import jax


@flax.struct.dataclass
class TrainState:
  """The train state.

  Attributes:
    step: int32 scalar, updates applied so far.
    params: float32 weights.
    batch_stats: running statistics of batch normalisation.
    opt_state: of the optimizer (momentum).
    normalization: what pixels go through before the network, see `steps.normalize`. It is part of the state
      so that weights are never scored with another one than they were trained with.
    ema: `{'params': ..., 'batch_stats': ...}`, moving averages; `{}` where there are none.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any
  normalization: dict[str, jax.Array]
  ema: dict[str, Any]

  def weights(self) -> dict[str, Any]:
    """What is scored and exported: `params` and `batch_stats`, averaged where they are, and `normalization`."""
    weights = self.ema or {"params": self.params, "batch_stats": self.batch_stats}
    return {**weights, "normalization": self.normalization}
