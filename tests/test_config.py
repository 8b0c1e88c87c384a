"""Every impossible setting is refused with its value, the limit and the cure; every recipe is possible."""

import importlib
import pathlib

import pytest

from configs import imagenet
from gcn_flax import config as config_lib
from gcn_flax.models.gcn import HEADS
from gcn_flax.models.pretrained import FAMILIES
from gcn_flax.models.resnet import BACKBONES
from gcn_flax.workdir.compatibility import check_unchanged

RECIPES = sorted(path.stem for path in pathlib.Path("configs").glob("*.py") if path.stem != "__init__")

REFUSED = [
  ("total_steps", 0, "config.total_steps=0 must be at least 1"),
  ("batch_size", 12, "config.batch_size=12 must be a multiple of 8 .* for instance 16"),
  ("accumulate_steps", 4, r"must be a multiple of 32 = config.accumulate_steps 4 x 8 devices: for instance 32"),
  ("seed", -1, "config.seed=-1 must be from 0 to"),
  ("eval.batch_size", 9, "config.eval.batch_size=9 must be a multiple of the 8 devices: for instance 16"),
  ("data.dataset", "voc2007", "config.data.dataset='voc2007' is unknown; choose one of shapes, camvid, cityscapes"),
  ("data.crop_size", (500, 512), r"crop_size=\(500, 512\) must be .* multiples of 32, for instance \(512, 512\)"),
  ("data.eval_size", (512,), r"eval_size=\(512,\) must be \(height, width\)"),
  ("data.crop_size", (256.0, 256.0), "crop_size=.* must be whole numbers of pixels"),
  ("data.scales", ("a", "b"), "config.data.scales=.* 0 < smallest <= largest"),
  ("init_from", "gs://bucket/network.safetensors", "must be a local path, or a workdir: copy the file here"),
  ("data.crop_area", (0.5, 1.5), r"config.data.crop_area=\(0.5, 1.5\) must be .* <= 1"),
  ("data.scales", (2.0, 0.5), "config.data.scales=.* 0 < smallest <= largest"),
  ("data.train_mix", (), "config.data.train_mix is empty. For instance .*cityscapes"),
  ("data.train_mix", ("shapes", "train", "all once"), "'shapes' must be .data set, split, weight."),
  ("data.train_mix", ((1, 2, 3),), r"\(1, 2, 3\) must be .data set, split, weight."),
  ("data.train_mix", (1, 2, 3), "1 must be .data set, split, weight."),
  ("data.train_mix", (("shapes", ["train"], 1),), "must be .data set, split, weight."),
  ("data.train_mix", (("shapes", "train", True),), "weight True of shapes must be a number above 0"),
  ("data.train_mix", (("voc", "train", "all once"),), "config.data.train_mix: data set 'voc' is unknown"),
  ("data.train_mix", (("shapes", "train", 0),), "weight 0 of shapes must be a number above 0 or 'all once'"),
  ("data.train_mix", (("shapes", "train", "once"),), "weight 'once' of shapes must be a number above 0"),
  ("data.train_mix", (("shapes", "train", 2), ("shapes", "validation", "all once")), "mixes weights with 'all once'"),
  ("data.color_jitter", 1.5, "config.data.color_jitter=1.5 must be from 0.0 to 1.0"),
  ("data.data_dir", "gs://bucket/data", "local paths only .*: run launch/data.sh mount gs://bucket/data DIR"),
  ("model.backbone", "vgg16", "config.model.backbone='vgg16' is unknown; choose one of resnet_tiny"),
  ("model.head", "aspp", "config.model.head='aspp' is unknown"),
  ("model.kernel_size", 14, "config.model.kernel_size=14 must be odd: use 15"),
  ("model.norm", "group", "config.model.norm='group' is unknown; choose one of sync, frozen"),
  ("model.dtype", "float16", "config.model.dtype='float16' is unknown"),
  ("model.pretrained", "gs://bucket/weights.safetensors", "config.model.pretrained=.* must be a local path"),
  ("model.family", "keras", "config.model.family='keras' is unknown; choose one of torchvision, timm, caffe"),
  ("model.head", "classifier", "head='classifier' does not go with data set 'shapes', .* each pixel: set it to 'gcn'"),
  ("data.dataset", "imagenet2012", "head='gcn' does not go with .* each image: set it to 'classifier'"),
  ("loss.class_weights", (1.0, -1.0), r"config.loss.class_weights=\(1.0, -1.0\) must be numbers of at least 0"),
  ("loss.class_weights", (0.0, 0.0), "must be numbers of at least 0, not all 0"),
  ("loss.class_weights", ("a",), "must be numbers of at least 0"),
  ("loss.label_smoothing", 1.0, "config.loss.label_smoothing=1.0 must be from 0.0 to 0.999"),
  ("loss.ohem_fraction", 0.0, "config.loss.ohem_fraction=0.0 must be from"),
  ("loss.ohem_threshold", 0.7, "ohem_threshold=0.7 changes nothing while config.loss.ohem_fraction=1"),
  ("loss.ohem_threshold", 1.1, "config.loss.ohem_threshold=1.1 must be from 0.0 to 1.0"),
  ("optimizer.schedule", "step", "config.optimizer.schedule='step' is unknown; choose one of poly, cosine"),
  ("optimizer.decayed", "none", "config.optimizer.decayed='none' is unknown; choose one of kernels, all"),
  ("optimizer.encoder_lr_factor", -1.0, "config.optimizer.encoder_lr_factor=-1.0 must be at least 0.0"),
  ("optimizer.ema_decay", 1.0, "config.optimizer.ema_decay=1.0 must be from 0.0 to 0.99999"),
  ("optimizer.learning_rate", -0.1, "config.optimizer.learning_rate=-0.1 must be at least 0.0"),
  ("optimizer.learning_rate", float("nan"), "config.optimizer.learning_rate=nan must be at least 0.0"),
  ("optimizer.momentum", 1.5, "config.optimizer.momentum=1.5 must be from 0.0 to 1.0"),
  ("mesh.spatial", 0, "config.mesh.spatial=0 must be at least 1"),
  ("mesh.spatial", 3, "the height 512 must be a multiple of 96 = 32 x config.mesh.spatial 3: for instance 576"),
]


@pytest.mark.parametrize("field, value, message", REFUSED)
def test_impossible_settings_are_refused(field, value, message):
  config = config_lib.get_config()
  config.update_from_flattened_dict({field: value})
  with pytest.raises(ValueError, match=message):
    config_lib.validate(config, num_devices=8)


def test_settings_that_exclude_each_other_are_refused():
  config = config_lib.get_config()
  config.data.random_scale, config.data.random_crop = True, False
  with pytest.raises(ValueError, match="random_scale=True .* set config.data.random_crop=True"):
    config_lib.validate(config)
  config = config_lib.get_config()
  config.model.head, config.model.kernel_size = "stack", 1
  with pytest.raises(ValueError, match="kernel_size=1 leaves the head 'stack' empty"):
    config_lib.validate(config)


def test_two_sources_of_the_first_weights_are_refused():
  config = config_lib.get_config()
  config.init_from, config.model.pretrained = "runs/a", "b.pth"
  with pytest.raises(ValueError, match="init_from='runs/a' and config.model.pretrained='b.pth' both give"):
    config_lib.validate(config)


@pytest.mark.parametrize(
  "field, value, message",
  [
    ("data.random_crop", False, "random_crop=False: whole images are always cropped at random"),
    ("data.random_scale", True, "config.data.random_scale=True, .* take config.data.crop_area"),
    ("data.eval_resize", 200, r"eval_resize=200 must be at least 224: config.data.eval_size is \(224, 224\)"),
    ("data.train_mix", (("camvid", "train", "all once"),), "'classifier' does not go with data set 'camvid'"),
  ],
)
def test_what_does_not_go_with_whole_images_is_refused(field, value, message):
  config = imagenet.get_config()
  config.update_from_flattened_dict({field: value})
  with pytest.raises(ValueError, match=message):
    config_lib.validate(config)


def test_devices_that_share_an_image_need_fewer_examples():
  config = config_lib.get_config()
  config.batch_size, config.mesh.spatial = 2, 4
  config_lib.validate(config, num_devices=8)
  config.batch_size = 3
  with pytest.raises(ValueError, match="multiple of 2 = .* 1 x 8 devices / config.mesh.spatial 4: for instance 4"):
    config_lib.validate(config, num_devices=8)


def test_defaults_are_possible_on_eight_devices():
  config_lib.validate(config_lib.get_config(), num_devices=8)


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_are_possible_and_say_how_to_run_them(recipe):
  module = importlib.import_module(f"configs.{recipe}")
  config_lib.validate(module.get_config())
  assert f"--config=configs/{recipe}.py" in module.__doc__
  for argument in getattr(module, "ARGUMENTS", ()):
    config_lib.validate(module.get_config(argument))


def test_the_size_of_the_training_batch_does_not_matter_to_an_evaluation():
  config = config_lib.get_config()
  config.batch_size = 12
  config_lib.validate(config, num_devices=8, training=False)


def test_choices_are_what_the_network_knows():
  assert set(config_lib._CHOICES["model.backbone"]) == set(BACKBONES)
  assert config_lib._CHOICES["model.head"] == (*HEADS, "classifier")
  assert config_lib._CHOICES["model.family"] == tuple(FAMILIES)


def test_a_field_that_an_older_version_did_not_know_counts_as_its_default():
  before, after = config_lib.get_config().to_dict(), config_lib.get_config()
  del before["model"]["norm"]
  check_unchanged(before, after.to_dict())
  after.model.norm = "frozen"
  with pytest.raises(ValueError, match="config.model.norm was 'sync', is 'frozen'"):
    check_unchanged(before, after.to_dict())


def test_an_unknown_field_cannot_be_set():
  with pytest.raises(AttributeError, match="learning_rte"):
    config_lib.get_config().optimizer.learning_rte = 0.1


@pytest.mark.parametrize(
  "field, value",
  [("total_steps", 7), ("eval_every_steps", 7), ("data.data_dir", "x"), ("eval.batch_size", 7), ("mesh.spatial", 2)],
)
def test_what_a_begun_workdir_may_change(field, value):
  before, after = config_lib.get_config(), config_lib.get_config()
  after.update_from_flattened_dict({field: value})
  check_unchanged(before.to_dict(), after.to_dict())


def test_what_it_may_not():
  before, after = config_lib.get_config(), config_lib.get_config()
  after.seed, after.data.scales = 5, (0.75, 2.0)
  with pytest.raises(
    ValueError, match=r"config.data.scales was \[0.5, 2.0\], is \[0.75, 2.0\]; config.seed was 0, is 5"
  ):
    check_unchanged(before.to_dict(), after.to_dict())
