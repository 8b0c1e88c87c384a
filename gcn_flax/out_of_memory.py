"""Fixes for devices that run out of memory, cheapest first, as they are typed."""

import os

import ml_collections

from gcn_flax import spatial
from gcn_flax.config import is_classifier
from gcn_flax.messages import flag

# In JAX 0.10 to 0.12 a program can use this share of a GPU's memory, unless the variable names another.
DEFAULT_SHARE = 0.75
MAX_SHARE = 0.95  # The rest is for the libraries of CUDA.
SHARE_VARIABLE = "XLA_CLIENT_MEM_FRACTION"
_SHARE_VARIABLES = (SHARE_VARIABLE, "XLA_PYTHON_CLIENT_MEM_FRACTION")  # The second is an older name.


def advice(config: ml_collections.ConfigDict, mode: str, devices: list, is_begun: bool) -> str:
  """Returns the fixes for a command that ran out of memory, as sentences.

  Args:
    config: config of the command.
    mode: value of `--mode`.
    devices: all devices.
    is_begun: True if the workdir has a checkpoint, whose training goes on with the same settings.
  """
  shared = _gpu_share() if devices[0].platform == "gpu" else []
  inference = inference_fixes(config, len(devices))
  if mode == "train":
    images = config.batch_size * spatial.of(config, devices) // len(devices)
    fixes = [*shared, *training_fixes(config, images, is_begun)]
    text = f"Try in this order: {'; '.join(fixes)}. If it is evaluation that fails: {'; '.join(inference)}."
  else:
    text = f"Try in this order: {'; '.join([*shared, *inference])}."
  other = " nvidia-smi shows whether another program holds memory." if devices[0].platform == "gpu" else ""
  return text + other


def training_fixes(config: ml_collections.ConfigDict, images: int, is_begun: bool = False) -> list[str]:
  """Returns the changes that lower the memory of a train step; of a run that goes on only those it may change.

  Gradient accumulation comes before gradient checkpointing if it changes no result, because it computes nothing twice.

  Args:
    config: config of the run.
    images: images of an update on each device, or on each group of devices that share images.
    is_begun: True for a run that goes on.
  """
  remat = [] if config.model.remat else [f"{flag('config.model.remat', True)} (gradient checkpointing)"]
  can_have_fewer = images > config.accumulate_steps
  devices = "more devices" if can_have_fewer else "devices with more memory"
  if is_begun:
    return [*remat, devices, "a new workdir with other settings"]
  precision = [flag("config.model.dtype", "bfloat16")] if config.model.dtype == "float32" else []
  accumulation = _accumulation(config, images)
  steps = [*accumulation, *remat] if _accumulates_exactly(config) else [*remat, *accumulation]
  batch = "--config.batch_size or " if can_have_fewer else ""
  return [*precision, *steps, f"a smaller {batch}--config.data.crop_size", devices]


def inference_fixes(config: ml_collections.ConfigDict, num_devices: int) -> list[str]:
  """Returns the changes that lower the memory of evaluation and prediction."""
  fixes = []
  if config.eval.tile:
    fixes.append("a smaller --config.eval.tile")
  elif not is_classifier(config):
    fixes.append(f"a sliding window, for instance {flag('config.eval.tile', (512, 512))}")
  if config.eval.batch_size > num_devices:
    fixes.append(flag("config.eval.batch_size", num_devices))
  return fixes or ["devices with more memory"]


def _accumulation(config: ml_collections.ConfigDict, images: int) -> list[str]:
  """Returns the next larger number of micro-batches that divides the images of a device; [] if there is none."""
  present = config.accumulate_steps
  count = next((count for count in range(present + 1, images + 1) if images % count == 0), None)
  if count is None:
    return []
  effect = "SyncBN, OHEM and Dice loss then see fewer images at a time"
  if _accumulates_exactly(config):
    effect = "the same result"
  return [f"{flag('config.accumulate_steps', count)} (gradient accumulation; {effect})"]


def _accumulates_exactly(config: ml_collections.ConfigDict) -> bool:
  """Returns True if nothing in a train step looks at several images but sums."""
  loss = config.loss
  return config.model.norm == "frozen" and loss.ohem_fraction == 1 and not loss.dice_weight


def _gpu_share() -> list[str]:
  if any(map(os.environ.get, _SHARE_VARIABLES)):
    return []
  return [
    f"{SHARE_VARIABLE}={MAX_SHARE} before the command (by default JAX uses {DEFAULT_SHARE:.0%} of a GPU's memory)"
  ]
