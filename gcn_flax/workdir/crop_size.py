"""The training crop of a run whose config leaves the choice to the data."""

import logging

import ml_collections
import numpy as np

from gcn_flax.config_checks import check_config
from gcn_flax.input_pipeline.canvas import canvas_of, crop_of
from gcn_flax.rounding import round_up
from gcn_flax.run_data import RunData
from gcn_flax.workdir.workdir import Workdir

_log = logging.getLogger(__name__)
_STRIDE = 32  # Of the network: each group of devices that share an image needs rows of its own.


def with_crop_size(config: ml_collections.ConfigDict, workdir: Workdir, data: RunData) -> ml_collections.ConfigDict:
  """Returns the config with a crop, `config.data.crop_size`, if it has none.

  A run that goes on keeps its crop. Otherwise it follows from the sizes of the training images, see `crop_of`. Without
  random crops it is the canvas of the largest image.

  Args:
    config: config of the run.
    workdir: workdir of the run.
    data: data sets of the run; not read if the config has a crop.

  Raises ValueError for invalid settings, and for training data that cannot be opened.
  """
  if tuple(config.data.crop_size):
    return config
  check_config(config)
  crop = tuple(workdir.settings().get("data", {}).get("crop_size", ()))
  if not crop:
    sizes = np.concatenate([source.sizes for source in data.train_sources()])
    crop = _chosen(config, sizes)
    median = " x ".join(f"{side:.0f}" for side in np.median(sizes, axis=0))
    _log.info("config.data.crop_size=%s, chosen from %d training images, median %s.", crop, len(sizes), median)
  config = config.copy_and_resolve_references()
  config.data.crop_size = crop
  return config


def _chosen(config: ml_collections.ConfigDict, sizes: np.ndarray) -> tuple[int, int]:
  rows = _STRIDE * max(1, config.mesh.spatial)
  if config.data.random_crop:
    return crop_of(sizes, rows)
  height, width = canvas_of(sizes.max(axis=0))
  return round_up(height, rows), width
