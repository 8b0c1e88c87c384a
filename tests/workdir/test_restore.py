"""Initial weights from files and from runs: their normalisation is kept, and weights that do not fit are rejected."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch

from gcn_flax import export, tasks, train
from gcn_flax.models import public_weights, weights_file
from gcn_flax.models.pretrained import load_backbone
from gcn_flax.run_data import RunData
from gcn_flax.training.checkpoint import Checkpoints
from gcn_flax.workdir.init_weights import load_init_weights
from gcn_flax.workdir.record import TrainingData
from gcn_flax.workdir.restore import restore_or_init
from gcn_flax.workdir.trained import load_trained
from gcn_flax.workdir.workdir import Workdir
from tests.models.comparison import assert_close
from tests.models.test_pretrained import random_network, save
from tests.runs import assert_identical, build_setup, evaluate_split
from tests.torch_reference import TorchGCN, to_numpy, to_torch

pytestmark = pytest.mark.usefixtures("fast_runs")


def first(config, folder):
  setup = build_setup(config)
  weights = load_init_weights(config, setup, RunData(config).label_set.classes)
  with Checkpoints(folder / "checkpoints", keep=1) as checkpoints:
    return setup, *restore_or_init(setup, checkpoints, weights, config.seed, config.total_steps)


def trained(config, folder, checkpoint="best"):
  found = load_trained(config, Workdir(folder), checkpoint, RunData(config).label_set)
  return found.weights, found.step


def torch_tensors(path):
  return {name: torch.from_numpy(x.copy()) for name, x in safetensors.numpy.load_file(path).items()}


@pytest.fixture
def weights(tmp_path):
  return save(random_network("resnet_tiny"), tmp_path / "weights.safetensors")


def test_pretrained_weights_are_the_encoders_alone(config, weights, tmp_path):
  """A run that has begun no longer needs the file."""
  config.optimizer.ema_decay = 0.9
  _, random, _ = first(config, tmp_path / "random")
  config.model.pretrained = str(weights)
  setup, state, step = first(config, tmp_path / "run")
  encoder = load_backbone(weights, "resnet_tiny")
  assert step == 0
  assert_identical(state.params["encoder"], encoder["params"])
  assert_identical(state.batch_stats["encoder"], encoder["batch_stats"])
  assert_identical(state.params["head2"], random.params["head2"])
  assert_identical(state.ema, {"params": state.params, "batch_stats": state.batch_stats})
  config.total_steps = 1
  train.run(config, tmp_path / "run")
  weights.unlink()
  config.total_steps = 2
  train.run(config, tmp_path / "run")
  with pytest.raises(ValueError, match="weights.safetensors': not found"):
    train.run(config, tmp_path / "other")
  assert not (tmp_path / "other").exists()


def test_a_run_killed_in_its_first_save_begins_with_the_initial_weights_again(config, weights, tmp_path):
  """An unfinished save is no checkpoint: the run resumes neither from random weights nor from an empty folder."""
  config.model.pretrained, config.total_steps, config.optimizer.learning_rate = str(weights), 1, 0.0
  (tmp_path / "run" / "checkpoints" / "1.orbax-checkpoint-tmp-123").mkdir(parents=True)
  train.run(config, tmp_path / "run")
  found, step = trained(config, tmp_path / "run")
  assert step == 1
  assert_identical(found["params"]["encoder"], load_backbone(weights, "resnet_tiny")["params"])
  shutil.rmtree(tmp_path / "run" / "checkpoints" / "1" / "state")
  with pytest.raises(ValueError, match="no checkpoint is whole: .*/1 is damaged: it is incomplete"):
    train.run(config, tmp_path / "run")


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_taken(config, caplog, tmp_path):
  config.total_steps = config.eval_every_steps = config.keep_checkpoints = 2
  config.checkpoint_every_steps = 1
  train.run(config, tmp_path)
  whole, _ = trained(config, tmp_path)
  for data in (tmp_path / "checkpoints" / "2").rglob("d/*"):
    data.write_bytes(data.read_bytes()[:-100])
  caplog.set_level("INFO", "gcn_flax")
  train.run(config, tmp_path)
  assert "checkpoints/2 is damaged" in caplog.text and "resuming from step 1 of 2" in caplog.text
  assert (tmp_path / "checkpoints" / "damaged" / "2.0").is_dir()
  again, step = trained(config, tmp_path)
  assert step == 2
  jax.tree.map(np.testing.assert_array_equal, again, whole)


@pytest.mark.slow
def test_the_normalisation_stays_with_the_weights(config, weights, tmp_path):
  """Caffe's normalisation stays with the weights, even if config.json is gone and the config says otherwise."""
  config.total_steps, config.model.family, config.model.pretrained = 1, "caffe", str(weights)
  train.run(config, tmp_path / "run")
  found, _ = trained(config, tmp_path / "run")
  assert bool(found["normalization"]["bgr"]) and found["normalization"]["std"].tolist() == [1, 1, 1]
  as_caffe = evaluate_split(config, build_setup(config), found)

  config.model.family, config.model.pretrained = "torchvision", ""
  with pytest.raises(ValueError, match="config.model.family was 'caffe', is 'torchvision'"):
    train.run(config, tmp_path / "run")
  config.init_from = str(tmp_path / "run")
  with pytest.raises(
    ValueError, match="'torchvision': .*run was trained with another .* Use --config.model.family=caffe"
  ):
    train.run(config, tmp_path / "second")
  config.init_from = ""
  found, _ = trained(config, tmp_path / "run")
  again = evaluate_split(config, build_setup(config), found)
  np.testing.assert_array_equal(again.counts["confusion"], as_caffe.counts["confusion"])
  found["normalization"]["bgr"] = np.bool_(False)
  other = evaluate_split(config, build_setup(config), found)
  assert (other.counts["confusion"] != as_caffe.counts["confusion"]).any()


@pytest.mark.slow
def test_a_classifiers_workdir_gives_the_encoder(config, class_config, tmp_path):
  """The encoder gets the moving averages of the best checkpoint."""
  class_config.optimizer.ema_decay = 0.5
  train.run(class_config, tmp_path / "classifier")
  found, _ = trained(class_config, tmp_path / "classifier")
  config.model.pretrained = str(tmp_path / "classifier")
  _, state, _ = first(config, tmp_path / "run")
  assert_identical(state.params["encoder"], found["params"]["encoder"])
  assert_identical(state.batch_stats["encoder"], found["batch_stats"]["encoder"])
  # A new classifier of the same classes takes its last layer, too.
  class_config.optimizer.ema_decay, class_config.model.pretrained = 0.0, str(tmp_path / "classifier")
  assert_identical(trained(class_config, tmp_path / "new")[0], found)

  config.model.backbone = "resnet18"
  with pytest.raises(
    ValueError, match="is of another network. Use --config.model.backbone=resnet_tiny. .*bn1/mean is .16,."
  ):
    first(config, tmp_path / "other")
  config.model.backbone, config.model.family = "resnet_tiny", "caffe"
  with pytest.raises(ValueError, match="classifier was trained with another normalisation"):
    first(config, tmp_path / "other")


def test_a_segmentation_run_gives_the_encoder_and_a_wrong_folder_is_answered_with_the_right_one(
  config, trained_run, tmp_path
):
  setup = build_setup(config)

  def load(path):
    config.model.pretrained = str(path)
    return load_init_weights(config, setup, ())

  found, _ = trained(config, trained_run)
  assert_identical(load(trained_run)["params"], {"encoder": found["params"]["encoder"]})
  for folder in ("checkpoints", "checkpoints/2"):
    with pytest.raises(ValueError, match=f"is no workdir, .* Use --config.model.pretrained={trained_run}.$"):
      load(trained_run / folder)
  (tmp_path / "downloads").mkdir()
  (tmp_path / "downloads" / "a model.safetensors").touch()
  with pytest.raises(ValueError, match="Use --config.model.pretrained='.*/downloads/a model.safetensors'.$"):
    load(tmp_path / "downloads")
  with pytest.raises(ValueError, match="is neither a file .* no public weights of resnet_tiny: .* see docs/WEIGHTS.md"):
    load("resnet50")
  config.model.backbone = "resnet50"
  for name in ("resnet50", str(tmp_path / "resnet50.pth")):
    with pytest.raises(ValueError) as error:
      load(name)
    assert f"config.model.pretrained={name!r}: " in str(error.value)
    assert f"{public_weights.timm_command('resnet50')} and use --config.model.pretrained=resnet50.safe" in str(
      error.value
    )
    assert str(error.value).endswith(public_weights.torchvision_command("resnet50"))
  config.model.backbone = "resnet_tiny"
  config.model.pretrained, config.init_from = "", str(trained_run)
  config.model.kernel_size, config.model.boundary_refine = 5, False
  message = "another network. Use --config.model.kernel_size=3 --config.model.boundary_refine=True. .*head2"
  with pytest.raises(ValueError, match=message):
    load_init_weights(config, build_setup(config), ())


def test_what_a_classifier_leaves(class_config, tmp_path, capsys):
  train.run(class_config, tmp_path)
  scores = json.loads((tmp_path / "eval_validation.json").read_text())
  assert scores["num_images"] == 9 and scores["top5"] == 1.0 and set(scores["accuracy"]) == {"blue", "green", "red"}
  np.testing.assert_allclose(scores["top1"], np.mean(list(scores["accuracy"].values())))
  lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert lines[-1] == {
    "step": 2, "validation/top1": scores["top1"], "validation/top5": 1.0, "validation/loss": scores["loss"],
  }  # fmt: skip
  assert (tmp_path / "eval_validation.png").exists()
  assert "top-1" in capsys.readouterr().out


def test_imported_weights_of_a_classifier_are_scored_without_training(class_config, tmp_path):
  """The dense layer comes from the file, and the metrics are those PyTorch computes."""
  network = random_network("resnet_tiny", num_classes=3)
  class_config.model.pretrained = str(save(network, tmp_path / "x.pth"))
  found, step = trained(class_config, tmp_path / "run")
  scores = evaluate_split(class_config, build_setup(class_config), found)
  source = RunData(class_config).eval_source("validation")
  mean, std = np.float32([123.675, 116.28, 103.53]), np.float32([58.395, 57.12, 57.375])
  hits = 0
  for example in source:
    example = tasks.of(class_config).eval_transform(class_config)(example)
    with torch.no_grad():
      features = network(to_torch((example["image"][None] - mean) / std))[-1]
      hits += int(network.fc(features.mean((2, 3))).argmax()) == int(example["label"])
  assert step == 0 and scores.scalars["top1"] == hits / 9

  class_config.model.pretrained = str(save(random_network("resnet_tiny"), tmp_path / "y.pth"))
  with pytest.raises(ValueError, match="y.pth has no weights for fc. Train the network before"):
    trained(class_config, tmp_path / "run")


def test_an_empty_workdir_is_not_scored_by_mistake(config, weights, tmp_path):
  """Weights that a recipe starts from are evaluated only on request."""
  config.total_steps = 1
  train.run(config, tmp_path / "first")
  config.init_from = str(tmp_path / "first")
  with pytest.raises(ValueError, match="no checkpoint in"):
    trained(config, tmp_path / "second")
  found, step = trained(config, tmp_path / "second", "0")
  assert step == 0
  assert_identical(found, trained(config, tmp_path / "first")[0])
  config.init_from, config.model.pretrained = "", str(weights)
  with pytest.raises(ValueError, match="has no weights for .*head2"):
    trained(config, tmp_path / "second", "0")


class TestExport:
  @pytest.fixture
  def exported(self, config, tmp_path):
    config.total_steps = 1
    train.run(config, tmp_path / "run")
    self.trained = load_trained(config, Workdir(tmp_path / "run"), "best")
    self.found = self.trained.weights
    return list(export.write_weights(config, Workdir(tmp_path / "run"), self.trained))

  def test_the_network_is_read_by_pytorch_and_gives_the_same_scores(self, config, exported):
    reference = TorchGCN(11, "resnet_tiny", 3)
    reference.load_state_dict(torch_tensors(exported[1]))  # Strictly: nothing may be missing or left over.
    images = np.random.default_rng(0).normal(size=(1, 64, 96, 3)).astype(np.float32)
    variables = {name: self.found[name] for name in ("params", "batch_stats")}
    ours = build_setup(config).network.apply(variables, images, train=False)
    with torch.no_grad():
      assert_close(ours, to_numpy(reference.eval()(to_torch(images))), 1e-4)

  def test_both_files_are_read_back(self, config, exported, tmp_path):
    config.init_from = str(exported[1])
    _, state, _ = first(config, tmp_path / "second")
    assert_identical(state.weights(), self.found)
    config.init_from, config.model.pretrained = "", str(exported[0])
    _, state, _ = first(config, tmp_path / "third")
    assert_identical(state.params["encoder"], self.found["params"]["encoder"])
    metadata = weights_file.read_metadata(exported[1])
    assert json.loads(metadata["config"]) == json.loads((tmp_path / "run" / "config.json").read_text())
    assert metadata["family"] == "torchvision" and metadata["step"] == "1"

  def test_what_does_not_fit_is_refused(self, config, exported, tmp_path):
    config.init_from = str(exported[1])
    config.model.family = "caffe"
    with pytest.raises(ValueError, match="is of family 'torchvision', not 'caffe'"):
      first(config, tmp_path / "second")
    config.model.family, config.model.kernel_size = "torchvision", 5
    with pytest.raises(
      ValueError,
      match="network.safetensors': is of another network. Use --config.model.kernel_size=3. .*head2.left_first",
    ):
      first(config, tmp_path / "second")

  def test_classes_and_partial_data_go_with_the_file(self, config, exported, tmp_path):
    """They stay known after the file is gone."""
    partial = {"imaginary": ["train 1 instead of 2"]}
    data = dataclasses.replace(TrainingData.read(tmp_path / "run"), partial=partial)
    other = dataclasses.replace(self.trained, data=data)
    _, network = export.write_weights(config, Workdir(tmp_path / "file"), other)
    config.init_from = str(network)
    config.total_steps = 1
    train.run(config, tmp_path / "second")
    network.unlink()
    config.total_steps = 2
    train.run(config, tmp_path / "second")
    assert TrainingData.read(tmp_path / "second").partial.items() >= partial.items()
    scores = json.loads((tmp_path / "second" / "eval_validation.json").read_text())
    assert scores["step"] == 2 and scores["partial"].items() >= partial.items()

    other = dataclasses.replace(self.trained, data=TrainingData(("cow", "dog")))
    _, network = export.write_weights(config, Workdir(tmp_path / "file"), other)
    message = "network.safetensors was trained with the classes cow, dog, but .* For its encoder alone, use "
    with pytest.raises(ValueError, match=f"{message}--config.model.pretrained={network} --config.init_from=''.$"):
      train.run(config, tmp_path / "third")

  def test_a_classifier_has_torchvisions_names(self, class_config, tmp_path):
    train.run(class_config, tmp_path / "run")
    whole = load_trained(class_config, Workdir(tmp_path / "run"), "best")
    encoder, network = export.run(class_config, tmp_path / "run")
    reference = random_network("resnet_tiny", num_classes=3)
    reference.load_state_dict(torch_tensors(network))
    assert "fc.weight" not in safetensors.numpy.load_file(encoder)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    class_config.model.pretrained = str(network)
    assert_identical(trained(class_config, tmp_path / "run")[0], whole.weights)
    class_config.model.pretrained, class_config.init_from = "", str(network)
    assert_identical(trained(class_config, tmp_path / "run", "0")[0], whole.weights)
    class_config.init_from = str(encoder)
    with pytest.raises(
      ValueError, match="encoder.safetensors': has no layer fc for 3 classes. Use --config.model.pret"
    ):
      trained(class_config, tmp_path / "run", "0")

    # The same number of other classes, or the same in another order, is not taken for these.
    data = dataclasses.replace(whole.data, classes=("green", "blue", "red"))
    _, network = export.write_weights(class_config, Workdir(tmp_path / "other"), dataclasses.replace(whole, data=data))
    class_config.init_from = str(network)
    with pytest.raises(ValueError, match="trained with the classes green, blue, red, but .* has blue, green, red"):
      trained(class_config, tmp_path / "new", "0")
    class_config.init_from, class_config.model.pretrained = "", str(network)
    with pytest.raises(ValueError, match="has no weights for fc"):
      trained(class_config, tmp_path / "new")
