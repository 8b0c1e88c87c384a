"""Trained weights as files that others can read."""

import json
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections

import gcn_flax
from gcn_flax import config as config_lib
from gcn_flax import files
from gcn_flax.models import torch_names, weights_file
from gcn_flax.training.optimizer import ENCODER

_COLLECTIONS = ("params", "batch_stats")


def write_weights(
  config: ml_collections.ConfigDict, workdir: files.Path, weights: dict[str, Any], step: int, known: Mapping[str, Any]
) -> dict[files.Path, int]:
  """Writes `export/encoder.safetensors` and `export/network.safetensors` below the workdir; returns their sizes, bytes.

  Tensors have PyTorch's layouts, and the encoder's have torchvision's names. `config.model.pretrained` takes the
  encoder, `config.init_from` the network. The metadata of both holds the config, the family
  of the input normalisation, the classes and the step, as JSON.

  Args:
    config: of the network.
    workdir: of the run.
    weights: as `TrainState.weights` gives them.
    step: updates they have had.
    known: of the data they were trained on, as `start.facts` gives it.
  """
  weights = jax.device_get({name: weights[name] for name in _COLLECTIONS})
  encoder = torch_names.to_tensors({name: weights[name][ENCODER] for name in _COLLECTIONS})
  if config_lib.is_classifier(config):
    network = encoder | torch_names.to_tensors({"params": {"fc": weights["params"]["fc"]}})
  else:
    network = torch_names.to_tensors(weights)
  metadata = {
    "producer": f"gcn_flax {gcn_flax.__version__}",
    "family": config.model.family,
    "backbone": config.model.backbone,
    "step": str(step),
    "config": config.to_json(),
    "data": json.dumps({name: known[name] for name in ("classes", "palette", "partial") if name in known}),
  }
  folder = workdir / "export"
  folder.mkdir(parents=True, exist_ok=True)
  paths = [folder / "encoder.safetensors", folder / "network.safetensors"]
  parts = zip(paths, (encoder, network), strict=True)
  return {path: weights_file.write(path, tensors, metadata) for path, tensors in parts}
