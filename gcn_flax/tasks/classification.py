"""Classes of whole images, to pretrain encoders; evaluated by top-1 and top-5 accuracy."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from gcn_flax import labels
from gcn_flax.evaluation import accuracy
from gcn_flax.input_pipeline import canvas, transforms
from gcn_flax.input_pipeline.examples import Source
from gcn_flax.models.classifier import Classifier
from gcn_flax.models.ops import ops_for
from gcn_flax.models.pretrained import FAMILIES
from gcn_flax.tasks import metrics
from gcn_flax.training import losses
from gcn_flax.visualize import overlay, sheets, tables

IGNORE = labels.NO_CLASS
BEST_METRIC = "top1"
loss = losses.cross_entropy
_WORST = 10  # Number of classes in the printed table; the file has all.


def network(config: ml_collections.ConfigDict, num_classes: int, platform: str) -> Classifier:
  """Builds the network of a config for a platform."""
  model = config.model
  return Classifier(
    num_classes=num_classes,
    backbone=model.backbone,
    norm=model.norm,
    stride_in_1x1=FAMILIES[model.family].stride_in_1x1,
    dtype=jnp.dtype(model.dtype),
    ops=ops_for(platform),
    remat=model.remat,
    small_heads=model.init == "small_heads",
  )


def augmentation(config: ml_collections.ConfigDict) -> Callable:
  """Returns the training augmentation, `(example, rng) -> example` of `config.data.crop_size`."""
  data = config.data
  return functools.partial(
    transforms.augment_whole,
    crop_size=tuple(data.crop_size),
    area=tuple(data.crop_area),
    flip=data.random_flip,
    jitter=data.color_jitter,
  )


def canvases(config: ml_collections.ConfigDict, source: Source) -> list[canvas.Canvas]:
  """Returns the (height, width) of each image after the evaluation crop, `config.data.eval_size`."""
  return [tuple(config.data.eval_size)] * len(source)


def eval_transform(config: ml_collections.ConfigDict) -> Callable:
  """Returns the evaluation crop, `example -> example`: the centre of the resized image, of `config.data.eval_size`."""
  return functools.partial(
    transforms.center_crop, size=tuple(config.data.eval_size), shorter_side=config.data.eval_resize
  )


def inference(config: ml_collections.ConfigDict) -> Callable:
  """Returns `(apply, images, sizes, labels) -> ` the five best classes int32 `[B, 5]`, as from `best_classes`.

  If `labels`, int32 `[B]`, are not None, it returns `(classes, losses)`: losses are float32 `[B, 2]`, the sum and
  weight of `losses.cross_entropy` of each image.
  """
  del config

  def infer(apply, images: jax.Array, sizes: jax.Array, labels: jax.Array | None = None):
    del sizes
    logits = apply(images)
    best = accuracy.best_classes(logits)
    if labels is None:
      return best
    each = jax.vmap(functools.partial(losses.cross_entropy, ignore=IGNORE))(logits, labels)
    return best, jnp.stack(each, -1)

  return infer


def remove_padding(array: np.ndarray, size: Sequence[int]) -> np.ndarray:
  """Returns the array as it is: nothing was padded."""
  del size
  return array


def count(source: Source, index: int, label: np.ndarray, prediction: np.ndarray) -> metrics.Counts:
  """Counts the hits of one image; `label` is its class, `prediction` its five best classes."""
  del index
  return {"hits": accuracy.count_hits(int(label), prediction, source.label_set.num_classes)}


def image_metric(counts: metrics.Counts) -> float:
  """Returns 1 if the best class is the true one, else 0; NaN for an image without a class."""
  return accuracy.accuracy(counts["hits"])[0]


class Metrics(metrics.Metrics):
  """Metrics from `hits` `[C, 3]`: images, top-1 hits and top-5 hits of each class."""

  @property
  def scalars(self) -> dict[str, float]:
    return dict(zip((BEST_METRIC, "top5"), accuracy.accuracy(self.counts["hits"]), strict=True))

  def table(self) -> str:
    """Returns a table of both accuracies and of the worst classes."""
    hits = self.counts["hits"]
    return tables.accuracy_table(
      self.label_set.classes, accuracy.accuracy_per_class(hits), hits[:, 0], self.scalars, _WORST
    )

  def details(self) -> dict[str, Any]:
    """Returns `accuracy`, top-1 by class name; None for a class without images."""
    return {"accuracy": self.by_class(accuracy.accuracy_per_class(self.counts["hits"]))}

  def sheet(self, rows: Sequence[metrics.Row], over_image: bool = False) -> np.ndarray:
    """Draws the images as they were evaluated, with true and predicted class."""
    del over_image
    names = self.label_set.classes
    found = [names[row.prediction[0]] if row.prediction[0] >= 0 else "none" for row in rows]
    captions = [f"{names[int(row.label)]}: {name}" for row, name in zip(rows, found, strict=True)]
    return sheets.class_sheet([row.image for row in rows], captions, title="true class: predicted class")


def shrink(array: np.ndarray, width: int) -> np.ndarray:
  """Shrinks an image to the width of a contact sheet; classes stay as they are."""
  return overlay.fit(array, width, sheets.MAX_ASPECT * width) if array.ndim == 3 else array
