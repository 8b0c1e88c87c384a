"""Metrics of Cityscapes against the official script, and of VOC against their definition."""

import types

import cv2
import numpy as np
import pytest
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official
from PIL import Image

from gcn_flax.evaluation import confusion
from gcn_flax.labels import CITYSCAPES, VOC
from gcn_flax.tasks import segmentation

RAW_IDS = np.array([np.flatnonzero(CITYSCAPES.raw_to_train == index)[0] for index in range(19)])


def regions(rng, values, size, blur=4):
  """Returns a map of smooth regions with the given values."""
  noise = rng.normal(size=(*size, len(values)))
  return np.asarray(values)[np.argmax(cv2.GaussianBlur(noise, (0, 0), blur).reshape(noise.shape), -1)]


def labelled(rng, raw_values, size):
  """Returns raw labels, and instance ids that split the objects among them."""
  raw = regions(rng, raw_values, size)
  numbers = regions(rng, np.arange(4), size, blur=2)
  is_object = (raw >= 24) & (rng.random() < 0.9)
  return raw.astype(np.uint8), np.where(is_object, raw * 1000 + numbers, raw).astype(np.uint16)


CASES = {
  "every id": [(np.arange(34), np.arange(19), (64, 96))] * 3,
  "odd sizes": [(np.arange(7, 34), np.arange(19), (37, 53)), (np.arange(7, 34), np.arange(19), (1, 1))],
  "absent classes": [([7, 11, 26], [0, 2, 13], (40, 60))],
  "predicted but absent": [([7, 11], [0, 2, 12, 16], (40, 60))],
  "all void": [([0, 4, 9], np.arange(19), (30, 40))],
  "void beside one class": [([3], np.arange(19), (30, 40)), ([24], [11, 12, 0], (30, 40))],
  "one class, all correct": [([26], [13], (30, 40))],
  "one class, all wrong": [([26], [10], (30, 40))],
  "objects predicted as others of their category": [([24, 25, 26, 27, 28, 31, 32, 33], [11, 12, 13, 14], (60, 80))] * 2,
  "groups, and objects without instance metrics": [([29, 30, 24, 7], np.arange(19), (60, 80))],
}


class Labelled:
  label_set = CITYSCAPES

  def __init__(self, instances):
    self._instances = instances

  def instances(self, index):
    return self._instances[index]


def scores_of(counts):
  totals = {name: sum(part[name] for part in counts) for name in counts[0]}
  return segmentation.Metrics(totals, np.zeros(len(counts)), CITYSCAPES, [], [], [])


@pytest.mark.parametrize("case", CASES)
def test_cityscapes_metrics_equal_the_official_script(case, tmp_path, monkeypatch):
  rng = np.random.default_rng(len(case))
  counts, pairs, all_instances = [], [], []
  for raw_values, predicted, size in CASES[case]:
    raw, instances = labelled(rng, raw_values, size)
    predictions = regions(rng, predicted, size).astype(np.uint8)
    where = rng.random(size) < 0.5
    right = CITYSCAPES.raw_to_train[raw]
    predictions = np.where(where & np.isin(right, predicted), right, predictions).astype(np.uint8)
    all_instances.append(instances)
    counts.append(segmentation.count(Labelled(all_instances), len(counts), right, predictions))
    paths = [tmp_path / f"{len(pairs)}_{kind}.png" for kind in ("pred", "gt_labelIds", "gt_instanceIds")]
    for path, array in zip(paths, (RAW_IDS[predictions].astype(np.uint8), raw, instances), strict=True):
      Image.fromarray(array).save(path)
    pairs.append([str(path) for path in paths[:2]])
  arguments = types.SimpleNamespace(**{**vars(official.args), "quiet": True, "JSONOutput": False})
  monkeypatch.setattr(np, "in1d", np.isin, raising=False)  # cityscapesscripts 2.3.0 calls what NumPy has dropped.
  with np.errstate(divide="ignore", invalid="ignore"):
    expected = official.evaluateImgLists([pair[0] for pair in pairs], [pair[1] for pair in pairs], arguments)
  scores = scores_of(counts)
  details, scalars = scores.details(), scores.scalars
  for ours, theirs in (
    ("iou", "classScores"),
    ("instance_iou", "classInstScores"),
    ("category_iou", "categoryScores"),
    ("category_instance_iou", "categoryInstScores"),
  ):
    for name, value in details[ours].items():
      np.testing.assert_allclose(np.nan if value is None else value, expected[theirs][name], rtol=0, atol=1e-9)
  for ours, theirs in (
    ("mean_iou", "averageScoreClasses"),
    ("mean_instance_iou", "averageScoreInstClasses"),
    ("mean_category_iou", "averageScoreCategories"),
    ("mean_category_instance_iou", "averageScoreInstCategories"),
  ):
    np.testing.assert_allclose(scalars[ours], expected[theirs], rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_voc_metrics_equal_their_definition(seed):
  """VOC uses one matrix over the data set, with background and without void."""
  rng = np.random.default_rng(seed)
  matrix, pairs = 0, []
  for _ in range(4):
    size = tuple(rng.integers(20, 70, 2))
    label = regions(rng, [*range(0, 21, seed + 1), 255], size).astype(np.uint8)
    prediction = np.where(rng.random(size) < 0.6, np.where(label == 255, 0, label), regions(rng, range(21), size))
    pairs.append((label, prediction.astype(np.uint8)))
    matrix = matrix + confusion.confusion_matrix(*pairs[-1], 21)
  label, prediction = (np.concatenate([pair[side].reshape(-1) for pair in pairs]) for side in (0, 1))
  valid = label != 255
  expected = []
  for index in range(VOC.num_classes):
    union = (valid & ((label == index) | (prediction == index))).sum()
    expected.append((valid & (label == index) & (prediction == index)).sum() / union if union else np.nan)
  np.testing.assert_allclose(confusion.iou_per_class(matrix), expected, rtol=0, atol=1e-12)
  np.testing.assert_allclose(confusion.mean_iou(matrix), np.nanmean(expected), rtol=0, atol=1e-12)
  accuracy = [(prediction == index)[label == index].mean() for index in np.unique(label[valid])]
  np.testing.assert_allclose(confusion.mean_accuracy(matrix), np.mean(accuracy))
  share = np.bincount(label[valid], minlength=21) / valid.sum()
  np.testing.assert_allclose(confusion.frequency_weighted_iou(matrix), np.nansum(share * np.array(expected)))
