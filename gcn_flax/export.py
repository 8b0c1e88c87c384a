"""Exports a trained network: safetensors, StableHLO, ONNX and a PyTorch file, each compared with the network."""

import dataclasses
import json
import logging
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

import gcn_flax
from gcn_flax import build, exporting, files
from gcn_flax import config as config_lib
from gcn_flax.example_pictures import find_examples
from gcn_flax.exporting import agreement, onnx_graph, readme, stablehlo
from gcn_flax.exporting.weights import write_encoder, write_network
from gcn_flax.input_pipeline import canvas
from gcn_flax.models import torch_names
from gcn_flax.models.ops import REFERENCE
from gcn_flax.models.pretrained import FAMILIES
from gcn_flax.picture_files import pictures_of
from gcn_flax.preflight import preflight
from gcn_flax.printable import printable
from gcn_flax.rounding import round_up
from gcn_flax.segmenter import MAX_WHOLE, Segmenter
from gcn_flax.tasks import segmentation
from gcn_flax.training.state import COLLECTIONS
from gcn_flax.workdir.compatibility import training_settings
from gcn_flax.workdir.network_paths import NETWORK_FILE
from gcn_flax.workdir.trained import Trained, load_trained
from gcn_flax.workdir.workdir import Workdir

_log = logging.getLogger(__name__)
_ENCODER_FILE = "encoder.safetensors"
_FILES = (
  _ENCODER_FILE, NETWORK_FILE, "network.py", "network.stablehlo", "network.onnx", "network.json", "README.md",
)  # fmt: skip
_LIBRARIES = {"network.stablehlo": "jax", "network.onnx": "onnxruntime", "network.py": "torch"}
_NUM_PICTURES = 6  # Unless --images chooses others.
_MAX_SIDES = (1024, 1024)  # (H, W) that larger pictures are cut to: whole photos would take gigabytes of memory.
_NOISE = (192, 256)  # (H, W) of generated pictures.
_MIN_EQUAL_LABELS = 0.99  # In bfloat16 and on noise, a correct file may have less than 99.9 %.


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
    ValueError: for what `preflight`, `load_trained` and `pictures_of` reject, for pictures that cannot be read, for
      sides that are no multiples of 32 or too large, and on several hosts.
  """
  workdir = Workdir(workdir)
  _check_size(size)
  if jax.process_count() > 1:
    raise ValueError(f"--mode=export: runs on one host, not {jax.process_count()}. Start it on one host.")
  pictures_of(images)  # Raises its errors now.
  preflight(config, workdir)
  workdir.check_writable("export/", *(f"export/{name}" for name in _FILES))
  trained = load_trained(config, workdir, checkpoint)
  if config_lib.is_classifier(config):
    _log.info("a classifier of whole images is exported as safetensors alone.")
    written = write_weights(config, workdir, trained)
  else:
    model = _one_view(config, trained, tuple(size))
    pictures = _find_pictures(model, workdir, images)
    written = write_weights(config, workdir, trained) | _write_programs(model, workdir, pictures, tuple(size))
  for path, num_bytes in written.items():
    print(f"wrote {printable(path)}  {num_bytes / 1e6:.1f} MB, step {trained.step}")
  return written


def write_weights(config: ml_collections.ConfigDict, workdir: Workdir, trained: Trained) -> dict[files.Path, int]:
  """Writes `export/encoder.safetensors` and `export/network.safetensors`; returns their sizes in bytes."""
  folder = workdir / "export"
  folder.mkdir(parents=True, exist_ok=True)
  writers = {folder / _ENCODER_FILE: write_encoder, folder / NETWORK_FILE: write_network}
  return {path: write(path, config, workdir, trained) for path, write in writers.items()}


def _check_size(size: Sequence[int]) -> None:
  """Raises ValueError for sides that are no multiples of 32, and for more pixels than are predicted whole."""
  given = ",".join(map(str, size))
  if any(side < 32 or side % 32 for side in size):
    fix = ",".join(str(max(32, round_up(side, 32))) for side in size)
    raise ValueError(f"--export_size={given}: sides must be multiples of 32. Use --export_size={fix}.")
  if math.prod(size) > MAX_WHOLE:
    raise ValueError(
      f"--export_size={given}: more than the {MAX_WHOLE:,} pixels that are predicted whole. Use --export_size=512,512."
    )


@dataclasses.dataclass(frozen=True)
class _Pictures:
  """Pictures to compare files on.

  Attributes:
    images: RGB uint8 `[H, W, 3]`.
    text: their number, and where they come from.
  """

  images: list[np.ndarray]
  text: str


def _find_pictures(model: Segmenter, workdir: Workdir, images: Sequence[str]) -> _Pictures:
  """Returns the pictures of `images`, else those of `find_examples`, else noise; larger than the canvas are cut."""
  height, width = tuple(model.config.data.eval_size) or _MAX_SIDES
  count = len(pictures_of(images)) or _NUM_PICTURES
  try:
    found = find_examples(model.config, workdir, model.classes, count, images)
    origin, full = found.origin, (example.image for example in found)
    cut = [image[:height, :width].copy() for image in full]  # A view would keep the whole picture in memory.
  except ValueError as error:
    if images:
      raise
    _log.warning("WARNING: exported files are compared on noise. %s", error)
    origin, rng = "noise", np.random.default_rng(0)
    cut = [rng.integers(0, 256, (*_NOISE, 3)).astype(np.uint8)[:height, :width] for _ in range(count)]
  return _Pictures(cut, f"{len(cut)} pictures of {origin}, at most {height} x {width} pixels of each")


def _write_programs(
  model: Segmenter, workdir: Workdir, pictures: _Pictures, size: tuple[int, ...]
) -> dict[files.Path, int]:
  """Writes the files that run the network, compares them with it, and writes what came out."""
  folder, network, weights = workdir / "export", model.trained.setup.network, model.trained.weights
  description = _describe(model, workdir)
  metadata = {name: json.dumps(value, ensure_ascii=False) for name, value in description.items()}
  tensors = torch_names.to_tensors(jax.device_get({name: weights[name] for name in COLLECTIONS}))
  contents = {
    "network.stablehlo": stablehlo.serialize(network.clone(ops=REFERENCE), weights, size),
    "network.onnx": onnx_graph.serialize(tensors, FAMILIES[model.config.model.family], metadata, size),
    "network.py": pathlib.Path(exporting.__file__).with_name("network.py").read_bytes(),
  }
  for name, content in contents.items():
    files.write(folder / name, content)
  _log.info("comparing the files with the network on %s", pictures.text)
  description |= {"pictures": pictures.text, "agreement": _compare(model, folder, pictures.images)}
  contents["network.json"] = (json.dumps(description, indent=2, ensure_ascii=False) + "\n").encode()
  contents["README.md"] = readme.render(description, size).encode()
  for name in ("network.json", "README.md"):
    files.write(folder / name, contents[name])
  return {folder / name: len(content) for name, content in contents.items()}


def _compare(model: Segmenter, folder: files.Path, images: Sequence[np.ndarray]) -> dict[str, dict[str, Any]]:
  """Compares the files in a folder with the network; prints the agreement of each, and returns it by name."""
  runtimes = {
    "network.stablehlo": agreement.stablehlo_runtime((folder / "network.stablehlo").read_bytes()),
    "network.onnx": agreement.onnx_runtime((folder / "network.onnx").read_bytes()),
    "network.py": agreement.torch_runtime(folder),
  }
  usable = {name: runtime for name, runtime in runtimes.items() if runtime}
  compared = agreement.compare(usable, ((model.pad(image), model.probabilities(image)) for image in images))
  for name in runtimes:
    _print_agreement(name, compared.get(name))
  return {
    name: dataclasses.asdict(compared[name]) if name in usable else {"not_checked": f"not compared: no {library}"}
    for name, library in _LIBRARIES.items()
  }


def _print_agreement(name: str, found: agreement.Agreement | None) -> None:
  """Prints the agreement of a file with the network, and warns if it is bad; None for a file that was not compared."""
  if found is None:
    library = _LIBRARIES[name]
    print(f"{name}: not compared with the network, {library} is not installed. pip install {library}, and export again")
    return
  print(
    f"{name}: {100 * found.equal_labels:.3f} % equal labels, largest difference of a probability "
    f"{found.largest_difference:.1e}"
  )
  if found.equal_labels < _MIN_EQUAL_LABELS:
    _log.warning(
      "WARNING: %s gives other labels than the network. Compare it on more pictures, --images=PICTURES, before you use "
      "it.", name,
    )  # fmt: skip


def _one_view(config: ml_collections.ConfigDict, trained: Trained, size: tuple[int, ...]) -> Segmenter:
  """Returns the network as the files compute it: each picture whole and once, without CRF."""
  config = config.copy_and_resolve_references()
  config.eval.scales, config.eval.flip, config.eval.tile, config.eval.crf.iterations = (1.0,), False, (), 0
  config.data.eval_size = size or config.data.eval_size
  setup = build.build(config, trained.label_set.num_classes)
  return Segmenter(config, dataclasses.replace(trained, setup=setup))


def _describe(model: Segmenter, workdir: Workdir) -> dict[str, Any]:
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
    "canvas_rule": canvas.RULE,
    "settings": settings,
  }
