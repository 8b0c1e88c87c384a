"""CRF post-processing in separate processes, and the search of its parameters."""

import json

import jax
import numpy as np
import pytest

from gcn_flax import inference, search_crf
from gcn_flax.evaluation import crf
from gcn_flax.evaluation.confusion import confusion_matrix, mean_iou
from gcn_flax.input_pipeline.transforms import pad
from gcn_flax.labels import CAMVID
from gcn_flax.run_data import RunData
from gcn_flax.workdir.record import TrainingData
from gcn_flax.workdir.trained import Trained
from gcn_flax.workdir.workdir import Workdir
from tests.runs import build_setup, evaluate_split


@pytest.fixture
def refined(config):
  config.eval.crf.iterations, config.eval.crf.num_workers = 3, 1
  return config


def by_hand(config, setup, weights):
  """Confusion without and with the CRF."""
  source = RunData(config).eval_source("validation")
  matrices = np.zeros((2, 11, 11), np.int64)
  for index in range(len(source)):
    example = source[index]
    image = np.float32(pad(example, (64, 96), (124, 116, 104))["image"][None])
    normal = (image - weights["normalization"]["mean"]) / weights["normalization"]["std"]
    variables = {name: weights[name] for name in ("params", "batch_stats")}
    probabilities = np.asarray(jax.nn.softmax(setup.network.apply(variables, normal, train=False)))[0]
    for number, prediction in enumerate(
      (np.argmax(probabilities, -1), crf.postprocess(example["image"], probabilities, inference.crf_parameters(config)))
    ):
      matrices[number] += confusion_matrix(example["label"], prediction.astype(np.uint8), 11)
  return matrices


@pytest.mark.slow
def test_evaluation_and_search_count_what_the_crf_gives(refined, tmp_path, capsys):
  setup = build_setup(refined)
  weights = setup.init(3).weights()
  without, expected = by_hand(refined, setup, weights)
  assert np.abs(without - expected).sum() > 100
  scores = evaluate_split(refined, setup, weights)
  # A pixel of two nearly equal probabilities may fall to either side.
  assert np.abs(scores.counts["confusion"] - expected).sum() <= 0.005 * expected.sum()

  grid = {"color_weight": (1.0,), "color_rgb": (3.0, 20.0)}
  tried = search_crf.candidates(refined, grid)
  trained = Trained(setup, weights, 0, CAMVID, TrainingData())
  scored = search_crf.search(refined, trained, RunData(refined).eval_source("validation"), tried)
  search_crf.report(scored, 5, "validation", Workdir(tmp_path))
  values = [value for _, value in scored]
  assert len(scored) == 4 and values == sorted(values, reverse=True)
  by_parameters = dict(scored)
  np.testing.assert_allclose(by_parameters[inference.crf_parameters(refined)], mean_iou(expected), atol=0.003)
  (alone,) = (value for parameters, value in scored if parameters.iterations == 0)
  np.testing.assert_allclose(alone, mean_iou(without), atol=0.003)
  written = json.loads((tmp_path / "crf_validation.json").read_text())
  assert written["num_images"] == 5 and [line["mean_iou"] for line in written["tried"]] == values
  printed = capsys.readouterr().out
  assert "no CRF" in printed and "best: " in printed


def test_a_search_takes_images_from_all_over_the_split(config):
  source = RunData(config).eval_source("validation")
  subset = search_crf.Subset(source, 3)
  assert [subset[index]["image_id"] for index in range(len(subset))] == [source.image_id(index) for index in (0, 2, 4)]
  assert len(search_crf.Subset(source, 50)) == 5


def test_without_iterations_ten_are_tried(config):
  assert {parameters.iterations for parameters in search_crf.candidates(config)} == {10}
