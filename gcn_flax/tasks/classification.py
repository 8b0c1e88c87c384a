"""One class for each image: how an encoder is pretrained, scored by top-1 and top-5 accuracy."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from gcn_flax import labels
from gcn_flax.evaluation import accuracy
from gcn_flax.input_pipeline import transforms
from gcn_flax.models.classifier import Classifier
from gcn_flax.models.pretrained import FAMILIES
from gcn_flax.tasks import scores
from gcn_flax.visualize import overlay

IGNORE = labels.NO_CLASS
SCORE = "top1"
_WORST = 10  # Classes in the printed table; the file has all.


def network(config: ml_collections.ConfigDict, num_classes: int) -> Classifier:
  """The network of a config."""
  model = config.model
  return Classifier(
    num_classes=num_classes,
    backbone=model.backbone,
    norm=model.norm,
    stride_in_1x1=FAMILIES[model.family].stride_in_1x1,
    dtype=jnp.dtype(model.dtype),
  )


def augmentation(config: ml_collections.ConfigDict) -> Callable:
  """`(example, rng) -> example` of the size trained on."""
  data = config.data
  return functools.partial(
    transforms.augment_whole,
    crop_size=tuple(data.crop_size),
    area=tuple(data.crop_area),
    flip=data.random_flip,
    jitter=data.color_jitter,
  )


def fitting(config: ml_collections.ConfigDict) -> Callable:
  """`example -> example` of the size that is scored: the centre of the resized image."""
  return functools.partial(
    transforms.center_crop, size=tuple(config.data.eval_size), shorter_side=config.data.eval_resize
  )


def check_sizes(config: ml_collections.ConfigDict) -> None:
  """Images of any size will do: they are resized."""


def count(logits: jax.Array, truth: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Logits `[B, C]`, classes int32 `[B]` -> hits int32 `[C, 3]` as `count_hits` gives, predictions int32 `[B]`."""
  return accuracy.count_hits(logits, truth), jnp.argmax(logits, -1)


class Scores(scores.Scores):
  """Counts are `[C, 3]`: of each class its images, top-1 hits and top-5 hits."""

  @property
  def scalars(self) -> dict[str, float]:
    return dict(zip((SCORE, "top5"), accuracy.accuracy(self.counts), strict=True))

  def table(self) -> str:
    """Both accuracies, and the classes that are recognised worst."""
    return overlay.accuracy_table(
      self.label_set.classes, accuracy.accuracy_per_class(self.counts), self.counts[:, 0], self.scalars, _WORST
    )

  def details(self) -> dict[str, Any]:
    """`accuracy`, top-1 by class name, null where a class has no image."""
    return {"accuracy": self.by_class(accuracy.accuracy_per_class(self.counts))}


def draw(rows: Sequence[tuple], label_set: labels.LabelSet) -> np.ndarray:
  """The contact sheet of rows (image as scored, class, predicted class, (height, width) as stored, image id)."""
  images = [row[0] for row in rows]
  captions = [f"{label_set.classes[int(truth)]}: {label_set.classes[int(found)]}" for _, truth, found, _, _ in rows]
  return overlay.class_sheet(images, captions, title="true class: predicted class")
