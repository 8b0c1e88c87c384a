"""How arrays are spread over the devices."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh(devices: list | None = None) -> Mesh:
  """A mesh `('data',)` over the devices, all of them unless told, which share the examples of a batch."""
  devices = jax.devices() if devices is None else devices
  # Auto: under explicit axes, the scatter of the confusion matrix does not compile.
  return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
  """Whole on every device: state and metrics."""
  return NamedSharding(mesh, PartitionSpec())


def batched(mesh: Mesh) -> NamedSharding:
  """`[B, ...]`: examples over `data`."""
  return NamedSharding(mesh, PartitionSpec("data"))


def to_device(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, Any]:
  """The images and labels of this host's share of a batch as global arrays, still uint8."""
  sharding = batched(mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, np.ascontiguousarray(batch[name]))
    for name in ("image", "label")
  }
