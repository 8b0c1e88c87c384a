"""Validation of configs: bad values are rejected with the field, its value and a fix; every recipe is valid."""

import importlib
import pathlib
import re
import shlex

import pytest

from configs import imagenet
from gcn_flax import command_line, config_checks, config_fields
from gcn_flax.config import get_config
from gcn_flax.models.gcn import HEADS
from gcn_flax.models.pretrained import FAMILIES
from gcn_flax.models.resnet import BACKBONES
from gcn_flax.nested import flatten
from gcn_flax.workdir.compatibility import check_unchanged

RECIPES = sorted(path.stem for path in pathlib.Path("configs").glob("*.py") if path.stem != "__init__")

SIZE = "must be (height, width) in whole pixels, multiples of 32."

# (field, value, what the message says after `config.FIELD=VALUE: `)
REJECTED = [
  ("total_steps", 0, "must be from 1 to 2147483647. Use for instance 10000."),
  ("total_steps", 2**31, "must be from 1 to 2147483647. Use at most 2147483647."),
  ("total_steps", True, "must be a whole number. Use for instance 10000."),
  ("seed", None, "must be a whole number. Use for instance 0."),
  ("data.random_flip", None, "must be True or False. Use for instance True."),
  ("data.crop_size", None, "must be a tuple. Use for instance (512, 512)."),
  ("init_from", None, "must be text. Use for instance ''."),
  ("data.crop_size", (320000, 320000), "must be at most 131072 pixels a side, and 268435456 in all. Use for instance"),
  ("eval.tile", (65536, 65536), "must be at most 131072 pixels a side, and 268435456 in all. Use for instance --"),
  ("data.scales", (0.5, float("inf")), "must be (min, max) with 0.1 <= min <= max <= 10. Use for instance --config"),
  ("data.train_mix", (("shapes", "train", 10**400),), f"{10**400} is no weight for shapes."),
  ("batch_size", 12, "must be a multiple of the 8 devices. Use 8 or 16."),
  ("batch_size", 6, "must be a multiple of the 8 devices. Use 8."),
  ("wandb_project", "me/mine", "W&B takes at most 128 characters, and none of / \\ # ? % :. Use another name"),
  ("early_stop_evaluations", -1, "must be from 0 to 2147483647. Use for instance 0."),
  ("seed", -1, "must be from 0 to"),
  ("eval.batch_size", 9, "must be a multiple of the 8 devices. Use 8 or 16."),
  ("data.dataset", "voc2007", "unknown. Use one of shapes, camvid, cityscapes"),
  ("data.crop_size", (500, 512), f"{SIZE} Use --config.data.crop_size='(512, 512)', or '()' to "),
  ("data.eval_size", (70,), f"{SIZE} Use --config.data.eval_size='(96, 96)', or '()'"),
  ("data.crop_size", (256.0, 200.5), f"{SIZE} Use --config.data.crop_size='(256, 224)', or '()' "),
  ("data.crop_size", ("256", 256), f"{SIZE} Use --config.data.crop_size='(512, 256)', or '()' "),
  ("data.scales", ("a", "b"), "must be (min, max) with 0.1 <= min <= max <= 10"),
  ("data.scales", (2.0, 0.5), "must be (min, max) with 0.1 <= min <= max <= 10"),
  ("data.crop_area", (0.5, 1.5), "must be (min, max) with 0 < min <= max <= 1"),
  ("init_from", "gs://bucket/network.safetensors", "must be a local path or a workdir. Copy the file to this machine"),
  ("data.train_mix", (), "names no data set. Use for instance --config.data.train_mix='((\"shapes\", \"train\""),
  ("data.train_mix", ("shapes", "train", "all once"), "'shapes' must be (data set, split, weight)."),
  ("data.train_mix", ((1, 2, 3),), "(1, 2, 3) must be (data set, split, weight)."),
  ("data.train_mix", (1, 2, 3), "1 must be (data set, split, weight)."),
  ("data.train_mix", (("shapes", ["train"], 1),), "('shapes', ['train'], 1) must be (data set, split, weight)."),
  ("data.train_mix", (("shapes", "train", True),), "True is no weight for shapes. Use a number above 0, or"),
  ("data.train_mix", (("voc", "train", "all once"),), "unknown data set 'voc'. Use one of shapes, camvid"),
  ("data.train_mix", (("shapes", "train", 0),), "0 is no weight for shapes. Use a number above 0"),
  ("data.train_mix", (("shapes", "train", "once"),), "'once' is no weight for shapes. Use a number above 0"),
  (
    "data.train_mix",
    (("shapes", "train", 2), ("shapes", "validation", "all once")),
    "mixes numbers with 'all once'. Use a number for all data sets, or 'all once', "
    '''--config.data.train_mix='(("shapes", "train", "all once"), ("shapes", "validation", "all once"))'.''',
  ),
  ("data.color_jitter", 1.5, "must be from 0.0 to 1.0. Use at most 1.0."),
  ("data.class_balance", 1.5, "must be from 0.0 to 1.0. Use at most 1.0."),
  ("data.rotation", 181.0, "must be from 0.0 to 180.0. Use at most 180.0."),
  ("data.blur", -1.0, "must be from 0.0 to 100.0. Use for instance 0.0."),
  ("data.data_dir", "gs://bucket/data", "must be a local path"),
  ("eval.tile", (100, 64), f"{SIZE} Use --config.eval.tile='(128, 64)', or () for"),
  ("eval.overlap", 16, "has no effect on whole images, config.eval.tile=(). Use 0, or a tile, for instance --config."),
  ("eval.scales", (), "must be scale factors from 0.1 to 10. Use for instance --config.eval.scales='(0.75"),
  ("eval.scales", (20.0,), "must be scale factors from 0.1 to 10. Use for instance --config.eval.scales='(0.75"),
  ("model.backbone", "vgg16", "unknown. Use one of resnet_tiny"),
  ("model.head", "aspp", "unknown. Use one of gcn, trivial, stack, pointwise, classifier."),
  ("model.init", "he", "unknown. Use one of small_heads, lecun."),
  ("model.kernel_size", 14, "must be odd. Use 13 or 15."),
  ("model.norm", "group", "unknown. Use one of sync, frozen."),
  ("model.dtype", "float16", "unknown. Use one of float32, bfloat16 (did you mean --config.model.dtype=bfloat16?)."),
  ("model.pretrained", "gs://bucket/weights.safetensors", "must be a local path. Copy the file to this machine."),
  ("model.family", "keras", "unknown. Use one of torchvision, timm, caffe."),
  ("model.head", "classifier", "does not fit data set 'shapes', which has one class per pixel. Use 'gcn'"),
  ("loss.class_weights", (1.0, -1.0), "must be numbers from 1e-6 to 1e6, or 0, and not all 0. Use one number per"),
  ("loss.class_weights", (0.0, 0.0), "must be numbers from 1e-6 to 1e6, or 0, and not all 0."),
  ("loss.class_weights", ("a",), "must be numbers from 1e-6 to 1e6, or 0, and not all 0."),
  ("loss.label_smoothing", 1.0, "must be from 0.0 to 0.999. Use at most 0.999."),
  ("loss.focal_gamma", -1.0, "must be from 0.0 to 10.0. Use for instance 0.0."),
  ("loss.dice_weight", -1.0, "must be from 0.0 to 1000000.0. Use for instance 0.0."),
  ("loss.ohem_fraction", 0.0, "must be from 1e-06 to 1.0. Use for instance 1.0."),
  ("loss.ohem_threshold", 0.7, "has no effect with config.loss.ohem_fraction=1, which keeps every pixel. Set"),
  ("loss.ohem_threshold", 1.1, "must be from 0.0 to 1.0."),
  ("optimizer.kind", "adam", "unknown. Use one of sgd, adamw"),
  ("optimizer.schedule", "step", "unknown. Use one of poly, cosine."),
  ("optimizer.decayed", "none", "unknown. Use one of kernels, all."),
  ("optimizer.encoder_lr_factor", -1.0, "must be from 0.0 to 1000000.0. Use for instance 1.0."),
  ("optimizer.ema_decay", 1.0, "must be from 0.0 to 0.99999."),
  ("optimizer.learning_rate", -0.1, "must be from 0.0 to 1000000.0. Use for instance 0.01."),
  ("optimizer.learning_rate", float("nan"), "must be from 0.0 to 1000000.0. Use for instance 0.01."),
  ("optimizer.momentum", 1.5, "must be from 0.0 to 1.0. Use at most 1.0."),
  ("mesh.spatial", -1, "must be from 0 to 1024. Use for instance 0."),
]  # fmt: skip

# (fields and values, message)
CONFLICTS = {
  "accumulation and devices": (
    {"accumulate_steps": 4},
    "config.batch_size=16: must be a multiple of 32 = config.accumulate_steps 4 x 8 devices. Use 32.",
  ),
  "height that devices cannot share": (
    {"mesh.spatial": 3},
    "config.data.crop_size=(512, 512): the height must be a multiple of 96 = 32 x config.mesh.spatial 3. Use --config.",
  ),
  "batch of devices that share images": (
    {"mesh.spatial": 4, "batch_size": 3},
    "config.batch_size=3: must be a multiple of 2 = 8 devices / config.mesh.spatial 4. Use 2 or 4.",
  ),
  "overlap of a whole tile": (
    {"eval.tile": (64, 96), "eval.overlap": 64},
    "config.eval.overlap=64: must be less than the shorter side of config.eval.tile=(64, 96). Use at most 63.",
  ),
  "scale without crop": (
    {"data.random_scale": True, "data.random_crop": False},
    "config.data.random_scale=True: makes images of any size. Use --config.data.random_crop=True as well.",
  ),
  "stack of no layer": (
    {"model.head": "stack", "model.kernel_size": 1},
    "config.model.kernel_size=1: leaves config.model.head='stack' without a layer. Use 3 or more, or",
  ),
  "Adam that never forgets": (
    {"optimizer.kind": "adamw", "optimizer.momentum": 1.0},
    "config.optimizer.momentum=1.0: must be less than 1 with config.optimizer.kind='adamw', whose b1 it is. Use for",
  ),
  "two origins of the initial weights": (
    {"init_from": "runs/a", "model.pretrained": "b.pth"},
    "config.init_from='runs/a': conflicts with config.model.pretrained='b.pth', both give the encoder's",
  ),
  "whole images without a classifier": (
    {"data.dataset": "imagenet2012"},
    "config.model.head='gcn': does not fit data set 'imagenet2012', which has one class per image. Use 'classifier'",
  ),
}  # fmt: skip

CLASSIFIER_CONFLICTS = [
  ("data.random_crop", False, "classifiers are always trained on random resized crops. Use True."),
  ("data.random_scale", True, "classifiers are trained on random resized crops instead. Use False, and"),
  ("data.eval_resize", 200, "must be at least 224, the longer side of config.data.eval_size=(224, 224). Use 224"),
  ("data.crop_size", (), "classifiers need the size of their crops. Use for instance --config.data.crop_size='(224"),
  ("data.eval_size", (), "classifiers need the size of their centre crop. Use for instance --config.data.eval_size="),
  ("eval.flip", True, "is not available with config.model.head='classifier'. Use --config.eval.flip=False."),
  ("eval.scales", (0.5, 1.0), "is not available with config.model.head='classifier'. Use --config.eval.scales='(1.0"),
  ("eval.crf.iterations", 10, "is not available with config.model.head='classifier'. Use --config.eval.crf.it"),
  ("loss.dice_weight", 1.0, "is not available with config.model.head='classifier'. Use --config.loss.dice_weight=0.0."),
  ("data.rotation", 10.0, "is not available with config.model.head='classifier'. Use --config.data.rotation=0.0."),
  ("data.vertical_flip", True, "is not available with config.model.head='classifier'. Use --config.data.vertical_f"),
  ("data.class_balance", 0.5, "is not available with config.model.head='classifier'. Use --config.data.class_bal"),
  ("data.blur", 1.0, "is not available with config.model.head='classifier'. Use --config.data.blur=0.0."),
  ("mesh.spatial", 2, "splits the rows of label maps, config.model.head='classifier' has none. Use 1."),
]  # fmt: skip


def with_fields(config, fields):
  config.update_from_flattened_dict(fields)
  return config


def validate(config, num_devices=1, training=True):
  """The checks before and after the devices are known."""
  config_checks.check_config(config, training)
  config_checks.check_devices(config, num_devices, config.mesh.spatial or 1, training)


def rejects(message):
  return pytest.raises(ValueError, match="^" + re.escape(message))


@pytest.mark.parametrize("field, value, message", REJECTED)
def test_a_bad_value_is_rejected_with_a_fix(field, value, message):
  with rejects(f"config.{field}={value!r}: {message}"):
    validate(with_fields(get_config(), {field: value}), num_devices=8)


def suggestions(message):
  """Returns the (field, value) of each flag `--config.FIELD=VALUE` in a message, parsed as on a command line."""
  found = []
  for flag in re.findall(r"--config\.[\w.]+=(?:'[^']*'|[\w.:]*\w)", message):
    (argument,) = shlex.split(flag)
    config, _ = command_line.parse(["gcn_flax", "--config=configs/camvid.py", "--workdir=W", argument])
    field = argument.partition("=")[0].removeprefix("--config.")
    found.append((field, flatten(config.to_dict())[field]))
  return found


SUGGESTING = [
  *((fields, "") for fields in ({field: value} for field, value, _ in REJECTED)),
  *((fields, "") for fields, _ in CONFLICTS.values()),
  *(({field: value}, "classifier") for field, value, _ in CLASSIFIER_CONFLICTS),
]


@pytest.mark.parametrize("fields, head", SUGGESTING, ids=str)
def test_what_an_error_suggests_mends_it(fields, head):
  def base():
    return with_fields(imagenet.get_config() if head else get_config(), fields)

  with pytest.raises(ValueError) as error:
    validate(base(), num_devices=8)
  for suggestion in suggestions(str(error.value)):
    try:
      validate(with_fields(base(), dict([suggestion])), num_devices=8)
    except ValueError as other:
      assert str(other).partition("=")[0] != str(error.value).partition("=")[0]


@pytest.mark.parametrize("field", flatten(get_config().to_dict()))
def test_odd_values_are_rejected_by_name(field):
  """Values that a ConfigDict does not refuse itself."""
  infinite, nan = float("inf"), float("nan")
  numbers = [None, nan, infinite, -infinite, -1, 2**63, 10**400, 1e300]
  pairs = [(value, value) for value in (*numbers, True, 2**31 * 32)] + [(1, infinite), (1e-300, 1e300)]
  for value in (*numbers, *pairs):
    config = get_config()
    try:
      config.update_from_flattened_dict({field: value})
    except (TypeError, ValueError, OverflowError):
      continue
    with pytest.raises(ValueError, match=rf"^config\.{re.escape(field)}=.*: .*\. Use ") as raised:
      config_checks.check_config(config)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("case", CONFLICTS)
def test_fields_that_conflict_are_rejected_with_a_fix(case):
  fields, message = CONFLICTS[case]
  with rejects(message):
    validate(with_fields(get_config(), fields), num_devices=8)


@pytest.mark.parametrize("field, value, message", CLASSIFIER_CONFLICTS)
def test_fields_that_conflict_with_a_classifier_are_rejected_with_a_fix(field, value, message):
  with rejects(f"config.{field}={value!r}: {message}"):
    validate(with_fields(imagenet.get_config(), {field: value}))


def test_a_classifier_is_rejected_for_a_segmentation_data_set():
  config = with_fields(imagenet.get_config(), {"data.train_mix": (("camvid", "train", "all once"),)})
  with rejects("config.model.head='classifier': does not fit data set 'camvid', which has one class per pixel."):
    validate(config)


def test_accumulation_alone_is_named_on_one_device():
  config = with_fields(get_config(), {"accumulate_steps": 4, "batch_size": 6})
  with rejects("config.batch_size=6: must be a multiple of 4 = config.accumulate_steps 4. Use 4 or 8."):
    validate(config)


def test_a_bucket_of_records_is_rejected_with_the_command_that_mounts_it():
  config = with_fields(get_config(), {"data.data_dir": "gs://bucket/data"})
  with pytest.raises(ValueError, match=r"\(run: launch/data.sh mount gs://bucket/data DIR\), .*data.data_dir=DIR."):
    validate(config)


def test_devices_that_share_an_image_need_fewer_examples():
  validate(with_fields(get_config(), {"batch_size": 2, "mesh.spatial": 4}), num_devices=8)


def test_the_defaults_are_valid_on_eight_devices():
  validate(get_config(), num_devices=8)


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_are_valid_and_document_their_command(recipe):
  module = importlib.import_module(f"configs.{recipe}")
  validate(module.get_config())
  assert f"--config=configs/{recipe}.py" in module.__doc__
  for argument in getattr(module, "ARGUMENTS", ()):
    validate(module.get_config(argument))


def test_the_training_batch_is_not_checked_for_an_evaluation():
  config = with_fields(get_config(), {"batch_size": 12, "mesh.spatial": 3})
  validate(config, num_devices=8, training=False)


def test_choices_are_the_ones_of_the_network():
  assert set(config_fields.CHOICES["model.backbone"]) == set(BACKBONES)
  assert config_fields.CHOICES["model.head"] == (*HEADS, "classifier")
  assert config_fields.CHOICES["model.family"] == tuple(FAMILIES)


def test_a_field_unknown_to_an_older_version_counts_as_its_default():
  before, after = get_config().to_dict(), get_config()
  del before["model"]["norm"]
  check_unchanged(before, after.to_dict())
  after.model.norm = "frozen"
  with pytest.raises(ValueError, match="config.model.norm was 'sync', is 'frozen'"):
    check_unchanged(before, after.to_dict())


def test_an_unknown_field_cannot_be_set():
  with pytest.raises(AttributeError, match="learning_rte"):
    get_config().optimizer.learning_rte = 0.1


@pytest.mark.parametrize(
  "field, value",
  [
    ("total_steps", 7),
    ("eval_every_steps", 7),
    ("data.data_dir", "x"),
    ("eval.batch_size", 7),
    ("mesh.spatial", 2),
    ("model.init", "lecun"),
    ("early_stop_evaluations", 7),
    ("wandb_project", "x"),
  ],
)
def test_these_fields_may_change_between_restarts(field, value):
  check_unchanged(get_config().to_dict(), with_fields(get_config(), {field: value}).to_dict())


def test_other_fields_may_not_change_between_restarts():
  after = with_fields(get_config(), {"seed": 5, "data.scales": (0.75, 2.0)})
  expected = (
    r"config.data.scales was \[0.5, 2.0\], is \[0.75, 2.0\]; config.seed was 0, is 5. "
    r"Use --config.data.scales='\(0.5, 2.0\)' --config.seed=0, or a new workdir.$"
  )
  with pytest.raises(ValueError, match=expected):
    check_unchanged(get_config().to_dict(), after.to_dict())
