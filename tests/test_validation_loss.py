"""The loss of an evaluation: the mean cross-entropy of the valid pixels, or images, of the whole split."""

import jax
import numpy as np
import pytest

from gcn_flax import build
from gcn_flax.input_pipeline.transforms import pad
from gcn_flax.run_data import RunData
from tests.runs import build_setup, evaluate_split

MEAN, STD = np.float32([123.675, 116.28, 103.53]), np.float32([58.395, 57.12, 57.375])  # ImageNet's.


def cross_entropy(probabilities, label):
  """The cross-entropy of the valid pixels of one image, `[N]`, in NumPy."""
  probabilities = np.asarray(probabilities, np.float64)[: label.shape[0], : label.shape[1]]
  valid = label != 255
  return -np.log(np.take_along_axis(probabilities[valid], label[valid][:, None].astype(int), -1)[:, 0])


def mean_over_pixels(config, predict):
  """The mean over all pixels of the split, each image padded to 96 x 128 and predicted by itself."""
  losses = []
  for example in RunData(config).eval_source("validation"):
    padded = pad(example, (96, 128), tuple(MEAN))
    losses.append(cross_entropy(predict(padded["image"], example["label"].shape), example["label"]))
  return np.concatenate(losses).mean()


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_each_valid_pixel_counts_once(config, platform):
  """Void, padding and examples that fill up a batch do not; also from logits in blocks, as on a TPU."""
  config.data.eval_size = (96, 128)
  setup = build_setup(config, platform=platform)
  weights = setup.init(3).weights()
  variables = {name: weights[name] for name in ("params", "batch_stats")}
  apply = jax.jit(lambda images: jax.nn.softmax(setup.network.apply(variables, images, train=False)))

  def predict(image, size):
    return apply((image[None] - MEAN) / STD)[0]

  found = evaluate_split(config, setup, weights)
  np.testing.assert_allclose(found.loss, mean_over_pixels(config, predict), rtol=1e-4)
  assert found.counts["loss"][1] == found.counts["confusion"].sum()


@pytest.mark.slow
def test_with_test_time_augmentation_it_is_that_of_the_mean_probabilities(config):
  config.data.eval_size = (96, 128)
  config.eval.tile, config.eval.flip = (64, 96), True
  setup = build_setup(config)
  weights = setup.init(3).weights()
  probabilities = build.with_probabilities(config, setup).eval_step

  def predict(image, size):
    batch = {"image": np.stack([image] * 8), "size": np.tile(np.int32(size), (8, 1))}
    return probabilities(weights, batch)[0]

  np.testing.assert_allclose(evaluate_split(config, setup, weights).loss, mean_over_pixels(config, predict), rtol=1e-4)


@pytest.mark.parametrize("kind", ["pixels", "images"])
def test_one_device_equals_eight(config, class_config, kind):
  config = class_config if kind == "images" else config
  losses = []
  for devices in (jax.devices()[:1], jax.devices()):
    setup = build_setup(config, devices)
    losses.append(evaluate_split(config, setup, setup.init(3).weights()).counts["loss"])
  if kind == "pixels":
    np.testing.assert_array_equal(*losses)
  np.testing.assert_allclose(*losses, rtol=1e-6)


def test_a_classifier_counts_images(class_config):
  """Nine images in a batch of sixteen."""
  class_config.eval.batch_size = 16
  setup = build_setup(class_config)
  weights = setup.init(3).weights()
  metrics = evaluate_split(class_config, setup, weights)
  assert metrics.counts["loss"][1] == 9
  # With scores of zero every class has the same probability.
  weights["params"]["fc"] = jax.tree.map(np.zeros_like, weights["params"]["fc"])
  np.testing.assert_allclose(evaluate_split(class_config, setup, weights).loss, np.log(3), rtol=1e-6)
