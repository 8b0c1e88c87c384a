"""A class for each pixel: the network of the paper, scored by intersection over union."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from gcn_flax import labels
from gcn_flax.evaluation import confusion
from gcn_flax.input_pipeline import sources, transforms
from gcn_flax.models.gcn import GCN
from gcn_flax.models.pretrained import FAMILIES
from gcn_flax.tasks import scores
from gcn_flax.visualize import overlay

IGNORE = labels.IGNORE
SCORE = "mean_iou"


def network(config: ml_collections.ConfigDict, num_classes: int) -> GCN:
  """The network of a config."""
  model = config.model
  return GCN(
    num_classes=num_classes,
    backbone=model.backbone,
    kernel_size=model.kernel_size,
    head=model.head,
    stack_width=model.stack_width or None,
    boundary_refine=model.boundary_refine,
    dtype=jnp.dtype(model.dtype),
    norm=model.norm,
    stride_in_1x1=FAMILIES[model.family].stride_in_1x1,
  )


def augmentation(config: ml_collections.ConfigDict) -> Callable:
  """`(example, rng) -> example` of the size trained on."""
  data = config.data
  return functools.partial(
    transforms.augment,
    crop_size=tuple(data.crop_size),
    pixel=FAMILIES[config.model.family].rgb_mean,
    scales=tuple(data.scales) if data.random_scale else None,
    crop=data.random_crop,
    flip=data.random_flip,
    jitter=data.color_jitter,
  )


def fitting(config: ml_collections.ConfigDict) -> Callable:
  """`example -> example` of the size that is scored: padded, never resized."""
  return functools.partial(
    transforms.pad, size=tuple(config.data.eval_size), pixel=FAMILIES[config.model.family].rgb_mean
  )


def check_sizes(config: ml_collections.ConfigDict) -> None:
  """Raises ValueError where an image is larger than what it is padded to."""
  if not config.data.random_crop:
    for dataset, split, _ in config.data.train_mix:
      _check_fits(config, dataset, split, "crop_size", "or set config.data.random_crop=True")
  _check_fits(config, config.data.dataset, config.data.eval_split, "eval_size")


def _check_fits(config: ml_collections.ConfigDict, dataset: str, split: str, field: str, cure: str = "") -> None:
  largest, size = sources.largest_image(dataset, split, config.data.data_dir), tuple(config.data[field])
  if any(side > most for side, most in zip(largest, size, strict=True)):
    needed = tuple(-(-max(pair) // 32) * 32 for pair in zip(largest, size, strict=True))
    raise ValueError(
      f"{dataset} {split!r} has images of up to {largest[0]} x {largest[1]}, larger than config.data.{field}={size}: "
      f"raise it to {needed} {cure}".rstrip()
      + "."
    )


def count(logits: jax.Array, truth: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Logits `[B, H, W, C]`, labels uint8 `[B, H, W]` -> confusion int32 `[C, C]`, predictions uint8 `[B, H, W]`."""
  predictions = jnp.argmax(logits, -1).astype(jnp.uint8)
  return confusion.confusion_matrix(truth, predictions, logits.shape[-1]), predictions


class Scores(scores.Scores):
  """Counts are `[C, C]`, rows = ground truth, over all valid pixels."""

  @property
  def scalars(self) -> dict[str, float]:
    return {SCORE: confusion.mean_iou(self.counts), "pixel_accuracy": confusion.pixel_accuracy(self.counts)}

  def table(self) -> str:
    """IoU and share of the valid pixels by class."""
    pixels = self.counts.sum(1)
    share = pixels / max(1, pixels.sum())
    return overlay.class_table(self.label_set.classes, confusion.iou_per_class(self.counts), share, self.scalars[SCORE])

  def details(self) -> dict[str, Any]:
    """`iou` by class name, null where a class neither occurs nor is predicted; `confusion`, ground truth in rows."""
    return {"iou": self.by_class(confusion.iou_per_class(self.counts)), "confusion": self.counts.tolist()}


def draw(rows: Sequence[tuple], label_set: labels.LabelSet) -> np.ndarray:
  """The contact sheet of rows (image, label, prediction, (height, width) as stored, image id)."""
  cut = [([array[:height, :width] for array in maps], name) for *maps, (height, width), name in rows]
  images, truths, predictions = zip(*(maps for maps, _ in cut), strict=True)
  return overlay.contact_sheet(images, truths, predictions, [name for _, name in cut], label_set)
