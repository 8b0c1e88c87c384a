"""Metrics from a confusion matrix against loops, sets of pixels and the official Cityscapes script."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official

from configs import cityscapes as cityscapes_recipe
from gcn_flax import evaluate
from gcn_flax.evaluation.confusion import confusion_matrix, iou_per_class, mean_iou, pixel_accuracy
from gcn_flax.labels import CITYSCAPES

CLASSES = 19  # 19 * 19 cells are more than a uint8 counts.
ABSENT = 4  # Neither occurs nor is predicted in `example`.


def example(shape=(8, 6, 10)):
  """Returns uint8 labels, a quarter of them void, and predictions, most of them correct."""
  rng = np.random.default_rng(0)
  others = np.delete(np.arange(CLASSES), ABSENT)
  truth = rng.choice(others, shape)
  predictions = np.where(rng.random(shape) < 0.6, truth, rng.choice(others, shape))
  labels = np.where(rng.random(shape) < 0.25, 255, truth)
  return labels.astype(np.uint8), predictions.astype(np.uint8)


def slow_confusion(labels, predictions, ignore=255) -> np.ndarray:
  """Counts one pixel after the other."""
  matrix = np.zeros((CLASSES, CLASSES), np.int64)
  for label, prediction in zip(labels.ravel(), predictions.ravel(), strict=True):
    if label != ignore:
      matrix[label, prediction] += 1
  return matrix


def slow_iou(labels, predictions, index: int) -> float:
  """Computes the IoU from sets of pixels."""
  valid = {i for i, label in enumerate(labels.ravel()) if label != 255}
  truth = {i for i in valid if labels.ravel()[i] == index}
  predicted = {i for i in valid if predictions.ravel()[i] == index}
  return len(truth & predicted) / len(truth | predicted) if truth | predicted else float("nan")


def by_numpy(labels, predictions, **options):
  return confusion_matrix(labels, predictions, CLASSES, **options)


def by_jax(labels, predictions, **options):
  return confusion_matrix(jnp.asarray(labels), jnp.asarray(predictions), CLASSES, **options)


def by_jit(labels, predictions, **options):
  return jax.jit(lambda labels, predictions: by_jax(labels, predictions, **options))(labels, predictions)


def by_eight_devices(labels, predictions, **options):
  mesh = jax.make_mesh((4, 2), ("data", "spatial"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
  sharding = jax.NamedSharding(mesh, jax.P("data", "spatial"))
  labels, predictions = jax.device_put((labels, predictions), sharding)
  assert len(labels.sharding.device_set) == 8
  return by_jit(labels, predictions, **options)


ways = pytest.mark.parametrize("count", [by_numpy, by_jax, by_jit, by_eight_devices])


@ways
def test_counts_equal_a_loop_over_pixels(count):
  labels, predictions = example()
  matrix = count(labels, predictions)
  np.testing.assert_array_equal(matrix, slow_confusion(labels, predictions))
  assert matrix.dtype == (np.int64 if count is by_numpy else np.int32)


@ways
def test_void_labels_count_nothing(count):
  labels, predictions = example()
  np.testing.assert_array_equal(count(np.full_like(labels, 255), predictions), np.zeros((CLASSES, CLASSES)))


@ways
def test_another_ignore_label(count):
  labels, predictions = example()
  labels = np.where(labels == 255, 3, labels)
  np.testing.assert_array_equal(count(labels, predictions, ignore=3), slow_confusion(labels, predictions, ignore=3))


def test_predictions_at_void_pixels_may_be_anything():
  labels, predictions = example()
  predictions = np.where(labels == 255, 255, predictions)
  for count in (by_numpy, by_jax, by_jit):
    np.testing.assert_array_equal(count(labels, predictions), slow_confusion(labels, predictions))


def test_counts_beyond_float32_are_exact():
  zeros = np.zeros(2**24 + 3, np.uint8)
  assert by_jit(zeros, zeros)[0, 0] == 2**24 + 3


@pytest.mark.parametrize("count", [by_numpy, by_jax])
@pytest.mark.parametrize("wrong", [CLASSES, 33, 254, -1])
def test_wrong_ids_are_rejected_with_the_values(count, wrong):
  labels, predictions = (values.astype(np.int32) for values in example())
  bad = labels.copy()
  bad[np.unravel_index(np.argmax(labels != 255), labels.shape)] = wrong
  smallest, largest = min(wrong, 0), max(wrong, CLASSES - 1)
  message = f"label values from {smallest} to {largest}: must be .* there are {CLASSES} classes"
  with pytest.raises(ValueError, match=message):
    count(bad, predictions)
  bad = np.where(labels == bad, predictions, wrong)
  with pytest.raises(ValueError, match=f"prediction values from {smallest} to {largest}: must be"):
    count(labels, bad)


def test_different_shapes_are_rejected():
  labels, predictions = example()
  with pytest.raises(ValueError, match=r"\(8, 6, 10\).*\(8, 6, 9\)"):
    by_numpy(labels, predictions[..., :-1])


def test_metrics_equal_sets_of_pixels():
  labels, predictions = example()
  matrix = confusion_matrix(labels, predictions, CLASSES)
  expected = [slow_iou(labels, predictions, index) for index in range(CLASSES)]
  np.testing.assert_allclose(iou_per_class(matrix), expected)
  assert mean_iou(matrix) == pytest.approx(np.nanmean(expected))
  valid = labels != 255
  assert pixel_accuracy(matrix) == pytest.approx((labels == predictions)[valid].mean())


def test_an_absent_class_is_nan_and_not_part_of_the_mean():
  matrix = confusion_matrix(*example(), CLASSES)
  absent = np.isnan(iou_per_class(matrix))
  assert absent[ABSENT] and absent.sum() == 1
  assert mean_iou(matrix) == pytest.approx(np.delete(iou_per_class(matrix), ABSENT).mean())


def test_a_class_that_is_only_predicted_has_an_iou_of_zero():
  np.testing.assert_array_equal(iou_per_class([[0, 3, 0], [0, 5, 0], [0, 0, 0]]), [0, 5 / 8, np.nan])


def test_rows_are_the_ground_truth():
  np.testing.assert_array_equal(confusion_matrix(np.array([0, 0]), np.array([1, 1]), 2), [[0, 2], [0, 0]])


def test_metrics_without_pixels_are_nan():
  nothing = np.zeros((3, 3), np.int64)
  assert np.isnan(iou_per_class(nothing)).all() and np.isnan(mean_iou(nothing)) and np.isnan(pixel_accuracy(nothing))


def test_metrics_are_exact_for_counts_beyond_32_bits():
  matrix = [[2**40, 2**20], [0, 2**40]]
  expected = 2**40 / (2**40 + 2**20)
  np.testing.assert_allclose(iou_per_class(matrix), [expected, expected], rtol=1e-15)
  assert pixel_accuracy(matrix) == pytest.approx(2**41 / (2**41 + 2**20), rel=1e-15)


def test_iou_equals_the_official_cityscapes_script():
  """The official matrix is over raw ids and includes void rows, which must not matter."""
  rng = np.random.default_rng(0)
  matrix = rng.integers(0, 1000, (CITYSCAPES.num_classes,) * 2)
  matrix[5], matrix[:, 5] = 0, 0
  raw_ids = [int(np.flatnonzero(CITYSCAPES.raw_to_train == train_id)[0]) for train_id in range(matrix.shape[0])]
  size = max(official.id2label) + 1
  raw = np.zeros((size, size), np.int64)
  void = np.setdiff1d(np.arange(size), raw_ids)
  raw[void] = rng.integers(0, 1000, (len(void), size))
  raw[np.ix_(raw_ids, raw_ids)] = matrix
  args = types.SimpleNamespace(evalLabels=list(range(size)))
  expected = [official.getIouScoreForLabel(raw_id, raw, args) for raw_id in raw_ids]
  assert np.isnan(expected[5])
  np.testing.assert_allclose(iou_per_class(matrix), expected)


@pytest.mark.slow
def test_counts_are_exact_past_two_to_the_31():
  """1,100 images of 1024 x 2048, mostly of one class, put 2.3e9 pixels into one cell."""
  rng = np.random.default_rng(0)
  pairs = []
  for _ in range(4):
    label, prediction = np.zeros((2, 1024, 2048), np.uint8)
    rare = rng.integers(0, 1024, (2, 500)), rng.integers(0, 2048, (2, 500))
    label[rare[0][0], rare[1][0]] = rng.choice([1, 2, 18, 255], 500)
    prediction[rare[0][1], rare[1][1]] = rng.integers(0, 19, 500)
    pairs.append((label, prediction))

  class Pairs:
    label_set, split = CITYSCAPES, "validation"

    def __len__(self):
      return 1100

    def instances(self, index):
      return np.zeros((1024, 2048), np.uint16)

  config = cityscapes_recipe.get_config()
  config.data.eval_size, config.eval.num_pictures = (1024, 2048), 0
  tally = evaluate._Tally(config, Pairs())
  image = np.zeros((1024, 2048, 3), np.uint8)
  examples = [
    {"image": image, "label": label, "size": (1024, 2048), "index": 0, "image_id": "name"} for label, _ in pairs
  ]
  outputs = [(prediction, np.zeros(2, np.float32)) for _, prediction in pairs]
  once = [tally.count(pair, lambda image, found: found) for pair in zip(examples, outputs, strict=True)]
  for index in range(1100):
    matrix = confusion_matrix(*pairs[index % 4], 19)
    _, counts, row = once[index % 4]
    np.testing.assert_array_equal(counts["confusion"], matrix)
    tally.add(index, {**counts, "confusion": matrix}, row)
  scores = tally.metrics()
  expected = np.zeros((19, 19), object)
  for index, (label, prediction) in enumerate(pairs):
    valid = label != 255
    cells, counts = np.unique(label[valid].astype(int) * 19 + prediction[valid], return_counts=True)
    times = len(range(index, 1100, 4))
    for cell, count in zip(cells.tolist(), counts.tolist(), strict=True):
      expected[divmod(cell, 19)] += times * count
  total = scores.counts["confusion"]
  assert total[0, 0] > 2**31 and total.tolist() == expected.tolist() and scores.num_images == 1100
  hits, union = int(expected[0, 0]), sum(expected[0, :]) + sum(expected[:, 0]) - expected[0, 0]
  assert scores.details()["iou"]["road"] == hits / union
