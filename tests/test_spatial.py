"""The number of devices that share the rows of an image, where the config leaves it open."""

import json
import re
import types

import pytest

from configs import cityscapes, silhouettes
from gcn_flax import build, spatial, train
from gcn_flax.preflight import preflight
from gcn_flax.training import sharding
from gcn_flax.workdir.workdir import Workdir

# (platform, devices, devices of a host, batch size, micro-batches, crop), (devices that share an image, reason)
CASES = {
  "16 images on 8 chips": (("tpu", 8, 4, 16, 1, (768, 768)), (4, "4 chips share .* hold 8 at once")),
  "on a host of 8": (("tpu", 8, 8, 16, 1, (768, 768)), (4, "4 chips share")),
  "8 images on a host of 8": (("tpu", 8, 8, 8, 1, (768, 768)), (8, "8 chips share")),
  "32 images on 8 chips": (("tpu", 8, 4, 32, 1, (768, 768)), (2, "2 chips share .* hold 8 at once")),
  "a group of two holds more than 8": (("tpu", 8, 4, 48, 1, (768, 768)), (2, "hold 12 at once")),
  "half as many at once": (("tpu", 8, 4, 32, 2, (768, 768)), (4, "hold 8 at once")),
  "8 images on each chip": (("tpu", 8, 4, 64, 1, (800, 800)), (1, "whole images, 8 at once$")),
  "one chip": (("tpu", 1, 1, 8, 1, (800, 800)), (1, "whole images, 8 at once$")),
  "25 rows": (
    ("tpu", 8, 4, 16, 1, (800, 800)),
    (1, r"25 rows of \(800, 800\) .* 4 chips .* --config.data.crop_size='\(768, 768\)' would divide$"),
  ),
  "width stays": (("tpu", 8, 4, 32, 1, (480, 640)), (1, r"15 rows .* 2 chips .*crop_size='\(448, 640\)' would")),
  "fewer rows than chips": (("tpu", 8, 4, 16, 1, (64, 64)), (1, r"2 rows .*crop_size='\(128, 128\)' would")),
  "hosts of three": (("tpu", 6, 3, 16, 1, (96, 96)), (3, "3 chips share .* hold 8")),
  "no group holds 8": (("tpu", 8, 4, 8, 1, (768, 768)), (1, "no group of chips .* --config.batch_size=16 would be")),
  "one chip, 4 images": (("tpu", 1, 1, 4, 1, (768, 768)), (1, "--config.batch_size=8 would be enough")),
  "one chip, 4 of 8 at once": (("tpu", 1, 1, 8, 2, (768, 768)), (1, "--config.batch_size=16 would be enough")),
  "a batch that no group divides": (("tpu", 8, 4, 17, 1, (768, 768)), (1, "no group of chips")),
  "GPUs": (("gpu", 8, 8, 16, 1, (768, 768)), (1, "^$")),
  "CPUs": (("cpu", 8, 8, 16, 1, (768, 768)), (1, "^$")),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_smallest_group_that_holds_8_images_and_divides_their_rows(case):
  given, (expected, reason) = CASES[case]
  chosen, found = spatial.choose(*given)
  assert chosen == expected
  assert re.search(reason, found), found


@pytest.fixture
def recipe():
  recipe = cityscapes.get_config()
  recipe.data.crop_size, recipe.batch_size = (768, 768), 16
  return recipe


def chips(count=8, on_host=4, platform="tpu"):
  return [types.SimpleNamespace(process_index=index // on_host, platform=platform) for index in range(count)]


def test_zero_is_the_default_and_chooses(recipe):
  assert recipe.mesh.spatial == 0
  assert spatial.of(recipe, chips()) == 4 and spatial.of(recipe, chips(platform="gpu")) == spatial.of(recipe) == 1
  recipe.data.crop_size = (800, 800)
  assert spatial.of(recipe, chips()) == 1 and recipe.data.crop_size == (800, 800)


def test_a_number_is_kept(recipe, caplog):
  recipe.mesh.spatial = 2
  with caplog.at_level("INFO"):
    spatial.log_choice(recipe, chips())
  assert spatial.of(recipe, chips()) == 2 and not caplog.text


def test_neither_classifiers_nor_crops_that_are_not_chosen_yet_are_split(recipe):
  classifier = silhouettes.get_config()
  classifier.batch_size, classifier.data.crop_size = 16, (256, 256)
  assert spatial.of(classifier, chips()) == 1 and spatial.layouts(classifier, chips()) == [1]
  recipe.data.crop_size = ()
  assert spatial.of(recipe, chips()) == 1


def test_the_choice_is_logged(recipe, caplog):
  with caplog.at_level("INFO"):
    spatial.log_choice(recipe, chips())
    spatial.log_choice(recipe, chips(platform="gpu"))
  assert caplog.messages == [
    "config.mesh.spatial=0: 4 chips share the rows of each image, so that they hold 8 at once; fewer than 8 cost as "
    "much as 8."
  ]


def test_without_a_right_partitioner_rows_are_not_split(recipe, monkeypatch, caplog):
  monkeypatch.setattr(sharding, "can_split_rows", lambda: False)
  assert spatial.of(recipe, chips()) == 1
  spatial.log_choice(recipe, chips())
  assert "WARNING: config.mesh.spatial=0: taken as 1, because JAX" in caplog.text and "4 would be faster" in caplog.text
  recipe.mesh.spatial = 4
  with pytest.raises(ValueError, match="config.mesh.spatial above 1 needs the GSPMD partitioner"):
    build.build(recipe, num_classes=19)


def test_layouts_divide_host_and_rows(recipe):
  assert spatial.layouts(recipe, chips()) == [1, 2, 4]
  recipe.data.crop_size = (800, 800)
  assert spatial.layouts(recipe, chips()) == [1]
  recipe.data.crop_size = (192, 64)
  assert spatial.layouts(recipe, chips(12, 6)) == [1, 2, 3, 6]


@pytest.fixture
def as_on_tpus(monkeypatch, partitioner):
  """Chooses for the CPU's devices as for the chips of one TPU host."""
  choose = spatial.choose
  monkeypatch.setattr(spatial, "choose", lambda platform, *args: choose("tpu", *args))


def test_steps_are_built_with_the_chosen_mesh(recipe, as_on_tpus):
  recipe.model.backbone = "resnet_tiny"
  setup = build.build(recipe, num_classes=19)
  assert dict(setup.mesh.shape) == {"data": 2, "spatial": 4}


def test_batches_are_checked_against_the_chosen_groups(config, as_on_tpus, tmp_path):
  """12 images do not divide over 8 devices, but all 8 can share them."""
  config.batch_size, config.data.crop_size = 12, (256, 64)
  preflight(config, Workdir(tmp_path), training=True, split="validation")
  config.mesh.spatial = 1
  with pytest.raises(ValueError, match="config.batch_size=12: must be a multiple of the 8 devices"):
    preflight(config, Workdir(tmp_path), training=True, split="validation")


@pytest.mark.slow
@pytest.mark.usefixtures("fast_runs", "as_on_tpus")
def test_a_run_splits_rows_as_chosen_and_its_config_keeps_the_zero(config, tmp_path, caplog):
  config.batch_size, config.data.crop_size, config.total_steps = 12, (256, 64), 1
  with caplog.at_level("INFO"):
    train.run(config, tmp_path)
  assert "batches of 12 images of 256 x 64, 12 per 8 devices" in caplog.messages
  assert "config.mesh.spatial=0: 8 chips share the rows of each image" in caplog.text
  assert json.loads((tmp_path / "config.json").read_text())["mesh"] == {"spatial": 0}
