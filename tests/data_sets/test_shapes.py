"""The generated scenes are deterministic, show one class each, and are all prepared."""

import cv2
import numpy as np

from data.prepare import prepare
from data.shapes.scene import draw_scene
from data.shapes.shapes_dataset_builder import Builder
from gcn_flax.input_pipeline.datasets import Dataset, open_source
from gcn_flax.labels import SHAPES


def test_scenes_are_deterministic_and_show_one_class():
  for seed in range(20):
    image, label = draw_scene(np.random.default_rng(seed))
    again, label_again = draw_scene(np.random.default_rng(seed))
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(label, label_again)
    values = set(np.unique(label).tolist())
    assert image.shape == (256, 256, 3) and label.shape == (256, 256)
    assert {0, 255} < values and len(values) == 3 and max(values - {255}) <= 4


def test_void_lies_between_bar_and_background():
  """No background pixel touches a pixel of the bar."""
  _, label = draw_scene(np.random.default_rng(0))
  bar = ((label > 0) & (label < 255)).astype(np.uint8)
  touched = cv2.dilate(bar, np.ones((3, 3), np.uint8)) > 0
  assert not (touched & (label == 0)).any()


def test_all_scenes_are_planned(tmp_path):
  plan = Builder(data_dir=str(tmp_path)).plan(tmp_path)
  assert {split: len(items) for split, items in plan.splits.items()} == {"train": 3000, "validation": 300}


def test_a_complete_data_set_is_not_partial(tmp_path, monkeypatch, capsys):
  sizes = {"train": 2, "validation": 1}
  monkeypatch.setitem(SHAPES.split_sizes, "train", 2)
  monkeypatch.setitem(SHAPES.split_sizes, "validation", 1)
  prepare("shapes", "", str(tmp_path))
  assert Dataset("shapes", str(tmp_path)).splits == sizes and Dataset("shapes", str(tmp_path)).partial == []
  assert "PARTIAL" not in capsys.readouterr().out
  image, label = draw_scene(np.random.default_rng([2017, 1, 0]))
  example = open_source("shapes", "validation", str(tmp_path))[0]
  assert example["image_id"] == "validation_00000"
  np.testing.assert_array_equal(example["label"], label)
  assert np.abs(example["image"].astype(int) - image).mean() < 8  # It is stored as JPEG.
