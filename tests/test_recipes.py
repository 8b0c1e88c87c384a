"""Every shipped recipe, shrunk in size but in nothing else, trains and is scored."""

import importlib

import numpy as np
import pytest

from gcn_flax import build
from gcn_flax.input_pipeline import sources
from gcn_flax.labels import label_set
from gcn_flax.train import train
from gcn_flax.writers import read_metrics

RECIPES = [("quickstart", "gcn"), ("quickstart", "pointwise"), ("camvid", "resnet_tiny"), ("cityscapes", None)]


class RandomSource:
  """Sixteen random pictures with random train ids and void."""

  has_labels = True

  def __init__(self, dataset):
    self.label_set = label_set(dataset)

  def __len__(self):
    return 16

  def __getitem__(self, index):
    rng = np.random.default_rng(index)
    label = rng.integers(0, self.label_set.num_classes + 1, (64, 96)).astype(np.uint8)
    label[label == self.label_set.num_classes] = 255
    return {"image": rng.integers(0, 256, (64, 96, 3)).astype(np.uint8), "label": label, "image_id": f"random{index}"}


@pytest.mark.parametrize("recipe, argument", RECIPES)
def test_a_shrunk_recipe_trains(recipe, argument, tmp_path, monkeypatch):
  module = importlib.import_module(f"configs.{recipe}")
  config = module.get_config(argument) if argument else module.get_config()
  config.total_steps = 2
  config.batch_size = 8
  config.eval.batch_size = 8
  config.data.crop_size = (64, 96)
  config.data.eval_size = (64, 96)
  config.model.backbone = "resnet_tiny"
  monkeypatch.setattr(build, "open_split", lambda config, split: RandomSource(config.data.dataset))
  monkeypatch.setattr(sources, "split_sizes", lambda *_: {"train": 16, "validation": 16})
  train(config, tmp_path)
  lines = read_metrics(tmp_path / "metrics.jsonl")
  assert [line["step"] for line in lines] == [2, 2]
  assert np.isfinite(lines[0]["loss"]) and 0 <= lines[1]["validation/mean_iou"] <= 1
