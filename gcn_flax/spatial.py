"""Spatial partitioning: how many devices share the rows of each training image, `config.mesh.spatial`."""

import collections
import logging
import math

import jax
import ml_collections

from gcn_flax.config import is_classifier
from gcn_flax.messages import flag
from gcn_flax.training import sharding

_log = logging.getLogger(__name__)
_FULL = 8  # Rows of a TPU's vector register, which XLA fills with images.
_STRIDE = 32  # Of the network: each device needs whole rows of its coarsest maps.
_SHARED = "{} chips share the rows of each image, so that they hold {} at once; fewer than 8 cost as much as 8"
_WHOLE = "each chip has whole images{}"


def choose(
  platform: str, num_devices: int, devices_per_host: int, batch_size: int, accumulate_steps: int, crop: tuple[int, int]
) -> tuple[int, str]:
  """Chooses the number of devices that share the rows of each training image.

  On a TPU fewer than 8 images at once cost as much as 8 (docs/PERFORMANCE.md), so this is the smallest group of chips
  of a host that holds at least 8 images and divides their rows; 1 if there is none. CPUs and GPUs get 1.

  Args:
    platform: JAX's name of the platform.
    num_devices: number of devices of all hosts.
    devices_per_host: number of devices of each host.
    batch_size: images per update, over all devices.
    accumulate_steps: number of micro-batches that a batch is split into.
    crop: (height, width) of the images, pixels.

  Returns:
    The number of devices, and the reason for the log; "" on CPUs and GPUs.
  """
  if platform != "tpu":
    return 1, ""
  images = _images_at_once(num_devices, devices_per_host, batch_size, accumulate_steps)
  full = [group for group, count in images.items() if count >= _FULL]
  for group in full:
    if crop[0] % (_STRIDE * group) == 0:
      return group, _SHARED.format(group, images[group]) if group > 1 else _WHOLE.format(f", {images[1]} at once")
  if full:
    problem = f"the {crop[0] // _STRIDE} rows of {crop} at stride {_STRIDE} do not divide over the {full[0]} chips that"
    fix = f"{flag('config.data.crop_size', _dividing_crop(crop, full[0]))} would divide"
  else:
    problem = "no group of chips of a host"
    needed = _FULL * accumulate_steps * num_devices // devices_per_host
    fix = f"{flag('config.batch_size', needed)} would be enough"
  return 1, _WHOLE.format(f", because {problem} would hold {_FULL} at once, and fewer cost as much as {_FULL}. {fix}")


def of(config: ml_collections.ConfigDict, devices: list | None = None) -> int:
  """Returns `config.mesh.spatial`, or the number that is chosen for the devices (by default all) if it is 0."""
  chosen, _ = _chosen(config, devices)
  return chosen if config.mesh.spatial or sharding.can_split_rows() else 1


def log_choice(config: ml_collections.ConfigDict, devices: list | None = None) -> None:
  """Logs what `of` chooses and why; nothing if the config names a number, and on CPUs and GPUs."""
  chosen, reason = _chosen(config, devices)
  if reason and chosen > of(config, devices):
    _log.warning(
      "WARNING: config.mesh.spatial=0: taken as 1, because JAX %s has no partitioner that is right for split rows; "
      "%d would be faster. Use JAX 0.12 or older.", jax.__version__, chosen,
    )  # fmt: skip
  elif reason:
    _log.info("config.mesh.spatial=0: %s.", reason)


def layouts(config: ml_collections.ConfigDict, devices: list) -> list[int]:
  """Returns the values of `config.mesh.spatial` that the devices of a host and the rows of the crop allow."""
  if is_classifier(config):
    return [1]
  shared = math.gcd(_devices_per_host(devices), config.data.crop_size[0] // _STRIDE)
  return [count for count in range(1, shared + 1) if shared % count == 0]


def _chosen(config: ml_collections.ConfigDict, devices: list | None) -> tuple[int, str]:
  if config.mesh.spatial:
    return config.mesh.spatial, ""
  crop = tuple(config.data.crop_size)
  if is_classifier(config) or not crop:  # No rows of label maps to split; a crop that was not chosen yet.
    return 1, ""
  devices = jax.devices() if devices is None else devices
  on_host = _devices_per_host(devices)
  return choose(devices[0].platform, len(devices), on_host, config.batch_size, config.accumulate_steps, crop)


def _devices_per_host(devices: list) -> int:
  return math.gcd(*collections.Counter(device.process_index for device in devices).values())


def _images_at_once(num_devices: int, devices_per_host: int, batch_size: int, accumulate_steps: int) -> dict[int, int]:
  """Returns size -> images at once, for groups of a host's devices that a batch can be split over, smallest first."""
  sizes = [size for size in range(1, devices_per_host + 1) if devices_per_host % size == 0]
  groups = {size: accumulate_steps * num_devices // size for size in sizes}
  return {size: batch_size // count for size, count in groups.items() if batch_size % count == 0}


def _dividing_crop(crop: tuple[int, int], group: int) -> tuple[int, int]:
  """Returns the crop of the nearest height that divides over a group; square if the crop is."""
  multiple = _STRIDE * group
  height = max(1, (crop[0] + multiple // 2 - 1) // multiple) * multiple  # Of two that are equally near the smaller.
  return height, height if crop[0] == crop[1] else crop[1]
