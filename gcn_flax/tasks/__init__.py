"""The two tasks, classes of pixels and classes of whole images, behind one interface.

Each task is a module with the same names:
  IGNORE: the label of void.
  BEST_METRIC: name of the metric that the best checkpoint is chosen by.
  network, loss, augmentation: for training.
  canvases, eval_transform: size of each example for evaluation, and the padding or crop that gives it that size.
  inference: predictions on the devices; then, for each image on the host, remove_padding, count and image_metric.
  Metrics: of the whole split, from the counts.
  shrink: shrinks pictures that are kept.
"""

from types import ModuleType

import ml_collections

from gcn_flax.config import is_classifier
from gcn_flax.tasks import classification, segmentation


def of(config: ml_collections.ConfigDict) -> ModuleType:
  """Returns the task of a config."""
  return classification if is_classifier(config) else segmentation
