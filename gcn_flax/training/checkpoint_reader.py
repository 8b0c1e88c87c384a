"""Reads the arrays of a checkpoint into NumPy, on this host without the others."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp


class _WaitForAll:
  """Mixin for Orbax's readers of arrays: they end only after every array was read or has failed.

  Orbax's own (0.12.8) end with the first failure and close their event loop. TensorStore then prints a traceback for
  each array that is still being read.
  """

  async def metadata(self, infos):
    return await _gather([super(_WaitForAll, self).metadata([info]) for info in infos])

  async def deserialize(self, infos, args=None):
    pairs = zip(infos, args or [ocp.RestoreArgs()] * len(infos), strict=True)
    return await _gather([super(_WaitForAll, self).deserialize([info], [arg]) for info, arg in pairs])


async def _gather(reads: Sequence[Awaitable[Sequence[Any]]]) -> list[Any]:
  outcomes = await asyncio.gather(*reads, return_exceptions=True)
  failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
  if failed:
    raise failed[0]
  return [array for arrays in outcomes for array in arrays]


class _NumpyReader(_WaitForAll, ocp.type_handlers.NumpyHandler):
  """Restores arrays as NumPy's."""


class _ArrayReader(_NumpyReader):
  """Reads the shapes of saved JAX arrays as those of NumPy's; Orbax's own would read their shardings as well."""

  def typestr(self) -> str:
    return ocp.type_handlers.ArrayHandler().typestr()


def make_reader() -> ocp.PyTreeCheckpointHandler:
  """Returns a handler that restores arrays as NumPy's, and ends only after every array was read or has failed."""
  handlers = (np.ndarray, _NumpyReader()), (jax.Array, _ArrayReader())
  return ocp.PyTreeCheckpointHandler(type_handler_registry=ocp.type_handlers.create_type_handler_registry(*handlers))
