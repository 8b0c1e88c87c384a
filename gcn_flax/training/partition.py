"""How arrays are spread over the devices."""

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

_WHOLE, _BATCHED = PartitionSpec(), PartitionSpec("data")


def make_mesh(devices: list | None = None) -> Mesh:
  """A mesh `('data',)` over the devices, all of them unless told, which share the examples of a batch."""
  devices = jax.devices() if devices is None else devices
  # Auto: under explicit axes, the scatter of the confusion matrix does not compile.
  return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
  """Whole on every device: state and metrics."""
  return NamedSharding(mesh, _WHOLE)


def batched(mesh: Mesh) -> NamedSharding:
  """`[B, ...]`: examples over `data`."""
  return NamedSharding(mesh, _BATCHED)


def on_each(function: Callable, mesh: Mesh) -> Callable:
  """Compiles `(weights, batch) -> per example` so that each device works on its own examples, without the others."""
  return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=(_WHOLE, _BATCHED), out_specs=_BATCHED, check_vma=False))


def to_device(batch: dict[str, np.ndarray], mesh: Mesh, names: Sequence[str] = ("image", "label")) -> dict[str, Any]:
  """What is named of this host's share of a batch as global arrays, images still uint8."""
  sharding = batched(mesh)
  return {name: jax.make_array_from_process_local_data(sharding, np.ascontiguousarray(batch[name])) for name in names}


def of_this_host(array: jax.Array) -> np.ndarray:
  """The examples of a global array that this host's devices hold, in order."""
  shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
  return np.concatenate([np.asarray(shard.data) for shard in shards])


def gather(value: Any) -> list[Any]:
  """What each host gives, on every host, in the order of the hosts. All hosts must call it."""
  if jax.process_count() == 1:
    return [value]
  # As bytes: JAX would make 32-bit numbers of 64-bit ones.
  data = np.frombuffer(pickle.dumps(value), np.uint8)
  lengths = multihost_utils.process_allgather(np.array([len(data)], np.int32)).reshape(-1)
  padded = np.zeros(lengths.max(), np.uint8)
  padded[: len(data)] = data
  rows = multihost_utils.process_allgather(padded)
  return [pickle.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]
