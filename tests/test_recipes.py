"""Every shipped recipe, shrunk in size but in nothing else, trains and is evaluated."""

import importlib

import jax
import numpy as np
import pytest

from configs import cityscapes, imagenet, pascal_voc, silhouettes
from gcn_flax import build, config_checks, tasks, train
from gcn_flax.config import is_classifier
from gcn_flax.labels import CLASSIFICATION, DATASETS, LABELS, label_set_of
from gcn_flax.run_data import RunData
from gcn_flax.training.checkpoint import open_checkpoints
from gcn_flax.workdir.writers import read_metrics

pytestmark = pytest.mark.usefixtures("fast_runs")

RECIPES = [
  ("quickstart", "gcn"),
]
# Compiling takes most of their time; `camvid`, `folder` and `silhouettes` are also trained by default tests.
SLOW_RECIPES = [
  ("quickstart", "pointwise"),
  ("camvid", "resnet_tiny"),
  ("folder", "resnet_tiny"),
  ("silhouettes", "resnet_tiny"),
  *(("cityscapes", argument) for argument in cityscapes.ARGUMENTS),
  *(("pascal_voc", argument) for argument in pascal_voc.ARGUMENTS),
  ("imagenet", "resnet50"),
  ("imagenet", "resnet50_gcn:class_folder"),
]


def label_set(dataset):
  number = 300 if dataset in CLASSIFICATION else 11
  return label_set_of(dataset, tuple(f"class{index}" for index in range(number)))


class RandomSource:
  """Sixteen random pictures with random train ids and void, or with one class each."""

  has_labels = True

  def __init__(self, dataset, split):
    self.split, self.label_set = split, label_set(dataset)

  def __len__(self):
    return 16

  def image_id(self, index):
    return f"random{index}"

  def instances(self, index):
    return np.random.default_rng(index).integers(24_000, 34_000, (64, 96)).astype(np.uint16)

  def __getitem__(self, index):
    rng = np.random.default_rng(index)
    image = {"image": rng.integers(0, 256, (64, 96, 3)).astype(np.uint8), "image_id": self.image_id(index)}
    if not self.label_set.palette:
      return {**image, "label": np.int32(rng.integers(0, self.label_set.num_classes))}
    label = rng.integers(0, self.label_set.num_classes + 1, (64, 96)).astype(np.uint8)
    label[label == self.label_set.num_classes] = 255
    return {**image, "label": label}


class RandomDataset:
  """A data set with random pictures in every split."""

  partial = []
  splits = {"train": 16}

  def __init__(self, name):
    self.name, self.label_set = name, label_set(name)

  def source(self, split):
    return RandomSource(self.name, split)

  def largest_image(self, split):
    return 64, 96

  def fingerprint(self, split):
    return {"split": split}


class RandomData(RunData):
  """Every data set, with random pictures."""

  def __init__(self, config):
    super().__init__(config)
    self._opened = {name: RandomDataset(name) for name in DATASETS}


def shrunk(recipe, argument):
  config = importlib.import_module(f"configs.{recipe}").get_config(argument)
  config.total_steps = 2
  config.batch_size = 8
  config.eval.batch_size = 8
  config.data.crop_size = (64, 96)
  config.data.eval_size = (64, 96)
  config.data.eval_resize = 96
  config.data.data_dir = "nowhere"
  config.model.backbone, config.model.kernel_size = "resnet_tiny", 3
  return config


@pytest.mark.parametrize(
  "recipe, argument", RECIPES + [pytest.param(*case, marks=pytest.mark.slow) for case in SLOW_RECIPES]
)
def test_a_shrunk_recipe_trains(recipe, argument, tmp_path):
  config = shrunk(recipe, argument)
  config.init_from = ""
  train.run(config, tmp_path, RandomData(config))
  lines = read_metrics(tmp_path / "metrics.jsonl")
  assert [line["step"] for line in lines] == [2, 2]
  assert np.isfinite(lines[0]["loss"]) and 0 <= lines[1][f"validation/{tasks.of(config).BEST_METRIC}"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("recipe, stages", [("cityscapes", 2), ("pascal_voc", 3)])
def test_each_stage_starts_where_the_one_before_ended(recipe, stages, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)  # A stage looks for the one before it in runs/.
  workdirs = [tmp_path / "runs" / f"{recipe}_stage{stage}" for stage in range(1, stages + 1)]
  with pytest.raises(ValueError, match=f"runs/{recipe}_stage1"):
    train.run(shrunk(recipe, "stage2"), workdirs[1], RandomData(shrunk(recipe, "stage2")))
  for stage, workdir in enumerate(workdirs, 1):
    config = shrunk(recipe, f"stage{stage}")
    config.optimizer.learning_rate = 0.0 if stage > 1 else 1e-3
    train.run(config, workdir, RandomData(config))
  first, *later = (weights(workdir, config) for workdir in workdirs)
  for other in later:
    for a, b in zip(first, other, strict=True):
      np.testing.assert_array_equal(a, b)


def weights(workdir, config):
  with open_checkpoints(workdir) as checkpoints:
    return jax.tree.leaves(
      jax.device_get(
        checkpoints.restore(2, build.build(config, label_set(config.data.dataset).num_classes).state_shapes).params
      )
    )


@pytest.mark.parametrize("module", [imagenet, silhouettes])
def test_encoders_are_trained_as_classifiers(module):
  for argument in module.ARGUMENTS:
    config = module.get_config(argument)
    config_checks.check_config(config)
    assert is_classifier(config) and config.model.backbone == argument.partition(":")[0]


def test_the_papers_mixes_have_the_papers_sizes():
  """22,973 images in stage 1 of Cityscapes; 10,582 of VOC and SBD."""
  sizes = {
    "cityscapes": [LABELS[dataset].split_sizes[split] for dataset, split, _ in cityscapes._MIXES["stage1"]],
    "pascal_voc": [LABELS[dataset].split_sizes[split] for dataset, split, _ in pascal_voc._MIXES["ablation"]],
  }
  assert {name: sum(counts) for name, counts in sizes.items()} == {"cityscapes": 22_973, "pascal_voc": 10_582}
