"""How arrays are spread over the devices."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh(spatial: int = 1, devices: list | None = None) -> Mesh:
  """A mesh `('data', 'spatial')`: the batch is split over the first axis, rows of an image over the second.

  Raises ValueError where `spatial` does not divide the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  if len(devices) % spatial:
    raise ValueError(f"spatial={spatial} must divide the {len(devices)} devices.")
  # Auto: under explicit axes, the scatter of the confusion matrix does not compile.
  grid = np.array(devices).reshape(len(devices) // spatial, spatial)
  return Mesh(grid, ("data", "spatial"), axis_types=(AxisType.Auto, AxisType.Auto))


def replicated(mesh: Mesh) -> NamedSharding:
  """Whole on every device: state and metrics."""
  return NamedSharding(mesh, PartitionSpec())


def batched(mesh: Mesh) -> NamedSharding:
  """`[B, H, ...]`: examples over `data`, rows over `spatial`."""
  return NamedSharding(mesh, PartitionSpec("data", "spatial"))


def to_device(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, Any]:
  """The images and labels of this host's share of a batch as global arrays, still uint8."""
  sharding = batched(mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, np.ascontiguousarray(batch[name]))
    for name in ("image", "label")
  }
