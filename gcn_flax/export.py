"""Exports a trained network: safetensors, StableHLO, ONNX and a PyTorch file, each compared with the network."""

import dataclasses
import json
import logging
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

import gcn_flax
from gcn_flax import build, exporting, files
from gcn_flax import config as config_lib
from gcn_flax.exporting import agreement, onnx_graph, readme, stablehlo
from gcn_flax.input_pipeline import pictures
from gcn_flax.models import torch_names, weights_file
from gcn_flax.models.ops import REFERENCE
from gcn_flax.models.pretrained import FAMILIES
from gcn_flax.picture_files import pictures_of
from gcn_flax.preflight import preflight
from gcn_flax.printable import printable
from gcn_flax.run_data import RunData
from gcn_flax.segmenter import Segmenter
from gcn_flax.tasks import segmentation
from gcn_flax.training.optimizer import ENCODER
from gcn_flax.training.state import COLLECTIONS
from gcn_flax.workdir.compatibility import training_settings
from gcn_flax.workdir.samples import sample_pictures
from gcn_flax.workdir.trained import Trained, load_trained
from gcn_flax.workdir.workdir import Workdir

_log = logging.getLogger(__name__)
_ENCODER_FILE, _NETWORK_FILE = "encoder.safetensors", "network.safetensors"
_FILES = (
  _ENCODER_FILE, _NETWORK_FILE, "network.py", "network.stablehlo", "network.onnx", "network.json", "README.md",
)  # fmt: skip
_MAX_PICTURES = 6  # Of those that are chosen here.
_GENERATED = (192, 256)  # Size of generated pictures.


def run(
  config: ml_collections.ConfigDict,
  workdir: Workdir | files.Path | str,
  checkpoint: str = "best",
  images: Sequence[str] = (),
  size: Sequence[int] = (),
) -> Mapping[files.Path, int]:
  """Exports a checkpoint of a workdir into its folder `export`; needs no data set.

  A classifier of whole images is exported as safetensors alone.

  Args:
    config: config of the network.
    workdir: workdir of the run.
    checkpoint: `best`, `last` or a step.
    images: files, folders and patterns of pictures to compare the files on; by default up to six of the evaluation
      split, else of those that training kept, else generated ones.
    size: (H, W) of the input of the StableHLO and ONNX files, multiples of 32; () for any.

  Returns:
    The files with their sizes in bytes.

  Raises:
    ValueError: for what `preflight`, `load_trained` and `pictures_of` reject, for sides that are no multiples of 32,
      and on several hosts.
  """
  workdir = Workdir(workdir)
  if any(side < 32 or side % 32 for side in size):
    raise ValueError(f"--export_size={','.join(map(str, size))}: sides must be multiples of 32.")
  if jax.process_count() > 1:
    raise ValueError(f"--mode=export: runs on one host, not {jax.process_count()}. Start it on one host.")
  chosen = pictures_of(images)
  preflight(config, workdir)
  workdir.check_writable("export/", *(f"export/{name}" for name in _FILES))
  trained = load_trained(config, workdir, checkpoint)
  written = write_weights(config, workdir, trained)
  if config_lib.is_classifier(config):
    _log.info("a classifier of whole images is exported as safetensors alone.")
  else:
    written |= _write_programs(config, workdir, trained, chosen, tuple(size))
  for path, num_bytes in written.items():
    print(f"wrote {printable(path)}  {num_bytes / 1e6:.1f} MB, step {trained.step}")
  return written


def write_weights(config: ml_collections.ConfigDict, workdir: Workdir, trained: Trained) -> dict[files.Path, int]:
  """Writes `export/encoder.safetensors` and `export/network.safetensors`; returns their sizes in bytes.

  Tensors have PyTorch's layouts, and those of the encoder torchvision's names. `config.model.pretrained` takes the
  encoder, `config.init_from` the network. The metadata of both holds the settings of the run, the family of the input
  normalisation, the classes and the step, as JSON.
  """
  weights = jax.device_get({name: trained.weights[name] for name in COLLECTIONS})
  encoder = torch_names.to_tensors({name: weights[name][ENCODER] for name in COLLECTIONS})
  if config_lib.is_classifier(config):
    tensors = encoder | torch_names.to_tensors({"params": {"fc": weights["params"]["fc"]}})
  else:
    tensors = torch_names.to_tensors(weights)
  metadata = {
    "producer": f"gcn_flax {gcn_flax.__version__}",
    "family": config.model.family,
    "backbone": config.model.backbone,
    "step": str(trained.step),
    "config": json.dumps(training_settings(config, workdir)),
    "data": json.dumps(trained.data.to_json()),
  }
  folder = workdir / "export"
  folder.mkdir(parents=True, exist_ok=True)
  parts = {folder / _ENCODER_FILE: encoder, folder / _NETWORK_FILE: tensors}
  return {path: weights_file.write(path, part, metadata) for path, part in parts.items()}


def _write_programs(
  config: ml_collections.ConfigDict,
  workdir: Workdir,
  trained: Trained,
  chosen: Sequence[pathlib.Path],
  size: tuple[int, ...],
) -> dict[files.Path, int]:
  """Writes the files that run the network, compares them with it, and writes what came out."""
  model = _one_view(config, trained, size)
  images, source = _pictures(config, workdir, chosen)
  fixed = tuple(model.config.data.eval_size)
  images = [image[: fixed[0], : fixed[1]] for image in images] if fixed else images
  description = _describe(model, workdir, f"{len(images)} {source}")
  family, folder = FAMILIES[config.model.family], workdir / "export"
  metadata = {name: json.dumps(value, ensure_ascii=False) for name, value in description.items()}
  tensors = torch_names.to_tensors(jax.device_get({name: trained.weights[name] for name in COLLECTIONS}))
  contents = {
    "network.stablehlo": stablehlo.serialize(trained.setup.network.clone(ops=REFERENCE), trained.weights, size),
    "network.onnx": onnx_graph.serialize(tensors, family, metadata, size),
    "network.py": pathlib.Path(exporting.__file__).with_name("network.py").read_bytes(),
  }
  for name, content in contents.items():
    files.write(folder / name, content)
  _log.info("comparing the files with the network on %s", description["pictures"])
  padded, expected = [model.pad(image) for image in images], model.probabilities(images)
  description["agreement"] = {
    name: _compare(name, make(), padded, expected) for name, make in _runtimes(folder).items()
  }
  contents["network.json"] = (json.dumps(description, indent=2, ensure_ascii=False) + "\n").encode()
  contents["README.md"] = readme.render(description, size).encode()
  for name in ("network.json", "README.md"):
    files.write(folder / name, contents[name])
  return {folder / name: len(content) for name, content in contents.items()}


def _runtimes(folder: files.Path) -> dict[str, Callable[[], agreement.Runtime | None]]:
  """Returns the constructor of the runtime of each file; None from one says that its library is not installed."""

  def make_torch() -> agreement.Runtime | None:
    return None if files.is_remote(folder) else agreement.torch_runtime(folder)

  return {
    "network.stablehlo": lambda: agreement.stablehlo_runtime((folder / "network.stablehlo").read_bytes()),
    "network.onnx": lambda: agreement.onnx_runtime((folder / "network.onnx").read_bytes()),
    "network.py": make_torch,
  }


def _compare(
  name: str, runtime: agreement.Runtime | None, padded: Sequence[np.ndarray], expected: Sequence[np.ndarray]
) -> dict[str, Any]:
  """Returns the agreement of a file for `network.json`, and prints it."""
  if runtime is None:
    library = {"network.onnx": "onnxruntime"}.get(name, "torch")
    print(f"{name}: not compared with the network, because {library} cannot run it here. pip install {library}")
    return {"not_checked": f"not compared: no {library}"}
  found = agreement.compare(runtime, padded, expected)
  print(
    f"{name}: {100 * found.equal_labels:.3f} % equal labels, largest difference of a probability "
    f"{found.largest_difference:.1e}"
  )
  return dataclasses.asdict(found)


def _one_view(config: ml_collections.ConfigDict, trained: Trained, size: tuple[int, ...]) -> Segmenter:
  """Returns the network as the files compute it: each picture whole and once, without CRF."""
  config = config.copy_and_resolve_references()
  config.eval.scales, config.eval.flip, config.eval.tile, config.eval.crf.iterations = (1.0,), False, (), 0
  config.data.eval_size = size or config.data.eval_size
  setup = build.build(config, trained.label_set.num_classes)
  return Segmenter(config, dataclasses.replace(trained, setup=setup))


def _pictures(
  config: ml_collections.ConfigDict, workdir: Workdir, chosen: Sequence[pathlib.Path]
) -> tuple[list[np.ndarray], str]:
  """Returns the pictures to compare files on, RGB uint8 `[H, W, 3]`, and what they are."""
  if chosen:
    return [pictures.read_picture(path) for path in chosen], "pictures of --images"
  try:
    source = RunData(config).eval_source(config.data.eval_split)
    places = np.linspace(0, len(source) - 1, min(_MAX_PICTURES, len(source))).astype(int)
    return [source[place]["image"] for place in places.tolist()], f"pictures of {source.dataset} {source.split}"
  except (ValueError, OSError):  # The data set is not here.
    samples = sample_pictures(workdir)
  if samples:
    return [pictures.as_rgb(path)[0] for path in samples], "pictures that training kept"
  rng = np.random.default_rng(0)
  return [rng.integers(0, 256, (*_GENERATED, 3)).astype(np.uint8) for _ in range(_MAX_PICTURES)], "pictures of noise"


def _describe(model: Segmenter, workdir: Workdir, pictures_used: str) -> dict[str, Any]:
  """Returns what programs need to know about the network, for `network.json` and the metadata of ONNX."""
  config = model.config
  family = FAMILIES[config.model.family]
  settings = training_settings(config, workdir)
  return {
    "producer": f"gcn_flax {gcn_flax.__version__}",
    "classes": list(model.classes),
    "palette": [list(colour) for colour in model.palette],
    "step": model.trained.step,
    "dataset": config.data.dataset,
    "backbone": config.model.backbone,
    "dtype": config.model.dtype,
    "pixel_mean": list(family.rgb_mean),
    "pixel_std": list(family.std[::-1] if family.bgr else family.std),
    "padding_pixel": [int(value) for value in segmentation.padding_pixel(config)],
    "canvas": list(settings["data"]["eval_size"]),
    "settings": settings,
    "pictures": pictures_used,
  }
