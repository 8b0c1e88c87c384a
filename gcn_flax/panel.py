"""A panel of predictions, as the paper's Figure 6: pictures beside the label maps of several networks."""

from collections.abc import Mapping

import numpy as np

from gcn_flax.example_pictures import ExamplePictures
from gcn_flax.segmenter import Segmenter
from gcn_flax.tasks.segmentation import shrink
from gcn_flax.visualize import overlay, sheets

Networks = Mapping[str, Segmenter]  # By the name of the run.

_MAX_ROWS = 6
_WIDTH = 300  # Pixels, of one picture.


def draw_panel(networks: Networks, examples: ExamplePictures) -> np.ndarray:
  """Draws pictures beside the predictions of networks and the ground truth, as far as there is one.

  Args:
    networks: the networks, each predicting with the settings of its run. Ground truth has the colours of the first.
    examples: the pictures, of which up to six are shown.

  Returns:
    RGB uint8 `[H, W, 3]`.
  """
  shown = [examples[index] for index in examples.spread(_MAX_ROWS)]
  small = [shrink(example.image, _WIDTH) for example in shown]

  def draw(network: Segmenter, labels: list[np.ndarray | None]) -> list[np.ndarray]:
    pairs = zip(small, labels, strict=True)
    return [
      image if each is None else overlay.blend(image, shrink(each, _WIDTH), network.label_set) for image, each in pairs
    ]

  columns = [("image", small)]
  columns += [
    (name, draw(network, network.predict([example.image for example in shown]))) for name, network in networks.items()
  ]
  truth = [example.label for example in shown]
  if any(label is not None for label in truth):
    columns.append(("ground truth", draw(next(iter(networks.values())), truth)))
  label_sets = {network.classes: network.label_set for network in networks.values()}
  return sheets.panel(columns, [example.name for example in shown], list(label_sets.values()), _WIDTH)
