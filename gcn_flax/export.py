"""Exports trained weights as safetensors files that PyTorch and this package read."""

import json
from collections.abc import Mapping

import jax
import ml_collections

import gcn_flax
from gcn_flax import config as config_lib
from gcn_flax import files
from gcn_flax.models import torch_names, weights_file
from gcn_flax.preflight import preflight
from gcn_flax.printable import printable
from gcn_flax.training.optimizer import ENCODER
from gcn_flax.training.state import COLLECTIONS
from gcn_flax.workdir.trained import Trained, load_trained
from gcn_flax.workdir.workdir import Workdir


def run(
  config: ml_collections.ConfigDict, workdir: Workdir | files.Path | str, checkpoint: str = "best"
) -> Mapping[files.Path, int]:
  """Exports a checkpoint of a workdir, and returns the files with their sizes in bytes; needs no data set.

  Raises ValueError for what `preflight` and `load_trained` reject.
  """
  workdir = Workdir(workdir)
  preflight(config, workdir)
  workdir.check_writable("export/", "export/encoder.safetensors", "export/network.safetensors")
  trained = load_trained(config, workdir, checkpoint)
  if jax.process_index() > 0:
    return {}
  written = write_weights(config, workdir, trained)
  for path, size in written.items():
    print(f"wrote {printable(path)}  {size / 1e6:.1f} MB, step {trained.step}")
  return written


def write_weights(config: ml_collections.ConfigDict, workdir: Workdir, trained: Trained) -> dict[files.Path, int]:
  """Writes `export/encoder.safetensors` and `export/network.safetensors`; returns their sizes in bytes.

  Tensors have PyTorch's layouts, and those of the encoder torchvision's names. `config.model.pretrained` takes the
  encoder, `config.init_from` the network. The metadata of both holds the config, the family of the input
  normalisation, the classes and the step, as JSON.
  """
  weights = jax.device_get({name: trained.weights[name] for name in COLLECTIONS})
  encoder = torch_names.to_tensors({name: weights[name][ENCODER] for name in COLLECTIONS})
  if config_lib.is_classifier(config):
    network = encoder | torch_names.to_tensors({"params": {"fc": weights["params"]["fc"]}})
  else:
    network = torch_names.to_tensors(weights)
  metadata = {
    "producer": f"gcn_flax {gcn_flax.__version__}",
    "family": config.model.family,
    "backbone": config.model.backbone,
    "step": str(trained.step),
    "config": config.to_json(),
    "data": json.dumps(trained.data.to_json()),
  }
  folder = workdir / "export"
  folder.mkdir(parents=True, exist_ok=True)
  paths = [folder / "encoder.safetensors", folder / "network.safetensors"]
  parts = zip(paths, (encoder, network), strict=True)
  return {path: weights_file.write(path, tensors, metadata) for path, tensors in parts}
