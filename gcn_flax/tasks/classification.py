"""One class for each image: how an encoder is pretrained, scored by top-1 and top-5 accuracy."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import ml_collections
import numpy as np

from gcn_flax import labels
from gcn_flax.evaluation import accuracy
from gcn_flax.input_pipeline import datasets, transforms
from gcn_flax.models.classifier import Classifier
from gcn_flax.models.ops import of_platform
from gcn_flax.models.pretrained import FAMILIES
from gcn_flax.tasks import metrics
from gcn_flax.training import losses
from gcn_flax.visualize import overlay, sheets, tables

IGNORE = labels.NO_CLASS
SCORE = "top1"
loss = losses.cross_entropy
_WORST = 10  # Classes in the printed table; the file has all.


def network(config: ml_collections.ConfigDict, num_classes: int, platform: str) -> Classifier:
  """The network of a config, in the forms of a platform."""
  model = config.model
  return Classifier(
    num_classes=num_classes,
    backbone=model.backbone,
    norm=model.norm,
    stride_in_1x1=FAMILIES[model.family].stride_in_1x1,
    dtype=jnp.dtype(model.dtype),
    forms=of_platform(platform),
    remat=model.remat,
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


def inference(config: ml_collections.ConfigDict) -> Callable:
  """`(apply, images, sizes)` -> the five best classes int32 `[B, 5]`, as `accuracy.best_classes` gives them."""
  del config
  return lambda apply, images, sizes: accuracy.best_classes(apply(images))


def crop(array: np.ndarray, size: Sequence[int]) -> np.ndarray:
  """Nothing was padded."""
  del size
  return array


def check_scored(config: ml_collections.ConfigDict, split: str) -> None:
  """Images of any size will do: they are resized."""


def count(source: datasets.Source, index: int, label: np.ndarray, prediction: np.ndarray) -> metrics.Counts:
  """Hits of one image, whose class is `label`, `prediction` being its five best classes."""
  del index
  return {"hits": accuracy.count_hits(int(label), prediction, source.label_set.num_classes)}


def score_image(counts: metrics.Counts) -> float:
  """1 where the best class is the true one, else 0; NaN for an image of no class."""
  return accuracy.accuracy(counts["hits"])[0]


class Scores(metrics.Scores):
  """Counts are `hits` `[C, 3]`: of each class its images, top-1 hits and top-5 hits."""

  @property
  def scalars(self) -> dict[str, float]:
    return dict(zip((SCORE, "top5"), accuracy.accuracy(self.counts["hits"]), strict=True))

  def table(self) -> str:
    """Both accuracies, and the classes that are recognised worst."""
    hits = self.counts["hits"]
    return tables.accuracy_table(
      self.label_set.classes, accuracy.accuracy_per_class(hits), hits[:, 0], self.scalars, _WORST
    )

  def details(self) -> dict[str, Any]:
    """`accuracy`, top-1 by class name, null where a class has no image."""
    return {"accuracy": self.by_class(accuracy.accuracy_per_class(self.counts["hits"]))}

  def sheet(self, rows: Sequence[metrics.Row], over_image: bool = False) -> np.ndarray:
    """The images as they were scored, with true and predicted class."""
    del over_image
    names = self.label_set.classes
    found = [names[row.prediction[0]] if row.prediction[0] >= 0 else "none" for row in rows]
    captions = [f"{names[int(row.label)]}: {name}" for row, name in zip(rows, found, strict=True)]
    return sheets.class_sheet([row.image for row in rows], captions, title="true class: predicted class")


def shrink(array: np.ndarray, width: int) -> np.ndarray:
  """An image as narrow as a sheet shows it; classes stay."""
  return overlay.shrink(array, width) if array.ndim == 3 else array
