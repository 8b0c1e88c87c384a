"""Shows what networks look at: the effective receptive field of a class score, and predictions side by side."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from gcn_flax import files
from gcn_flax.evaluation.receptive_field import Field, Pixel, cut_window, gradient_magnitude
from gcn_flax.example_pictures import ExamplePicture, ExamplePictures, find_examples
from gcn_flax.inference import Progress
from gcn_flax.messages import flag
from gcn_flax.panel import Networks, draw_panel
from gcn_flax.preflight import check_one_host, check_page_libraries, check_pixels, preflight
from gcn_flax.printable import printable
from gcn_flax.segmenter import Segmenter, load
from gcn_flax.training.steps import normalize
from gcn_flax.visualize import overlay, receptive_fields, tables
from gcn_flax.workdir.run_names import name_runs, network_name
from gcn_flax.workdir.trained import load_trained
from gcn_flax.workdir.workdir import Workdir

FOLDER = "explain"
_MAX_PICTURES = 32  # In the mean of the receptive fields.
_WINDOW = (1024, 1024)  # Largest part of a picture that gradients are computed on, pixels: memory grows with it.


def run(
  config: ml_collections.ConfigDict,
  workdir: Workdir | files.Path | str,
  others: Sequence[files.Path | str] = (),
  images: Sequence[str] = (),
  split: str = "",
  pixel: Pixel | None = None,
  checkpoint: str = "best",
) -> dict[str, Any]:
  """Writes receptive fields and predictions of networks, side by side, to the folder `explain` of the workdir.

  Prints the table of the receptive fields; the files are `receptive_field.png`, `receptive_field.json` and `panel.png`.

  Args:
    config: config of the network and the evaluation.
    workdir: workdir of the run.
    others: workdirs of networks to show beside it, each with the config of its own run.
    images: pictures to look at, as values of --images; by default those of `split`.
    split: split of `config.data.dataset`, by default `config.data.eval_split`; the samples of the workdir if the data
      set is not prepared.
    pixel: (row, column) of the pixel whose class score is explained; None for the centre of each picture.
    checkpoint: `best`, `last` or a step, of all networks.

  Returns:
    The content of `receptive_field.json`.

  Raises:
    ValueError: for what `preflight`, `load_trained` and `find_examples` reject; for networks of other classes; if a
      picture has no such pixel.
  """
  check_pixels(config, "explain")
  check_one_host("explain")
  check_page_libraries()
  workdir = Workdir(workdir)
  preflight(config, workdir)
  workdir.check_writable(f"{FOLDER}/")
  networks = _load_all(config, workdir, others, checkpoint)
  examples = find_examples(config, workdir, _first(networks).classes, _MAX_PICTURES, images, split)
  window = tuple(config.eval.tile) or _WINDOW
  fields = find_fields(networks, examples, pixel, window)
  means = {name: Field.mean(each) for name, each in fields.items()}
  result = {
    "pictures": examples.origin,
    "num_pictures": len(examples),
    "pixel": pixel,
    "networks": {
      name: {"network": network_name(each.config.model), "step": each.trained.step, **means[name].measure()}
      for name, each in networks.items()
    },
    "uniform": _uniform(_first(fields)).measure(),
  }
  picture, _ = cut_window(examples[0].image, _place(examples[0], pixel), window)
  drawn, panel = _draw(networks, fields, means, picture), draw_panel(networks, examples)
  print(tables.receptive_field_table(result), flush=True)
  (workdir / FOLDER).mkdir(parents=True, exist_ok=True)
  workdir.write_json(f"{FOLDER}/receptive_field.json", result)
  workdir.write(f"{FOLDER}/receptive_field.png", drawn)
  overlay.save(workdir / FOLDER / "panel.png", panel)
  print(f"wrote receptive_field.png, receptive_field.json and panel.png to {printable(workdir / FOLDER)}")
  return result


def _first(mapping: Mapping[str, Any]) -> Any:
  return next(iter(mapping.values()))


def _load_all(
  config: ml_collections.ConfigDict, workdir: Workdir, others: Sequence[files.Path | str], checkpoint: str
) -> Networks:
  """Loads the networks of all runs. Raises ValueError if a run is given twice, or has other classes than the first."""
  first, *rest = name_runs(workdir.path, others)
  networks = {first: Segmenter(config, load_trained(config, workdir, checkpoint))}
  for name, other in zip(rest, others, strict=True):
    networks[name] = load(other, checkpoint)
    ours, theirs = (", ".join(map(printable, networks[each].classes)) for each in (first, name))
    if networks[name].classes != networks[first].classes:
      raise ValueError(
        f"{flag('other', other)}: its classes are {theirs}, those of {flag('workdir', workdir)} are {ours}. Use "
        "networks of the same data set."
      )
  return networks


def find_fields(
  networks: Networks, examples: ExamplePictures, pixel: Pixel | None, window: Sequence[int] = _WINDOW
) -> dict[str, list[Field]]:
  """Computes the receptive field of each network for each picture.

  Args:
    networks: the networks; computed in float32, with the running statistics of batch normalisation.
    examples: the pictures, each padded to its canvas as for evaluation.
    pixel: (row, column) of the pixel whose class score is explained; None for the centre of each picture.
    window: height and width that larger pictures are cut to, around the pixel.

  Raises:
    ValueError: if a picture has no such pixel, or is larger than a fixed canvas.
  """
  gradients = {name: _gradient(network) for name, network in networks.items()}
  fields = {name: [] for name in networks}
  progress = Progress("explaining", len(examples))
  for example in examples:
    image, place = cut_window(example.image, _place(example, pixel), window)
    for name, gradient in gradients.items():
      padded = networks[name].pad(image, example.name)
      magnitude = np.asarray(gradient(padded, np.array(place, np.int32)))
      fields[name].append(Field.of(magnitude[: image.shape[0], : image.shape[1]], place))
    progress.add()
  return fields


def _place(example: ExamplePicture, pixel: Pixel | None) -> Pixel:
  """Returns the pixel of a picture, by default its centre. Raises ValueError if the picture has no such pixel."""
  height, width = example.image.shape[:2]
  row, column = pixel or (height // 2, width // 2)
  if row >= height or column >= width:
    raise ValueError(
      f"--pixel={row},{column}: {printable(example.name)} has {height} x {width} pixels. Use a row below {height} and "
      f"a column below {width}."
    )
  return row, column


def _gradient(network: Segmenter) -> Callable[[np.ndarray, np.ndarray], jax.Array]:
  """Returns `(image, pixel) -> magnitude` of the gradient, float32 `[H, W]`, jitted."""
  module = network.trained.setup.network.clone(dtype=jnp.float32)
  weights = jax.device_put(network.trained.weights, jax.local_devices()[0])  # One image needs one device.

  def gradient(weights: Mapping[str, Any], image: jax.Array, pixel: jax.Array) -> jax.Array:
    variables = {name: weights[name] for name in ("params", "batch_stats")}
    return gradient_magnitude(
      lambda images: module.apply(variables, normalize(images, weights["normalization"]), train=False), image, pixel
    )

  compiled = jax.jit(gradient)
  return lambda image, pixel: compiled(weights, image, pixel)


def _uniform(fields: Sequence[Field]) -> Field:
  """Returns the mean field of a network to which all pixels of a picture mean the same."""
  return Field.mean([Field.of(np.ones(field.mass.shape), field.pixel) for field in fields])


def _draw(
  networks: Networks, fields: Mapping[str, Sequence[Field]], means: Mapping[str, Field], picture: np.ndarray
) -> bytes:
  titles = [f"{name}\n{network_name(network.config.model)}" for name, network in networks.items()]
  singles = [each[0] for each in fields.values()]
  return receptive_fields.draw(titles, list(means.values()), singles, picture, len(_first(fields)))
