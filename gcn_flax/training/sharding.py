"""How arrays are spread over the devices."""

import collections
import pickle
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

_WHOLE, _ROWS, _EXAMPLES = PartitionSpec(), PartitionSpec("data", "spatial"), PartitionSpec(("data", "spatial"))


def make_mesh(devices: list | None = None, spatial: int = 1) -> Mesh:
  """A mesh `('data', 'spatial')`: examples of a batch are spread over `data`, the rows of each image over `spatial`.

  Args:
    devices: to use; None takes all.
    spatial: devices that share the rows of one image.

  Raises ValueError where `spatial` does not divide the devices of every host.
  """
  devices = jax.devices() if devices is None else devices
  on_hosts = collections.Counter(device.process_index for device in devices)
  if any(count % spatial for count in on_hosts.values()):
    raise ValueError(
      f"config.mesh.spatial={spatial} must divide the {min(on_hosts.values())} devices of a host, on which the rows of "
      "an image stay."
    )
  if spatial > 1:
    _choose_partitioner()
  # Auto: under explicit axes, the scatter of the confusion matrix does not compile.
  return Mesh(np.array(devices).reshape(-1, spatial), ("data", "spatial"), axis_types=(AxisType.Auto,) * 2)


def _choose_partitioner() -> None:
  """Takes GSPMD, because Shardy, JAX's default, gave wrong gradients of split rows (jax 0.10.2, 4 x 2 CPU devices).

  Raises ValueError where this JAX has no choice.
  """
  if not hasattr(jax.config, "jax_use_shardy_partitioner"):
    raise ValueError(
      f"config.mesh.spatial above 1 needs the GSPMD partitioner, which JAX {jax.__version__} no longer has; with the "
      "other one, gradients of JAX 0.10.2 were wrong. Take JAX 0.10, or set it to 1."
    )
  jax.config.update("jax_use_shardy_partitioner", False)


def replicated(mesh: Mesh) -> NamedSharding:
  """Whole on every device: state and metrics."""
  return NamedSharding(mesh, _WHOLE)


def batched(mesh: Mesh, ndim: int = 4) -> NamedSharding:
  """`[B, H, ...]`: examples over `data`, rows over `spatial`; of `[B]` the examples alone."""
  return NamedSharding(mesh, _ROWS if ndim > 1 else PartitionSpec("data"))


def per_device_jit(function: Callable, mesh: Mesh) -> Callable:
  """Compiles `(weights, batch) -> per example` so that each device works on its own examples, without the others."""
  return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=(_WHOLE, _EXAMPLES), out_specs=_EXAMPLES, check_vma=False))


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, Any]:
  """Images and labels of this host's share of a batch to train on, as global arrays, images still uint8."""
  return {name: _to_device(batch[name], batched(mesh, batch[name].ndim)) for name in ("image", "label")}


def shard_eval_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, Any]:
  """Images and sizes of this host's share of a batch for `per_device_jit`, whole images on each device."""
  return {name: _to_device(batch[name], NamedSharding(mesh, _EXAMPLES)) for name in ("image", "size")}


def _to_device(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
  return jax.make_array_from_process_local_data(sharding, np.ascontiguousarray(array))


def local_examples(array: jax.Array) -> np.ndarray:
  """The examples of a global array that this host's devices hold, in order."""
  shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
  return np.concatenate([np.asarray(shard.data) for shard in shards])


def all_gather(value: Any) -> list[Any]:
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
