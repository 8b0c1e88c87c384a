"""Text tables of an evaluation."""

import numpy as np

from gcn_flax.visualize import tables


def test_table_of_iou():
  lines = tables.class_table(
    ("sky", "bicyclist"), (0.5, np.nan), (0.25, 0.75), {"mean_iou": 0.5, "boundary_iou": np.nan}
  ).splitlines()
  assert [line.split() for line in lines] == [
    ["class", "IoU", "%", "pixels", "%"], ["sky", "50.0", "25.00"], ["bicyclist", "-", "75.00"],
    ["mean", "IoU", "50.0"], ["boundary", "IoU", "-"],
  ]  # fmt: skip


def test_table_of_accuracy_lists_the_least_accurate_classes():
  lines = tables.accuracy_table(
    ("a", "b", "c", "absent"), (0.9, 0.1, 0.5, np.nan), (1000, 20, 30, 0), {"top1": 0.5}, max_classes=2
  ).splitlines()
  assert [line.split() for line in lines] == [
    ["class", "top-1", "%", "images"], ["b", "10.0", "20"], ["c", "50.0", "30"],
    ["...", "and", "1", "classes", "with", "higher", "accuracy"], ["top-1", "50.0"],
  ]  # fmt: skip
