"""What differs between classifying pixels and whole images; everything else does not know which it is.

Each task is a module of the same names: `IGNORE`, `SCORE` (what the best checkpoint is chosen by), `loss`, `network`,
`augmentation`, `fitting`, `check_sizes`, `check_scored`; of scoring `inference`, on the devices, then for each image
`crop`, `count` and `score_image`, then `Scores`; and `shrink`, of pictures that are kept.
"""

from types import ModuleType

import ml_collections

from gcn_flax.config import is_classifier
from gcn_flax.tasks import classification, segmentation


def of(config: ml_collections.ConfigDict) -> ModuleType:
  """The task of a config."""
  return classification if is_classifier(config) else segmentation
