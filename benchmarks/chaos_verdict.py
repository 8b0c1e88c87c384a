"""The comparison of the runs of benchmarks/chaos.py with an undisturbed run."""

import pathlib
from typing import Any

import jax
import numpy as np

from configs import folder
from gcn_flax import build
from gcn_flax.run_data import RunData
from gcn_flax.training.checkpoint import open_checkpoints
from gcn_flax.workdir import writers
from gcn_flax.workdir.workdir import Workdir

IMAGES = 52  # Training images; not a multiple of the batch size, so that epochs begin in the middle of a batch.


def compare(runs: pathlib.Path, fields: dict[str, Any]) -> dict[str, dict[str, Any]]:
  """Compares each run's final train state, and the images of each of its steps, with those of the undisturbed run.

  Args:
    runs: folder with the workdirs `alone`, `same`, `other` and `elsewhere`.
    fields: config fields that all runs have in common.

  Returns:
    name of the run -> `largest_difference`, `steps_with_other_images`, `epochs`, `images_not_once`.
  """
  total_steps = fields["total_steps"]
  alone, truth = _final_state(runs / "alone", fields), _seen_images(runs / "alone")
  found = {}
  for name in ("same", "other", "elsewhere"):
    state, images = _final_state(runs / name, fields), _seen_images(runs / name)
    # Batch statistics of few images magnify rounding, so across device counts only weights are compared.
    trees = (alone, state) if name == "same" else (alone.params, state.params)
    pairs = zip(*map(jax.tree.leaves, trees), strict=True)
    sequence = [image for step in range(1, total_steps + 1) for image in images.get(step, [])]
    epochs = [sequence[first : first + IMAGES] for first in range(0, len(sequence) - IMAGES + 1, IMAGES)]
    found[name] = {
      "largest_difference": max(float(np.max(np.abs(_as_float64(a) - _as_float64(b)))) for a, b in pairs),
      "steps_with_other_images": sum(
        images.get(step) != truth.get(step) or not truth.get(step) for step in range(1, total_steps + 1)
      ),
      "epochs": len(epochs),
      "images_not_once": sum(IMAGES - len(set(epoch)) for epoch in epochs),
    }
  return found


def _final_state(workdir: pathlib.Path, fields: dict[str, Any]) -> Any:
  """Returns the train state after the last step of a run."""
  config = folder.get_config("resnet_tiny")
  config.update_from_flattened_dict(fields)
  with open_checkpoints(workdir) as checkpoints:
    setup = build.build(config, RunData(config).label_set.num_classes, jax.devices()[:1])
    return checkpoints.restore(config.total_steps, setup.state_shapes)


def _as_float64(leaf: jax.Array) -> np.ndarray:
  """Returns an array as float64, which represents every float32, int32 and bool exactly."""
  return np.asarray(leaf).astype(np.float64)


def _seen_images(workdir: pathlib.Path) -> dict[int, list[str]]:
  """Returns step -> ids of the images that the final weights have seen; of a repeated step, those of the last time."""
  starts = [start["step"] for start in Workdir(workdir).run_record()["starts"]]
  seen = {}
  for number, first in enumerate(starts):
    seen = {step: images for step, images in seen.items() if step <= first}
    hosts = sorted((workdir / "examples").glob(f"start{number}_host*.jsonl"))
    lines = [writers.read_image_ids(host) for host in hosts]
    for step in set.intersection(*map(set, lines)) if lines else ():
      seen[step] = [image for host in lines for image in host[step]]
  return seen
