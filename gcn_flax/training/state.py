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
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any
