"""Classes of pixels: the network of the paper, evaluated by mean intersection over union (mIoU)."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from gcn_flax import labels
from gcn_flax.evaluation import confusion, instances, regions, tiling
from gcn_flax.input_pipeline import canvas, transforms
from gcn_flax.input_pipeline.examples import Source
from gcn_flax.models.gcn import GCN
from gcn_flax.models.layout import FeatureMap
from gcn_flax.models.ops import ops_for
from gcn_flax.models.pretrained import FAMILIES
from gcn_flax.tasks import metrics
from gcn_flax.training import losses
from gcn_flax.visualize import overlay, sheets, tables

IGNORE = labels.IGNORE
BEST_METRIC = "mean_iou"
loss = losses.segmentation_loss


def network(config: ml_collections.ConfigDict, num_classes: int, platform: str) -> GCN:
  """Builds the network of a config for a platform."""
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
    ops=ops_for(platform),
    remat=model.remat,
    small_heads=model.init == "small_heads",
  )


def augmentation(config: ml_collections.ConfigDict) -> Callable:
  """Returns the training augmentation, `(example, rng) -> example` of `config.data.crop_size`."""
  data = config.data
  return functools.partial(
    transforms.augment,
    crop_size=tuple(data.crop_size),
    pixel=FAMILIES[config.model.family].rgb_mean,
    scales=tuple(data.scales) if data.random_scale else None,
    crop=data.random_crop,
    flip=data.random_flip,
    jitter=data.color_jitter,
    rotation=data.rotation,
    vertical_flip=data.vertical_flip,
    blur=data.blur,
  )


def canvases(config: ml_collections.ConfigDict, source: Source) -> list[canvas.Canvas]:
  """Returns the (height, width) that each image is padded to for evaluation."""
  fixed = tuple(config.data.eval_size)
  return [fixed] * len(source) if fixed else [canvas.canvas_of(size) for size in source.sizes]


def eval_transform(config: ml_collections.ConfigDict) -> Callable:
  """Returns the padding for evaluation, `example -> example` of the size of its canvas; nothing is resized."""
  fixed, pixel = tuple(config.data.eval_size), padding_pixel(config)
  return lambda example: transforms.pad(example, canvas.canvas_of(example["image"].shape[:2], fixed), pixel)


def padding_pixel(config: ml_collections.ConfigDict) -> tuple[float, ...]:
  """Returns the padding colour: the mean RGB pixel of the weights' family, rounded."""
  return tuple(map(float, np.round(FAMILIES[config.model.family].rgb_mean)))


def inference(config: ml_collections.ConfigDict, probabilities: bool = False) -> Callable:
  """Returns `(apply, images, sizes, labels) -> predictions`, with test-time augmentation (TTA) as in `config.eval`.

  If `labels`, uint8 `[B, H, W]`, are not None, it returns `(predictions, losses)`: losses are float32 `[B, 2]`, the
  sum and weight of `losses.evaluation_loss` of each image, from the raw logits. With TTA they are those of the mean
  probabilities, at most 87.3 nats a pixel. CRF post-processing comes later and does not change them.

  A device takes its images one by one: a prediction then depends on nothing but its image, while in a batch the order
  of sums, and so the class of a pixel with two nearly equal logits, would depend on the number of images. Predictions
  are classes uint8 `[B, H, W]`; or probabilities float32 `[B, H, W, C]`, on demand and if CRF post-processing follows.
  """
  settings = config.eval
  probabilities = probabilities or settings.crf.iterations > 0

  def infer_one(apply, images: jax.Array, sizes: jax.Array, labels: jax.Array | None):
    tta = tiling.TTA(
      scales=tuple(settings.scales),
      flip=settings.flip,
      tile=tuple(settings.tile),
      overlap=settings.overlap,
      pixel=padding_pixel(config),
    )
    if tta.is_identity:
      logits = apply(images)  # Softmax keeps the order, except for logits closer than its rounding.
      predictions = jax.nn.softmax(logits.plain().astype(jnp.float32)) if probabilities else logits.argmax()
      loss_of = functools.partial(losses.evaluation_loss, logits)
    else:
      mean = tiling.mean_probabilities(lambda tiles: apply(tiles).plain().astype(jnp.float32), images, sizes, tta)
      predictions = mean if probabilities else FeatureMap.of(mean).argmax()
      loss_of = functools.partial(losses.cross_entropy_of_probabilities, mean)
    return predictions if labels is None else (predictions, jnp.stack(loss_of(labels))[None])

  def infer(apply, images: jax.Array, sizes: jax.Array, labels: jax.Array | None = None):
    def infer_example(example):
      one = infer_one(apply, *jax.tree.map(lambda array: array[None], example))
      return jax.tree.map(lambda array: array[0], one)

    return jax.lax.map(infer_example, (images, sizes, labels))

  return infer


def remove_padding(array: np.ndarray, size: Sequence[int]) -> np.ndarray:
  """Removes the padding: `[H, W, ...]` of (height, width) = `size`."""
  return array[: size[0], : size[1]]


def count(source: Source, index: int, label: np.ndarray, prediction: np.ndarray) -> metrics.Counts:
  """Counts one image for every metric; label and prediction are uint8 `[H, W]`."""
  label_set = source.label_set
  counts = {
    "confusion": confusion.confusion_matrix(label, prediction, label_set.num_classes),
    "distance": regions.count_by_distance(label, prediction),
    "boundaries": regions.count_boundaries(label, prediction, label_set.num_classes),
  }
  if label_set.instance_sizes:
    counts["instances"] = instances.count_instances(prediction, source.instances(index), label_set)
  return counts


def image_metric(counts: metrics.Counts) -> float:
  """Returns the mean IoU of one image alone; NaN if all of it is void."""
  return confusion.mean_iou(counts["confusion"])


class Metrics(metrics.Metrics):
  """Metrics from a confusion matrix `[C, C]`, counts near boundaries, and instance counts (Cityscapes)."""

  @property
  def scalars(self) -> dict[str, float]:
    matrix = self.counts["confusion"]
    boundary, internal = regions.boundary_accuracy(self.counts["distance"])
    figures = {
      BEST_METRIC: confusion.mean_iou(matrix),
      "pixel_accuracy": confusion.pixel_accuracy(matrix),
      "mean_accuracy": confusion.mean_accuracy(matrix),
      "frequency_weighted_iou": confusion.frequency_weighted_iou(matrix),
      "boundary_accuracy": boundary,
      "internal_accuracy": internal,
      "boundary_iou": confusion.mean_of_present(regions.boundary_iou(self.counts["boundaries"])),
    }
    means = {name: confusion.mean_of_present(list(values.values())) for name, values in self._cityscapes().items()}
    return figures | {f"mean_{name}": value for name, value in means.items()}

  @property
  def logged(self) -> dict[str, float]:
    """Values as in the base class, and the IoU of each class as `iou/CLASS`; NaN for an absent class."""
    iou = confusion.iou_per_class(self.counts["confusion"])
    by_class = {f"iou/{name}": value for name, value in zip(self.label_set.classes, iou, strict=True)}
    return {**super().logged, **by_class}

  def _cityscapes(self) -> dict[str, dict[str, float]]:
    """Returns `category_iou`, `instance_iou`, `category_instance_iou` by name; {} for data sets without instances."""
    if "instances" not in self.counts:
      return {}
    matrix, sums, label_set = self.counts["confusion"], self.counts["instances"], self.label_set
    names, merged = confusion.merge(matrix, label_set.categories)
    found = {
      "category_iou": (names, confusion.iou_per_class(merged)),
      "instance_iou": (label_set.classes, instances.instance_iou(sums, matrix, label_set)),
      "category_instance_iou": instances.category_instance_iou(sums, matrix, label_set),
    }
    return {name: dict(zip(*pairs, strict=True)) for name, pairs in found.items()}

  def table(self) -> str:
    """Returns a table of IoU and share of the valid pixels by class, and of every scalar."""
    pixels = self.counts["confusion"].sum(1)
    share = pixels / max(1, pixels.sum())
    iou = confusion.iou_per_class(self.counts["confusion"])
    return tables.class_table(self.label_set.classes, iou, share, self.scalars)

  def details(self) -> dict[str, Any]:
    """Returns metrics by name, as lists and dicts for JSON.

    `iou`, `accuracy` and `boundary_iou_by_class` are by class name, None for absent classes. `accuracy_within_pixels`
    is by distance from a boundary. `confusion` is the confusion matrix. Cityscapes has `category_iou`, `instance_iou`
    and `category_instance_iou` as well.
    """
    matrix = self.counts["confusion"]
    return {
      "iou": self.by_class(confusion.iou_per_class(matrix)),
      "accuracy": self.by_class(confusion.class_accuracy(matrix)),
      "boundary_iou_by_class": self.by_class(regions.boundary_iou(self.counts["boundaries"])),
      **{name: metrics.named(values, values.values()) for name, values in self._cityscapes().items()},
      "accuracy_within_pixels": metrics.named(
        map(str, range(1, regions.MAX_DISTANCE + 1)), regions.accuracy_curve(self.counts["distance"])
      ),
      "confusion": matrix.tolist(),
    }

  def sheet(self, rows: Sequence[metrics.Row], over_image: bool = False) -> np.ndarray:
    """Draws image, ground truth and prediction of each row, with its mean IoU."""
    captions = [f"{row.image_id}  mean IoU {100 * row.metric:.1f} %" for row in rows]
    columns = zip(*((row.image, row.label, row.prediction) for row in rows), strict=True)
    return sheets.contact_sheet(*columns, captions, self.label_set, over_image)


def shrink(array: np.ndarray, width: int) -> np.ndarray:
  """Shrinks an image or a label map to the width of a contact sheet."""
  return overlay.fit(array, width, sheets.MAX_ASPECT * width)
