"""Augmentation keeps image and label together, and pads with void."""

import numpy as np
import pytest

from gcn_flax.input_pipeline import transforms


def example(height, width):
  """A picture whose red channel is its label: what moves one must move the other."""
  label = np.random.default_rng(0).integers(0, 20, (height // 8 + 1, width // 8 + 1))
  label = np.kron(label, np.ones((8, 8)))[:height, :width].astype(np.uint8)
  return {"image": np.stack([label, label, label], -1), "label": label, "image_id": "street"}


def options(**changes):
  return {"crop_size": (32, 64), "pixel": (100, 101, 102.6), "scales": None, "crop": False, "flip": False, **changes}


@pytest.mark.parametrize("height, width", [(20, 30), (100, 30), (20, 100), (100, 100), (32, 64)])
def test_crop_and_flip_move_image_and_label_alike_and_pad_with_void(height, width):
  for seed in range(5):
    rng = np.random.default_rng(seed)
    result = transforms.augment(example(height, width), rng, **options(crop=True, flip=True))
    assert result["image"].shape == (32, 64, 3) and result["label"].shape == (32, 64)
    valid = result["label"] != 255
    assert valid.sum() == min(height, 32) * min(width, 64)
    np.testing.assert_array_equal(result["image"][valid][:, 0], result["label"][valid])
    assert (result["image"][~valid] == (100, 101, 103)).all()


def test_flip_mirrors_in_half_of_the_cases():
  before = example(32, 64)
  after = [transforms.random_flip(before, np.random.default_rng(seed))["label"] for seed in range(100)]
  mirrored = [np.array_equal(label, before["label"][:, ::-1]) for label in after]
  assert 30 < sum(mirrored) < 70
  assert all(
    np.array_equal(label, before["label"])
    for label, is_mirrored in zip(after, mirrored, strict=True)
    if not is_mirrored
  )


def test_scale_keeps_label_values_and_centres():
  before = example(64, 64)
  result = transforms.random_scale(before, (2.0, 2.0), np.random.default_rng(0))
  assert result["label"].shape == (128, 128)
  np.testing.assert_array_equal(result["label"], np.kron(before["label"], np.ones((2, 2))))
  inside = result["label"][8:-8, 8:-8]
  agreement = (result["image"][8:-8, 8:-8, 0] == inside).mean()
  assert agreement > 0.7  # All but the pixels that bilinear interpolation mixes at class borders.
  smaller = transforms.random_scale(before, (0.4, 0.4), np.random.default_rng(0))
  assert set(np.unique(smaller["label"])) <= set(np.unique(before["label"]))


def test_scales_cover_their_range():
  sides = [
    transforms.random_scale(example(100, 100), (0.5, 2.0), np.random.default_rng(seed))["label"].shape[0]
    for seed in range(60)
  ]
  assert 50 <= min(sides) < 70 and 180 < max(sides) <= 200


def test_crops_reach_every_corner():
  image = np.arange(16).reshape(4, 4).astype(np.uint8)
  before = {"image": np.stack([image] * 3, -1), "label": image, "image_id": "numbers"}
  corners = {
    int(transforms.random_crop(before, (2, 2), np.random.default_rng(seed))["label"][0, 0]) for seed in range(99)
  }
  assert corners == {0, 1, 2, 4, 5, 6, 8, 9, 10}


def test_the_paper_recipe_pads_and_flips_alone():
  before = example(30, 50)
  result = transforms.augment(before, np.random.default_rng(3), **options(flip=True))
  label = result["label"][:30, :50]
  assert np.array_equal(label, before["label"]) or np.array_equal(label, before["label"][:, ::-1])


def test_an_image_too_large_to_pad_is_named():
  with pytest.raises(ValueError, match="image street is 40 x 50, larger than 32 x 64"):
    transforms.augment(example(40, 50), np.random.default_rng(0), **options())
