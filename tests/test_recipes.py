"""Every recipe in configs/ trains and is evaluated, with smaller sizes but otherwise unchanged."""

import importlib

import jax
import numpy as np
import pytest

from configs import cityscapes, imagenet, pascal_voc, silhouettes
from gcn_flax import build, tasks, validation
from gcn_flax import train as train_lib
from gcn_flax.config import is_classifier
from gcn_flax.input_pipeline import datasets
from gcn_flax.labels import LABELS, image_labels
from gcn_flax.train import train
from gcn_flax.training.checkpoint import open_checkpoints
from gcn_flax.workdir.writers import read_metrics

# Near copies of recipes that train below, or in tests/test_train.py (camvid): `make test-slow`.
SLOW = [
  *(("cityscapes", argument) for argument in cityscapes.ARGUMENTS if argument != "fine"),
  *(("pascal_voc", argument) for argument in pascal_voc.ARGUMENTS),
  ("imagenet", "resnet50_gcn:class_folder"),
  ("camvid", "resnet_tiny"),
]
RECIPES = [
  ("quickstart", "gcn"),
  ("quickstart", "pointwise"),
  ("cityscapes", "fine"),
  ("imagenet", "resnet50"),
  ("silhouettes", "resnet_tiny"),
]


def label_set(dataset, data_dir=""):
  return LABELS.get(dataset) or image_labels(tuple(f"class{index}" for index in range(300)), {})


class RandomSource:
  """Sixteen random images with random train ids and void, or with one class each."""

  has_labels = True

  def __init__(self, dataset):
    self.label_set = label_set(dataset)

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


@pytest.fixture(autouse=True)
def random_sources(monkeypatch):
  """Replaces every split of every data set by random images."""
  monkeypatch.setattr(build, "open_split", lambda config, dataset, split: RandomSource(dataset))
  monkeypatch.setattr(datasets, "open_label_set", label_set)
  monkeypatch.setattr(tasks.segmentation, "check_sizes", lambda *_: None)
  monkeypatch.setattr(train_lib, "data_facts", lambda *_: {})
  monkeypatch.setattr(train_lib, "check_data", lambda *_: None)


def shrunk(recipe, argument):
  config = importlib.import_module(f"configs.{recipe}").get_config(argument)
  config.total_steps = 2
  config.batch_size = 8
  config.eval.batch_size = 8
  config.data.crop_size = (64, 96)
  config.data.eval_size = (64, 96)
  config.data.eval_resize = 96
  config.data.data_dir = "nowhere"
  config.model.backbone = "resnet_tiny"
  return config


@pytest.mark.parametrize("recipe, argument", RECIPES + [pytest.param(*case, marks=pytest.mark.slow) for case in SLOW])
def test_a_shrunk_recipe_trains(recipe, argument, tmp_path):
  config = shrunk(recipe, argument)
  config.init_from = ""
  train(config, tmp_path)
  lines = read_metrics(tmp_path / "metrics.jsonl")
  assert [line["step"] for line in lines] == [2, 2]
  assert np.isfinite(lines[0]["loss"]) and 0 <= lines[1][f"validation/{tasks.of(config).SCORE}"] <= 1


@pytest.mark.parametrize(
  "argument", [f"{stage}{variant}" for stage in ("stage2", "stage3") for variant in ("", ":modern")]
)
def test_stages_name_the_workdir_of_the_previous_one(argument):
  stage, _, variant = argument.partition(":")
  workdir = f"stage{int(stage[-1]) - 1}{'_modern' if variant else ''}"
  assert pascal_voc.get_config(argument).init_from == f"runs/pascal_voc_{workdir}"
  if argument in cityscapes.ARGUMENTS:
    assert cityscapes.get_config(argument).init_from == f"runs/cityscapes_{workdir}"


ALL_STAGES = [pytest.param(*case, marks=pytest.mark.slow) for case in (("pascal_voc", 3), ("cityscapes", 2))]


@pytest.mark.parametrize("recipe, stages", [("pascal_voc", 2), *ALL_STAGES])
def test_each_stage_starts_from_the_previous_one(recipe, stages, tmp_path, monkeypatch):
  """Without learning, each stage ends with the weights of the stage before, whatever its own seed."""
  monkeypatch.chdir(tmp_path)  # Recipes expect the previous stage in runs/.
  workdirs = [tmp_path / "runs" / f"{recipe}_stage{stage}" for stage in range(1, stages + 1)]
  with pytest.raises(ValueError, match=f"runs/{recipe}_stage1"):
    train(shrunk(recipe, "stage2"), workdirs[1])
  for stage, workdir in enumerate(workdirs, 1):
    config = shrunk(recipe, f"stage{stage}")
    config.optimizer.learning_rate, config.seed = 0.0, stage
    train(config, workdir)
  first, *later = (weights(workdir, config) for workdir in workdirs)
  for other in later:
    for a, b in zip(first, other, strict=True):
      np.testing.assert_array_equal(a, b)


def weights(workdir, config):
  with open_checkpoints(workdir) as checkpoints:
    return jax.tree.leaves(jax.device_get(checkpoints.restore(2, build.build(config).state_shapes).params))


@pytest.mark.parametrize("module", [imagenet, silhouettes])
def test_encoders_are_trained_as_classifiers(module):
  for argument in module.ARGUMENTS:
    config = module.get_config(argument)
    validation.validate(config)
    assert is_classifier(config) and config.model.backbone == argument.partition(":")[0]


def test_the_papers_mixes_have_the_papers_sizes():
  """Stage 1 of Cityscapes has 22,973 images, VOC with SBD 10,582."""
  sizes = {
    "cityscapes": [LABELS[dataset].split_sizes[split] for dataset, split, _ in cityscapes._MIXES["stage1"]],
    "pascal_voc": [LABELS[dataset].split_sizes[split] for dataset, split, _ in pascal_voc._MIXES["ablation"]],
  }
  assert {name: sum(counts) for name, counts in sizes.items()} == {"cityscapes": 22_973, "pascal_voc": 10_582}
