"""Instance-weighted IoU (iIoU) of Cityscapes, in which every instance counts the same whatever its size."""

from collections.abc import Sequence

import numpy as np

from gcn_flax.evaluation import confusion
from gcn_flax.labels import IGNORE, LabelSet

_IDS_PER_LABEL = 1000  # An instance id is raw label id * 1000 + number.


def count_instances(predictions: np.ndarray, instances: np.ndarray, label_set: LabelSet) -> np.ndarray:
  """Sums, over the instances of each class, the share of their pixels that is predicted correctly.

  Args:
    predictions: train ids, uint8 `[H, W]`.
    instances: instance ids as Cityscapes stores them, uint16 `[H, W]`: raw label id * 1000 + number.
    label_set: label set with `instance_sizes` and `categories`.

  Returns:
    float64 `[C, 3]`: number of instances, sum of the shares predicted as their class, and sum of the shares
    predicted as their category; zero for classes without instance metrics.
  """
  ids, inverse, sizes = np.unique(instances, return_inverse=True, return_counts=True)
  owners = label_set.raw_to_train[np.minimum(ids // _IDS_PER_LABEL, IGNORE)]
  scored = [name in label_set.instance_sizes for name in label_set.classes]
  counted = np.append(scored, False)[np.minimum(owners, len(scored))]
  category = _category_numbers(label_set)
  owner_of_pixel = np.where(counted, owners, IGNORE)[inverse].reshape(-1)
  inside = owner_of_pixel != IGNORE
  owner, found, index = owner_of_pixel[inside], predictions.reshape(-1)[inside], inverse.reshape(-1)[inside]
  as_class = np.bincount(index[owner == found], minlength=len(ids)) / sizes
  as_category = np.bincount(index[category[owner] == category[found]], minlength=len(ids)) / sizes
  sums = np.zeros((label_set.num_classes, 3))
  for column, values in enumerate((np.ones(len(ids)), as_class, as_category)):
    np.add.at(sums[:, column], owners[counted], values[counted])
  return sums


def _category_numbers(label_set: LabelSet) -> np.ndarray:
  names = list(dict.fromkeys(label_set.categories))
  return np.array([names.index(name) for name in label_set.categories])


def instance_iou(sums: np.ndarray, matrix: np.ndarray, label_set: LabelSet) -> np.ndarray:
  """Returns iTP / (iTP + FP + iFN) of each class, float64 `[C]`; NaN for classes without instances.

  Each pixel of an instance is weighted by mean size of the class / size of the instance, false positives by 1
  (https://www.cityscapes-dataset.com/benchmarks, evalPixelLevelSemanticLabeling.py).

  Args:
    sums: sum of `count_instances` over the data set.
    matrix: confusion matrix of the data set.
    label_set: label set with `instance_sizes`.
  """
  matrix = np.asarray(matrix, np.int64)
  weights = np.array([label_set.instance_sizes.get(name, np.nan) for name in label_set.classes])
  return _iou(weights * sums[:, 1], weights * sums[:, 0], matrix.sum(0) - np.diag(matrix))


def category_instance_iou(sums: np.ndarray, matrix: np.ndarray, label_set: LabelSet) -> tuple[list[str], np.ndarray]:
  """Returns (names, float64 `[G]`): the iIoU of each category, defined as in `instance_iou`.

  NaN for a category with a class that has no instance metrics.
  """
  names, merged = confusion.merge(matrix, label_set.categories)
  weights = np.array([label_set.instance_sizes.get(name, np.nan) for name in label_set.classes])
  true = _by_category(weights * sums[:, 2], names, label_set.categories)
  all_pixels = _by_category(weights * sums[:, 0], names, label_set.categories)
  return names, _iou(true, all_pixels, merged.sum(0) - np.diag(merged))


def _by_category(values: np.ndarray, names: Sequence[str], categories: Sequence[str]) -> np.ndarray:
  return np.array(
    [sum(value for value, own in zip(values, categories, strict=True) if own == name) for name in names], float
  )


def _iou(true: np.ndarray, all_pixels: np.ndarray, false: np.ndarray) -> np.ndarray:
  union = all_pixels + false
  return np.where(union > 0, true / np.where(union > 0, union, 1), np.nan)
