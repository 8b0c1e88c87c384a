"""Evaluation of a whole split, each image once, at its own size."""

import json

import cv2
import jax
import numpy as np
import pytest

from gcn_flax.evaluate import write_metrics
from gcn_flax.evaluation.confusion import confusion_matrix, iou_per_class, mean_iou
from gcn_flax.input_pipeline.transforms import pad
from gcn_flax.run_data import RunData
from gcn_flax.workdir.record import TrainingData
from gcn_flax.workdir.workdir import Workdir
from tests.runs import build_setup, evaluate_split

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet's, of torchvision's weights.


def reference(config, setup, state, split):
  """The confusion matrix counted image by image, in NumPy."""
  source = RunData(config).eval_source(split)
  matrix = np.zeros((11, 11), np.int64)
  apply = jax.jit(lambda images: setup.network.apply(
    {"params": state.params, "batch_stats": state.batch_stats}, images, train=False
  ))  # fmt: skip
  for index in range(len(source)):
    example = source[index]
    height, width = example["label"].shape
    padded = pad(example, config.data.eval_size, MEAN)
    images = (padded["image"][None] - np.float32(MEAN)) / np.float32(STD)
    prediction = np.argmax(apply(np.float32(images))[0, :height, :width], -1)
    matrix += confusion_matrix(example["label"], np.asarray(prediction), 11)
  return matrix


@pytest.mark.parametrize("batch_size", [8, 16])
def test_every_valid_pixel_counts_once(config, batch_size):
  """The set of 5 images does not fill the batch, and some devices hold only padding."""
  config.eval.batch_size = batch_size
  config.data.eval_size = (96, 128)
  setup = build_setup(config)
  state = setup.init(3)
  scores = evaluate_split(config, setup, state.weights())
  assert scores.num_images == 5
  source = RunData(config).eval_source("validation")
  counts = scores.counts["confusion"]
  assert counts.sum() == sum(int((source[index]["label"] != 255).sum()) for index in range(5))
  assert scores.counts["distance"][:, 0].sum() == counts.sum()
  assert scores.counts["distance"][:, 1].sum() == np.trace(counts)
  expected = reference(config, setup, state, "validation")
  # A pixel of two nearly equal scores may fall to either side.
  assert np.abs(counts - expected).sum() <= 4
  np.testing.assert_allclose(scores.scalars["mean_iou"], np.nanmean(iou_per_class(expected)), atol=1e-3)


@pytest.mark.slow
def test_the_same_pixels_on_one_device_as_on_eight(config, partitioner):
  """With a sliding window, scales and flips, a set that does not divide by the devices, and split rows in training."""
  config.data.eval_size = (96, 128)
  config.eval.tile, config.eval.overlap = (64, 96), 16
  config.eval.scales, config.eval.flip = (0.75, 1.0), True
  found = []
  for devices, spatial in ((jax.devices()[:1], 1), (jax.devices(), 1), (jax.devices(), 2)):
    config.eval.batch_size, config.mesh.spatial = len(devices), spatial
    setup = build_setup(config, devices)
    found.append(evaluate_split(config, setup, setup.init(3).weights()))
  for other in found[1:]:
    for name, counts in found[0].counts.items():
      np.testing.assert_array_equal(counts, other.counts[name])
    np.testing.assert_array_equal(found[0].image_metrics, other.image_metrics)


def test_the_contact_sheet_shows_each_image_with_its_own_maps(config):
  config.data.eval_size = (96, 128)
  config.eval.num_pictures = 5
  setup = build_setup(config)
  state = setup.init(3)
  scores = evaluate_split(config, setup, state.weights())
  source = RunData(config).eval_source("validation")
  examples = {source[index]["image_id"]: source[index] for index in range(5)}
  matrix = np.zeros((11, 11), np.int64)
  for row in scores.sample:
    np.testing.assert_array_equal(row.image, examples[row.image_id]["image"])
    np.testing.assert_array_equal(row.label, examples[row.image_id]["label"])
    own = confusion_matrix(row.label, row.prediction, 11)
    np.testing.assert_allclose(row.metric, mean_iou(own))
    matrix += own
  assert [row.image_id for row in scores.sample] == list(examples)
  assert np.abs(matrix - reference(config, setup, state, "validation")).sum() <= 4
  by_score = sorted(scores.sample, key=lambda row: row.metric)
  assert [row.image_id for row in scores.worst] == [row.image_id for row in by_score]
  assert [row.image_id for row in scores.best] == [row.image_id for row in by_score[::-1]]
  np.testing.assert_array_equal(scores.image_metrics, [row.metric for row in scores.sample])


def test_the_metrics_are_written_though_nobody_reads_the_output(config, tmp_path, monkeypatch):
  setup = build_setup(config)
  scores = evaluate_split(config, setup, setup.init(0).weights())

  def closed(*_, **__):
    raise BrokenPipeError

  monkeypatch.setattr("builtins.print", closed)
  with pytest.raises(BrokenPipeError):
    write_metrics(Workdir(tmp_path), config, RunData(config), "validation", 7, scores, TrainingData())
  assert json.loads((tmp_path / "eval_validation.json").read_text())["mean_iou"] == scores.scalars["mean_iou"]


def test_what_an_evaluation_leaves(config, tmp_path, capsys):
  config.eval.num_pictures = 2
  setup = build_setup(config)
  scores = evaluate_split(config, setup, setup.init(0).weights())
  matrix = scores.counts["confusion"]
  matrix[:, 4] = matrix[4, :] = 0
  write_metrics(
    Workdir(tmp_path),
    config,
    RunData(config),
    "validation",
    7,
    scores,
    TrainingData(partial={"shapes": ["train 1 instead of 3000"]}, eval_size=(512, 512)),
  )
  result = json.loads((tmp_path / "eval_validation.json").read_text())
  assert result["num_images"] == 5 and result["step"] == 7
  assert result["iou"]["pavement"] is None and len(result["iou"]) == 11
  np.testing.assert_allclose(result["mean_iou"], scores.scalars["mean_iou"])
  np.testing.assert_allclose(result["pixel_accuracy"], np.trace(matrix) / matrix.sum())
  assert list(result["accuracy_within_pixels"]) == [str(distance) for distance in range(1, 41)]
  sheet = cv2.imread(str(tmp_path / "eval_validation.png"))
  assert sheet.shape[1] > 3 * 360
  table = capsys.readouterr().out
  assert "pavement" in table and "mean IoU" in table and "boundary accuracy" in table
  lacks = ["train 12 instead of 367", "validation 5 instead of 101"]
  assert result["partial"] == {"camvid": lacks, "shapes": ["train 1 instead of 3000"]}
  assert f"PARTIAL DATA: camvid {', '.join(lacks)}" in table
  assert (result["eval_size"], result["num_canvases"], result["eval_size_of_training"]) == ([], 1, [512, 512])
  assert "OTHER CANVAS: eval_size [], in training [512, 512]" in table


def test_an_image_that_does_not_fit_is_named(config):
  config.data.eval_size = (32, 96)
  setup = build_setup(config)
  with pytest.raises(
    ValueError, match=r"image val\d: its size 64 x 96 is larger than 32 x 96. Set config.data.eval_size=\(\)"
  ):
    evaluate_split(config, setup, setup.init(0).weights())
