import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gcn_flax.models.resnet import BACKBONES, batch_norm, max_pool
from tests.models.comparison import assert_close, quick_jit, random_array, random_variables
from tests.torch_reference import TorchResNet, load_flax, to_numpy, to_torch

# Parameters of torchvision's networks less their classifiers of 1000 classes.
PARAMETERS = {
  "resnet18": 11_689_512 - 513_000,
  "resnet34": 21_797_672 - 513_000,
  "resnet50": 25_557_032 - 2_049_000,
  "resnet101": 44_549_160 - 2_049_000,
  "resnet152": 60_192_808 - 2_049_000,
}


def encoder_shapes(name: str, size=(64, 96), **options):
  """Variables and features of an encoder, as shapes and dtypes."""
  images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
  encoder = BACKBONES[name](**options)
  variables = jax.eval_shape(lambda images: encoder.init(jax.random.key(0), images, train=False), images)
  features = jax.eval_shape(lambda variables, images: encoder.apply(variables, images, train=False), variables, images)
  return variables, features


@pytest.mark.parametrize("name", BACKBONES)
def test_strides_of_the_features(name):
  variables, features = encoder_shapes(name)
  assert [leaf.shape[:3] for leaf in features] == [(2, 64 // stride, 96 // stride) for stride in (4, 8, 16, 32)]
  channels = [leaf.shape[3] for leaf in features]
  assert channels == [channels[0] * 2**stage for stage in range(4)]
  if name in PARAMETERS:
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == PARAMETERS[name]


def test_resnet152_gives_the_maps_of_figure_2():
  _, features = encoder_shapes("resnet152", (512, 512))
  assert [leaf.shape[1:] for leaf in features] == [(128, 128, 256), (64, 64, 512), (32, 32, 1024), (16, 16, 2048)]


@pytest.mark.parametrize("name, size", [("resnet_tiny", (64, 96)), ("resnet18", (96, 64)), ("resnet50", (64, 96))])
def test_features_equal_torch(name, size):
  images = random_array(2, *size, 3)
  encoder = BACKBONES[name]()
  variables = random_variables(encoder, images, train=False)
  features = quick_jit(lambda variables, images: encoder.apply(variables, images, train=False))(variables, images)
  with torch.no_grad():
    expected = load_flax(TorchResNet(name), variables).eval()(to_torch(images))
  for ours, theirs in zip(features, expected, strict=True):
    assert_close(ours, to_numpy(theirs), 1e-4)


@pytest.mark.parametrize("size", [(33, 64), (64, 100)])
def test_sides_that_are_no_multiples_of_32_are_refused(size):
  height, width = size
  cure = {(33, 64): "pad to 64 x 64", (64, 100): "pad to 64 x 128"}[size]
  with pytest.raises(ValueError, match=f"images are {height} x {width},.*{cure}"):
    encoder_shapes("resnet_tiny", size)


@pytest.mark.parametrize("size", [(8, 12), (9, 7)])
def test_max_pool_equals_torch(size):
  x = random_array(2, *size, 3) - 5  # All negative: a border of zeros would show.
  assert_close(max_pool(x), to_numpy(F.max_pool2d(to_torch(x), 3, 2, 1)), 0)


class TestBatchNorm:
  CHANNELS = 6

  def setup_method(self):
    spread = np.array([0.003, 0.03, 0.5, 1, 2, 3], np.float32)  # The smallest is of the order of epsilon.
    self.x = random_array(3, 4, 5, self.CHANNELS) * spread + 0.5 * spread
    self.variables = random_variables(self.module(), self.x)
    self.variables["batch_stats"]["var"] = self.variables["batch_stats"]["var"] * spread**2
    self.reference = load_flax(torch.nn.BatchNorm2d(self.CHANNELS), self.variables)

  def module(self, norm="sync", train=False):
    return batch_norm(norm, train, jnp.float32)

  def apply(self, norm, train):
    y, updates = self.module(norm, train).apply(self.variables, self.x, mutable=["batch_stats"])
    return y, updates["batch_stats"]

  @pytest.mark.parametrize("norm, train", [("sync", False), ("frozen", False), ("frozen", True)])
  def test_running_statistics_are_used_and_kept(self, norm, train):
    y, statistics = self.apply(norm, train)
    assert_close(y, to_numpy(self.reference.eval()(to_torch(self.x))), 1e-5)
    jax.tree.map(np.testing.assert_array_equal, statistics, self.variables["batch_stats"])

  def test_training_normalises_by_the_batch(self):
    y, _ = self.apply("sync", train=True)
    expected = to_numpy(self.reference.train()(to_torch(self.x)))
    for channel in range(self.CHANNELS):
      assert_close(y[..., channel], expected[..., channel], 1e-4)

  def test_training_updates_the_running_statistics(self):
    """PyTorch's running variance is fed with n / (n - 1) times the variance that Flax's is fed with."""
    _, statistics = self.apply("sync", train=True)
    self.reference.train()(to_torch(self.x))
    np.testing.assert_allclose(statistics["mean"], self.reference.running_mean, rtol=1e-5)
    count = self.x.size // self.CHANNELS
    kept = 0.9 * self.variables["batch_stats"]["var"]
    expected = kept + (self.reference.running_var.numpy() - kept) * (count - 1) / count
    np.testing.assert_allclose(statistics["var"], expected, rtol=1e-4)

  def test_frozen_scale_and_bias_still_learn(self):
    def loss(params):
      return jnp.sum(self.module("frozen", train=True).apply({**self.variables, "params": params}, self.x) ** 2)

    gradient = jax.grad(loss)(self.variables["params"])
    assert np.all(gradient["scale"] != 0) and np.all(gradient["bias"] != 0)
