"""The weights of a trained network as safetensors files of this package: what they hold, and writing them."""

import dataclasses
import json
from typing import Any

import jax
import ml_collections
import numpy as np

import gcn_flax
from gcn_flax import config as config_lib
from gcn_flax import files
from gcn_flax.models import torch_names, weights_file
from gcn_flax.training.optimizer import ENCODER
from gcn_flax.training.state import COLLECTIONS
from gcn_flax.workdir.compatibility import training_settings
from gcn_flax.workdir.trained import Trained
from gcn_flax.workdir.workdir import Workdir


def write_network(path: files.Path, config: ml_collections.ConfigDict, workdir: Workdir, trained: Trained) -> int:
  """Writes all weights of a network, which `config.init_from` and `gcn_flax.load` take; returns the size in bytes.

  Tensors have PyTorch's layouts, and those of the encoder torchvision's names. The metadata holds the settings of the
  run, the family of the input normalisation, the classes and the step, as JSON.

  Args:
    path: file to write.
    config: config of the network.
    workdir: workdir of the run.
    trained: its network.
  """
  weights = jax.device_get({name: trained.weights[name] for name in COLLECTIONS})
  if config_lib.is_classifier(config):
    tensors = _encoder(trained) | torch_names.to_tensors({"params": {"fc": weights["params"]["fc"]}})
  else:
    tensors = torch_names.to_tensors(weights)
  return weights_file.write(path, tensors, _metadata(config, workdir, trained))


def write_encoder(path: files.Path, config: ml_collections.ConfigDict, workdir: Workdir, trained: Trained) -> int:
  """Writes the weights of the encoder alone, which `config.model.pretrained` takes; otherwise as `write_network`."""
  return weights_file.write(path, _encoder(trained), _metadata(config, workdir, trained))


def _encoder(trained: Trained) -> dict[str, np.ndarray]:
  weights = {name: trained.weights[name][ENCODER] for name in COLLECTIONS}
  return torch_names.to_tensors(jax.device_get(weights))


def _metadata(config: ml_collections.ConfigDict, workdir: Workdir, trained: Trained) -> dict[str, Any]:
  # Runs of older versions record no classes or no palette.
  data, label_set = trained.data, trained.label_set
  data = dataclasses.replace(data, classes=data.classes or label_set.classes, palette=data.palette or label_set.palette)
  return {
    "producer": f"gcn_flax {gcn_flax.__version__}",
    "family": config.model.family,
    "backbone": config.model.backbone,
    "step": str(trained.step),
    "config": json.dumps(training_settings(config, workdir)),
    "data": json.dumps(data.to_json()),
  }
