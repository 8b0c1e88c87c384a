"""A class for each pixel: the network of the paper, scored by intersection over union."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from gcn_flax import labels
from gcn_flax.evaluation import confusion, instances, regions, tiling
from gcn_flax.input_pipeline import datasets, transforms
from gcn_flax.models.gcn import GCN
from gcn_flax.models.ops import of_platform
from gcn_flax.models.pretrained import FAMILIES
from gcn_flax.tasks import metrics
from gcn_flax.training import losses
from gcn_flax.visualize import overlay

IGNORE = labels.IGNORE
SCORE = "mean_iou"
loss = losses.of_scores


def network(config: ml_collections.ConfigDict, num_classes: int, platform: str) -> GCN:
  """The network of a config, in the forms of a platform."""
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
    forms=of_platform(platform),
    remat=model.remat,
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
  return functools.partial(transforms.pad, size=tuple(config.data.eval_size), pixel=filling(config))


def filling(config: ml_collections.ConfigDict) -> tuple[float, ...]:
  """What stands where an image ends, RGB: the mean pixel, as the picture's own whole numbers."""
  return tuple(map(float, np.round(FAMILIES[config.model.family].rgb_mean)))


def check_sizes(config: ml_collections.ConfigDict) -> None:
  """Raises ValueError where an image is larger than what it is padded to."""
  if not config.data.random_crop:
    for dataset, split, _ in config.data.train_mix:
      _check_fits(config, dataset, split, "crop_size", "or set config.data.random_crop=True")
  check_scored(config, config.data.eval_split)


def check_scored(config: ml_collections.ConfigDict, split: str) -> None:
  """Raises ValueError where an image of a split is larger than what it is padded to for scoring."""
  _check_fits(config, config.data.dataset, split, "eval_size")


def _check_fits(config: ml_collections.ConfigDict, dataset: str, split: str, field: str, cure: str = "") -> None:
  largest, size = datasets.largest_image(dataset, split, config.data.data_dir), tuple(config.data[field])
  if any(side > most for side, most in zip(largest, size, strict=True)):
    needed = tuple(-(-max(pair) // 32) * 32 for pair in zip(largest, size, strict=True))
    raise ValueError(
      f"{dataset} {split!r} has images of up to {largest[0]} x {largest[1]}, larger than config.data.{field}={size}: "
      f"raise it to {needed} {cure}".rstrip()
      + "."
    )


def inference(config: ml_collections.ConfigDict) -> Callable:
  """`(apply, images, sizes)` -> classes uint8 `[B, H, W]`, or float32 `[B, H, W, C]` where `crf_postprocessing` follows."""
  settings = config.eval

  def infer(apply, images: jax.Array, sizes: jax.Array) -> jax.Array:
    views = tiling.TTA(
      scales=tuple(settings.scales),
      flip=settings.flip,
      tile=tuple(settings.tile),
      overlap=settings.overlap,
      pixel=filling(config),
    )
    if views.one and not settings.crf.iterations:
      return apply(images).classes()  # Softmax keeps the order, but for scores that differ by less than its rounding.
    find = tiling.mean_probabilities if settings.crf.iterations else tiling.classes
    return find(lambda tiles: apply(tiles).logits(), images, sizes, views)

  return infer


def crop(array: np.ndarray, size: Sequence[int]) -> np.ndarray:
  """The image's own part of what was padded, `[H, W, ...]`."""
  return array[: size[0], : size[1]]


def count(source: datasets.Source, index: int, label: np.ndarray, prediction: np.ndarray) -> metrics.Counts:
  """Everything that is counted of one image; label and prediction uint8 `[H, W]`."""
  label_set = source.label_set
  counts = {
    "confusion": confusion.confusion_matrix(label, prediction, label_set.num_classes),
    "distance": regions.count_by_distance(label, prediction),
    "boundaries": regions.count_boundaries(label, prediction, label_set.num_classes),
  }
  if label_set.instance_sizes:
    counts["instances"] = instances.count_instances(prediction, source.instances(index), label_set)
  return counts


def score_image(counts: metrics.Counts) -> float:
  """Mean IoU of one image by itself; NaN where all of it is void."""
  return confusion.mean_iou(counts["confusion"])


class Scores(metrics.Scores):
  """Counts are `confusion` `[C, C]`, and those of `evaluation.regions` and, for Cityscapes, `evaluation.instances`."""

  @property
  def scalars(self) -> dict[str, float]:
    matrix = self.counts["confusion"]
    boundary, internal = regions.boundary_accuracy(self.counts["distance"])
    figures = {
      SCORE: confusion.mean_iou(matrix),
      "pixel_accuracy": confusion.pixel_accuracy(matrix),
      "mean_accuracy": confusion.mean_accuracy(matrix),
      "frequency_weighted_iou": confusion.frequency_weighted_iou(matrix),
      "boundary_accuracy": boundary,
      "internal_accuracy": internal,
      "boundary_iou": confusion.mean_of_present(regions.boundary_iou(self.counts["boundaries"])),
    }
    means = {name: confusion.mean_of_present(list(values.values())) for name, values in self._cityscapes().items()}
    return figures | {f"mean_{name}": value for name, value in means.items()}

  def _cityscapes(self) -> dict[str, dict[str, float]]:
    """`category_iou`, `instance_iou`, `category_instance_iou` by name; {} where instances are not scored."""
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
    """IoU and share of the valid pixels by class, and every figure of the whole."""
    pixels = self.counts["confusion"].sum(1)
    share = pixels / max(1, pixels.sum())
    iou = confusion.iou_per_class(self.counts["confusion"])
    return overlay.class_table(self.label_set.classes, iou, share, self.scalars)

  def details(self) -> dict[str, Any]:
    """By class name, null where a class is absent: `iou`, `accuracy`, `boundary_iou_by_class`; and `confusion`."""
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
    """Image, truth and prediction of each row, the latter two also over the image, with its mean IoU."""
    captions = [f"{row.image_id}  mean IoU {100 * row.score:.1f} %" for row in rows]
    columns = zip(*((row.image, row.label, row.prediction) for row in rows), strict=True)
    return overlay.contact_sheet(*columns, captions, self.label_set, over_image)


def shrink(array: np.ndarray, width: int) -> np.ndarray:
  """An image or label map as narrow as a sheet shows it."""
  return overlay.shrink(array, width)
