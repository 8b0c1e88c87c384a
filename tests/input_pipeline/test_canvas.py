"""The canvas of an image depends on its own size alone, and few canvases are compiled."""

import json
import logging

import numpy as np
import pytest

from gcn_flax.input_pipeline.canvas import batches_by_canvas, canvas_of, crop_of
from gcn_flax.input_pipeline.datasets import Dataset


@pytest.mark.parametrize(
  "size, canvas",
  [
    ((1, 32), (32, 32)),
    ((360, 480), (384, 480)),
    ((512, 513), (512, 640)),
    ((1024, 2048), (1024, 2048)),
    ((3000, 4000), (3072, 4096)),
  ],
)
def test_sides_are_rounded_up(size, canvas):
  assert canvas_of(size) == canvas
  assert canvas_of(size, (512, 512)) == (512, 512)


@pytest.mark.parametrize(
  "sizes, crop",
  [
    ([(360, 480)], (352, 480)),
    ([(1024, 2048)] * 3, (512, 512)),
    ([(20, 5000)], (32, 512)),
    ([(480, 640), (640, 480)], (480, 480)),
    ([(100, 300), (200, 300), (10_000, 300)], (192, 288)),
  ],
)
def test_crops_follow_the_median_image_and_stay_affordable(sizes, crop):
  assert crop_of(np.array(sizes)) == crop


def test_rows_of_a_crop_divide_over_devices():
  assert crop_of(np.array([(360, 480)]), 96) == (288, 480) and crop_of(np.array([(40, 40)]), 96) == (96, 32)


def test_padding_and_the_number_of_canvases_are_bounded():
  sides = [canvas_of((side, 1))[0] for side in range(1, 4097)]
  assert all(side % 32 == 0 for side in sides) and len(set(sides)) == 16 + 28
  assert all(0 <= padded - side < (32 if side <= 512 else 128) for side, padded in enumerate(sides, 1))


def test_batches_have_one_canvas_and_one_length_each():
  canvases = [(32, 32)] * 5 + [(64, 64)] + [(32, 64)] * 9
  batches = batches_by_canvas(canvases, batch_size=8, multiple=2)
  assert [len(batch) for batch in batches] == [2, 8, 8, 6]  # The largest first.
  by_canvas = [{canvases[index] for index in batch if index >= 0} for batch in batches]
  assert by_canvas == [{(64, 64)}, {(32, 64)}, {(32, 64)}, {(32, 32)}]
  indices = np.concatenate(batches)
  assert sorted(indices[indices >= 0]) == list(range(15)) and all(batch[0] >= 0 for batch in batches)
  assert batches_by_canvas([], 8, 2) == []


def test_sizes_are_stored_and_equal_those_in_the_headers(mixed_data_dir, caplog):
  dataset = Dataset("camvid", mixed_data_dir)
  stored = json.loads((dataset._folder / "sizes.json").read_text())
  caplog.set_level(logging.INFO, "gcn_flax")
  for split in ("train", "validation"):
    source = dataset.source(split)
    actual = [list(source[index]["image"].shape[:2]) for index in range(len(source))]
    assert stored[split] == source.sizes.tolist() == actual
    assert len({tuple(size) for size in actual}) > 1
    source._stored_sizes = None
    del source.sizes
    assert source.sizes.tolist() == actual
  assert "reading the size of each image of camvid train" in caplog.text


@pytest.mark.parametrize("content", ["", "null", "[1]", "{}", '{"train": [[1, 2]], "validation": []}', '{"train": 5}'])
def test_damaged_sizes_are_read_from_the_headers_instead(mixed_data_dir, monkeypatch, caplog, content):
  whole = Dataset("camvid", mixed_data_dir).source("train").sizes
  path = Dataset("camvid", mixed_data_dir)._folder / "sizes.json"
  before = path.read_text()
  try:
    path.write_text(content)
    np.testing.assert_array_equal(Dataset("camvid", mixed_data_dir).source("train").sizes, whole)
    assert f"WARNING: {path}: damaged (" in caplog.text
    path.unlink()
    np.testing.assert_array_equal(Dataset("camvid", mixed_data_dir).source("train").sizes, whole)
  finally:
    path.write_text(before)
