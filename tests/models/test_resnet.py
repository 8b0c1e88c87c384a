import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks import encoder_cost
from gcn_flax.models.ops import CPU, REFERENCE, use_ops
from gcn_flax.models.resnet import BACKBONES, batch_norm
from gcn_flax.planning import cost
from tests.models.comparison import assert_close, quick_jit, random_array, random_variables
from tests.torch_reference import load_flax, to_numpy, to_torch

# Parameters of torchvision's networks, without their classifiers of 1000 classes.
PARAMETERS = {
  "resnet18": 11_689_512 - 513_000,
  "resnet34": 21_797_672 - 513_000,
  "resnet50": 25_557_032 - 2_049_000,
  "resnet101": 44_549_160 - 2_049_000,
  "resnet152": 60_192_808 - 2_049_000,
}


@functools.cache
def encoder_shapes(name: str, size=(64, 96)):
  """Returns variables and features of an encoder as shapes and dtypes."""
  images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
  encoder = BACKBONES[name]()
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


def test_resnet50_gcn_is_table_11():
  """Kernels of res-4 and res-5 by hand: k, inner channels, blocks, outer channels; the rest is ResNet-50's."""
  variables, _ = encoder_shapes("resnet50_gcn")
  plain, _ = encoder_shapes("resnet50")
  params = variables["params"]
  for stage, (k, width, blocks, inputs, outputs) in {3: (5, 85, 6, 512, 1024), 4: (7, 128, 3, 1024, 2048)}.items():
    names = sorted(name for name in params if name.startswith(f"layer{stage}_"))
    assert len(names) == blocks
    for index, name in enumerate(names):
      before = outputs if index else inputs
      kernels = {key: leaf["kernel"].shape for key, leaf in params[name].items() if "kernel" in leaf}
      expected = {
        "left_first": (k, 1, before, width), "left_second": (1, k, width, width),
        "right_first": (1, k, before, width), "right_second": (k, 1, width, width),
        "conv3": (1, 1, width, outputs),
      }  # fmt: skip
      assert kernels == expected | ({} if index else {"downsample_conv": (1, 1, before, outputs)})
      assert all(f"{key}_bn" in params[name] for key in expected if key != "conv3")  # Every one is normalised.
  same = [name for name in plain["params"] if name.startswith(("conv1", "bn1", "layer1", "layer2"))]
  assert all(jax.tree.map(jnp.shape, plain["params"][name]) == jax.tree.map(jnp.shape, params[name]) for name in same)


@pytest.mark.parametrize("name, published", [("resnet18", 1.814e9), ("resnet50", 4.089e9), ("resnet152", 11.514e9)])
def test_multiply_adds_are_torchvisions_without_the_classifier(name, published):
  """`_ops` in the metadata of torchvision's weights, in units of 1e9."""
  found = encoder_cost.cost(name, False, 224)["multiply_adds"]
  np.testing.assert_allclose(found + 1000 * (512 if name == "resnet18" else 2048), published, atol=5e5)


def test_resnet50_gcn_costs_what_the_paper_says():
  """3700M multiply-adds at 224 x 224, to the two places the paper gives."""
  np.testing.assert_allclose(encoder_cost.cost("resnet50_gcn", False, 224)["multiply_adds"], 3.7e9, rtol=0.01)


def test_zero_init_residual_begins_as_the_identity():
  encoder = BACKBONES["resnet_tiny"](zero_init_residual=True)
  images = random_array(1, 32, 32, 3)
  variables = quick_jit(lambda: encoder.init(jax.random.key(0, impl="rbg"), images, train=False))()
  assert not variables["params"]["layer1_0"]["bn2"]["scale"].any() and variables["params"]["bn1"]["scale"].all()
  _, state = quick_jit(lambda: encoder.apply(variables, images, train=False, capture_intermediates=True))()
  block = state["intermediates"]["layer1_0"]["__call__"][0]
  stem = CPU.max_pool(jax.nn.relu(state["intermediates"]["bn1"]["__call__"][0]))
  np.testing.assert_array_equal(block, stem)


def test_resnet152_gives_the_maps_of_figure_2():
  _, features = encoder_shapes("resnet152", (512, 512))
  assert [leaf.shape[1:] for leaf in features] == [(128, 128, 256), (64, 64, 512), (32, 32, 1024), (16, 16, 2048)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet_tiny", "resnet50_gcn"])
def test_gradient_checkpointing_is_the_same_network_in_less_memory(name):
  images = random_array(2, 64, 96, 3)
  variables = random_variables(BACKBONES[name](), images, train=True)
  results, memory = [], []
  for remat in (False, True):
    encoder = BACKBONES[name](remat=remat)
    assert jax.tree.structure(variables) == jax.tree.structure(random_variables(encoder, images, train=True))

    def loss(params, encoder=encoder):
      maps, updates = encoder.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
      return sum(jnp.sum(leaf**2) for leaf in maps), updates

    step = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(variables["params"]).compile()
    results.append(step(variables["params"]))
    memory.append(cost.peak_bytes(jax.make_jaxpr(jax.value_and_grad(loss, has_aux=True))(variables["params"]).jaxpr))
  jax.tree.map(lambda a, b: assert_close(a, b, 1e-4), *results)
  assert memory[1] < memory[0]


@pytest.mark.parametrize("size", [(33, 64), (64, 100)])
def test_sides_that_are_not_multiples_of_32_are_refused(size):
  height, width = size
  fix = {(33, 64): "Pad to 64 x 64", (64, 100): "Pad to 64 x 128"}[size]
  with pytest.raises(ValueError, match=f"images are {height} x {width}:.*{fix}"):
    encoder_shapes("resnet_tiny", size)


@pytest.mark.parametrize("ops", [REFERENCE, CPU], ids=["reference", "cpu"])
@pytest.mark.parametrize("size", [(8, 12), (9, 7)])
def test_max_pool_equals_torch(size, ops):
  x = random_array(2, *size, 3) - 5  # All negative: a border of zeros would show.
  assert_close(ops.max_pool(x), to_numpy(F.max_pool2d(to_torch(x), 3, 2, 1)), 0)


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
    """PyTorch's running variance averages n / (n - 1) times the variance that Flax's averages."""
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


def test_the_variance_of_a_channel_far_from_zero_is_exact():
  x = jnp.asarray(1000 + np.random.default_rng(0).normal(size=(4, 16, 16, 3)), jnp.float32)
  with use_ops(CPU):
    norm = batch_norm("sync", True, jnp.float32)
    _, updated = norm.apply(norm.init(jax.random.key(0), x), x, mutable=["batch_stats"])
  variance = (np.asarray(updated["batch_stats"]["var"], np.float64) - 0.9) / 0.1  # Momentum 0.9, from 1.
  np.testing.assert_allclose(variance, np.asarray(x, np.float64).var((0, 1, 2)), rtol=1e-5)
