"""Sharding: a mesh of devices, arrays spread over it, and exchanges between hosts."""

import collections
import math
import pickle
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

_REPLICATED, _ROWS, _EXAMPLES = PartitionSpec(), PartitionSpec("data", "spatial"), PartitionSpec(("data", "spatial"))


def make_mesh(devices: list | None = None, spatial: int = 1) -> Mesh:
  """Makes a mesh `('data', 'spatial')`: `data` splits the batch, `spatial` splits the rows of each image.

  Args:
    devices: devices to use, by default all.
    spatial: number of devices that share the rows of one image.

  Raises ValueError if `spatial` does not divide the devices of every host.
  """
  devices = jax.devices() if devices is None else devices
  on_hosts = collections.Counter(device.process_index for device in devices)
  if any(count % spatial for count in on_hosts.values()):
    raise ValueError(
      f"config.mesh.spatial={spatial}: must divide the {min(on_hosts.values())} devices of a host, because the rows of "
      f"an image stay on one host. Use {math.gcd(spatial, *on_hosts.values())}."
    )
  if spatial > 1:
    _choose_partitioner()
  # Auto: under Explicit axes each depth-to-space and space-to-depth reshape would need an out_sharding.
  return Mesh(np.array(devices).reshape(-1, spatial), ("data", "spatial"), axis_types=(AxisType.Auto,) * 2)


def can_split_rows() -> bool:
  """Returns True if this version of JAX has a partitioner that is right for split rows: GSPMD, not Shardy alone."""
  return hasattr(jax.config, "jax_use_shardy_partitioner")


def _choose_partitioner() -> None:
  """Chooses GSPMD: Shardy, the default, gives wrong gradients of split rows (4 x 2 CPU devices, 0.10.2 to 0.12.0.1).

  Raises ValueError if this version of JAX has no GSPMD.
  """
  if not can_split_rows():
    raise ValueError(
      f"config.mesh.spatial above 1 needs the GSPMD partitioner, which JAX {jax.__version__} no longer has; with the "
      "other one, gradients are wrong in JAX 0.12. Install JAX 0.12 or older, or set it to 1."
    )
  jax.config.update("jax_use_shardy_partitioner", False)


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of state and metrics: a full copy on each device."""
  return NamedSharding(mesh, _REPLICATED)


def batched(mesh: Mesh, ndim: int = 4) -> NamedSharding:
  """Returns the sharding of a batch: `[B, H, ...]` has B over `data` and H over `spatial`, `[B]` only B over `data`."""
  return NamedSharding(mesh, _ROWS if ndim > 1 else PartitionSpec("data"))


def by_example(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of a batch for `per_device_jit`: whole examples on each device."""
  return NamedSharding(mesh, _EXAMPLES)


def per_device_jit(function: Callable, mesh: Mesh) -> Callable:
  """Jits `(weights, batch) -> results of each example` so that each device works on its own examples alone."""
  return jax.jit(
    jax.shard_map(function, mesh=mesh, in_specs=(_REPLICATED, _EXAMPLES), out_specs=_EXAMPLES, check_vma=False)
  )


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, Any]:
  """Puts this host's shard of a training batch on the devices; returns global arrays, images still uint8."""
  return {name: _to_device(batch[name], batched(mesh, batch[name].ndim)) for name in ("image", "label")}


def shard_eval_batch(batch: dict[str, np.ndarray], mesh: Mesh, with_label: bool = False) -> dict[str, Any]:
  """Puts this host's shard of a batch for `per_device_jit` on the devices, with whole images on each device."""
  names = ("image", "size", "label") if with_label else ("image", "size")
  return {name: _to_device(batch[name], by_example(mesh)) for name in names}


def replicate(tree: Any, mesh: Mesh) -> Any:
  """Copies arrays that all hosts have alike to each device."""
  return jax.tree.map(lambda array: jax.make_array_from_process_local_data(replicated(mesh), np.array(array)), tree)


def _to_device(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
  return jax.make_array_from_process_local_data(sharding, np.ascontiguousarray(array))


def local_examples(array: jax.Array) -> np.ndarray:
  """Returns the examples of a global array that this host's devices hold, in order."""
  shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
  return np.concatenate([np.asarray(shard.data) for shard in shards])


def all_gather(value: Any) -> list[Any]:
  """Gathers a value from each host, in the order of the hosts, on all of them. All hosts must call it."""
  if jax.process_count() == 1:
    return [value]
  # Pickled to bytes, because JAX would truncate 64-bit numbers to 32 bits.
  data = np.frombuffer(pickle.dumps(value), np.uint8)
  lengths = multihost_utils.process_allgather(np.array([len(data)], np.int32)).reshape(-1)
  padded = np.zeros(lengths.max(), np.uint8)
  padded[: len(data)] = data
  rows = multihost_utils.process_allgather(padded)
  return [pickle.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]
