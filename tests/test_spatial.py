"""The number of devices that share the rows of an image, where the config leaves it open."""

import re
import types

import pytest

from configs import cityscapes, silhouettes
from gcn_flax import build, spatial
from gcn_flax.training import sharding

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
def config():
  config = cityscapes.get_config()
  config.data.crop_size, config.batch_size = (768, 768), 16
  return config


def chips(count=8, on_host=4, platform="tpu"):
  return [types.SimpleNamespace(process_index=index // on_host, platform=platform) for index in range(count)]


def test_zero_is_the_default_and_chooses(config):
  assert config.mesh.spatial == 0
  assert spatial.of(config, chips()) == 4 and spatial.of(config, chips(platform="gpu")) == spatial.of(config) == 1
  config.data.crop_size = (800, 800)
  assert spatial.of(config, chips()) == 1 and config.data.crop_size == (800, 800)


def test_a_number_is_kept(config, caplog):
  config.mesh.spatial = 2
  with caplog.at_level("INFO"):
    spatial.log_choice(config, chips())
  assert spatial.of(config, chips()) == 2 and not caplog.text


def test_neither_classifiers_nor_crops_that_are_not_chosen_yet_are_split(config):
  classifier = silhouettes.get_config()
  classifier.batch_size, classifier.data.crop_size = 16, (256, 256)
  assert spatial.of(classifier, chips()) == 1 and spatial.layouts(classifier, chips()) == [1]
  config.data.crop_size = ()
  assert spatial.of(config, chips()) == 1


def test_the_choice_is_logged(config, caplog):
  with caplog.at_level("INFO"):
    spatial.log_choice(config, chips())
    spatial.log_choice(config, chips(platform="gpu"))
  assert caplog.messages == [
    "config.mesh.spatial=0: 4 chips share the rows of each image, so that they hold 8 at once; fewer than 8 cost as "
    "much as 8."
  ]


def test_without_a_right_partitioner_rows_are_not_split(config, monkeypatch, caplog):
  monkeypatch.setattr(sharding, "can_split_rows", lambda: False)
  assert spatial.of(config, chips()) == 1
  spatial.log_choice(config, chips())
  assert "WARNING: config.mesh.spatial=0: taken as 1, because JAX" in caplog.text and "4 would be faster" in caplog.text
  config.mesh.spatial = 4
  with pytest.raises(ValueError, match="config.mesh.spatial above 1 needs the GSPMD partitioner"):
    build.build(config, num_classes=19)


def test_layouts_divide_host_and_rows(config):
  assert spatial.layouts(config, chips()) == [1, 2, 4]
  config.data.crop_size = (800, 800)
  assert spatial.layouts(config, chips()) == [1]
  config.data.crop_size = (192, 64)
  assert spatial.layouts(config, chips(12, 6)) == [1, 2, 3, 6]


def test_steps_are_built_with_the_chosen_mesh(config, partitioner, monkeypatch):
  choose = spatial.choose
  monkeypatch.setattr(spatial, "choose", lambda platform, *args: choose("tpu", *args))
  config.model.backbone = "resnet_tiny"
  setup = build.build(config, num_classes=19)
  assert dict(setup.mesh.shape) == {"data": 2, "spatial": 4}
