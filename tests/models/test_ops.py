"""Every platform's implementations give the reference's results and gradients, and modules use those that are bound."""

import dataclasses
import functools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gcn_flax.models import cpu_ops
from gcn_flax.models.gcn import GCN
from gcn_flax.models.heads import BoundaryRefine, GlobalConv
from gcn_flax.models.kernels import same_padding
from gcn_flax.models.layers import Deconv
from gcn_flax.models.ops import CPU, GPU, REFERENCE, TPU, current_ops, ops_for, use_ops
from gcn_flax.models.resnet import BACKBONES
from gcn_flax.training import losses
from tests.models.comparison import (
  TOLERANCE,
  assert_close,
  assert_same_function,
  quick_jit,
  random_array,
  random_labels,
  random_variables,
)

PLATFORMS = {"cpu": CPU, "tpu": TPU, "gpu": GPU}


class Conv(NamedTuple):
  """A convolution, and the platforms that have an implementation of their own for it."""

  kernel: tuple[int, int]
  inputs: int
  outputs: int
  stride: int
  sides: tuple[int, int]
  platforms: tuple[str, ...] = ()


CONVS = {
  "1 x 1": Conv((1, 1), 8, 5, 1, (6, 7), ("cpu",)),
  "1 x 1, stride 2": Conv((1, 1), 8, 5, 2, (7, 6), ("cpu",)),
  "3 x 3": Conv((3, 3), 3, 7, 1, (9, 12)),
  "3 x 3, stride 2": Conv((3, 3), 8, 4, 2, (9, 12)),
  "3 x 3, few pixels, many channels": Conv((3, 3), 256, 7, 1, (4, 5), ("cpu",)),
  "3 x 3, few pixels, many channels, stride 2": Conv((3, 3), 256, 7, 2, (9, 8), ("cpu",)),
  "3 x 3, large map": Conv((3, 3), 16, 3, 1, (21, 6), ("cpu",)),
  "7 x 5, large map": Conv((7, 5), 16, 3, 1, (40, 6), ("cpu",)),
  "3 x 3, large map, few channels": Conv((3, 3), 15, 3, 1, (21, 6)),
  "7 x 7, stride 2": Conv((7, 7), 3, 8, 2, (12, 16), ("tpu",)),
  "5 x 3, stride 2": Conv((5, 3), 3, 8, 2, (12, 16), ("tpu",)),
  "7 x 7, stride 2, odd side": Conv((7, 7), 3, 8, 2, (13, 16)),
  "5 x 1": Conv((5, 1), 64, 24, 1, (60, 45), ("cpu",)),
  "1 x 5": Conv((1, 5), 32, 32, 1, (60, 60), ("cpu",)),
  "5 x 1, to many channels": Conv((5, 1), 31, 32, 1, (60, 60)),
  "1 x 25, longer than the map": Conv((1, 25), 256, 21, 1, (32, 8), ("cpu",)),
  "5 x 1, little work": Conv((5, 1), 12, 3, 1, (9, 7)),
  "5 x 1, stride 2": Conv((5, 1), 12, 3, 2, (20, 30)),
}
OWN_CONVS = [(platform, name) for name, case in CONVS.items() for platform in case.platforms]


def conv(platform: str, name: str):
  """Returns a platform's `(x, kernel) -> y` for a case; a "large map" is one of more than two strips of 3 rows."""
  case = CONVS[name]
  implementation = ops_for(platform).conv
  if platform == "cpu" and "large map" in name:
    implementation = functools.partial(cpu_ops.conv, strip_size=576)
  return lambda x, kernel: implementation(x, kernel, (case.stride,) * 2, same_padding(kernel))


def conv_inputs(name: str):
  case = CONVS[name]
  return random_array(2, *case.sides, case.inputs), random_array(*case.kernel, case.inputs, case.outputs, seed=1)


@pytest.mark.parametrize("platform, name", OWN_CONVS)
def test_convolutions_equal_the_reference(platform, name):
  assert_same_function(conv(platform, name), conv("reference", name), *conv_inputs(name))


@pytest.mark.parametrize("platform", PLATFORMS)
def test_other_convolutions_are_the_reference(platform):
  for name, case in CONVS.items():
    ours, reference = (jax.make_jaxpr(conv(kind, name))(*conv_inputs(name)) for kind in (platform, "reference"))
    assert (str(ours) == str(reference)) == (platform not in case.platforms), name


@pytest.mark.parametrize("sides", [(8, 12), (9, 7)])
def test_max_pool_of_slices_equals_the_reference(sides):
  """Whole numbers, so that many are equal: the first of them gets the gradient, as in XLA and PyTorch."""
  x = np.random.default_rng(0).integers(-4, 0, (2, *sides, 3)).astype(np.float32)
  assert_same_function(CPU.max_pool, REFERENCE.max_pool, x)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_bfloat16_is_as_close_to_float32_as_the_reference(platform):
  """Convolutions round once, including those that are sums of products."""
  x, kernel = random_array(2, 90, 60, 80), random_array(15, 1, 80, 24, seed=1)

  def convolve(ops, dtype):
    return ops.conv(x.astype(dtype), kernel.astype(dtype), (1, 1), ((7, 7), (0, 0)))

  exact, found = convolve(REFERENCE, jnp.float32), convolve(PLATFORMS[platform], jnp.bfloat16)
  assert found.dtype == jnp.bfloat16
  errors = [np.abs(np.asarray(y, np.float32) - exact).mean() for y in (found, convolve(REFERENCE, jnp.bfloat16))]
  assert errors[0] <= 1.05 * errors[1]


def apply_with(ops, module):
  """Returns `(variables, x) -> module's output` with the given ops."""

  def apply(variables, x):
    with use_ops(ops):
      return module.apply(variables, x)

  return apply


@pytest.mark.parametrize("channels, sides", [(19, (50, 60)), (5, (51, 52)), (19, (8, 40))])
def test_a_head_on_a_tpu_equals_the_reference(channels, sides):
  head, x = GlobalConv(channels, 7), random_array(1, *sides, 6)
  assert_same_function(apply_with(TPU, head), apply_with(REFERENCE, head), random_variables(head, x), x)


def test_the_outputs_of_a_head_fill_the_lanes_where_the_side_is_divisible():
  assert [TPU.head_block(19, side) for side in (200, 128, 100, 50, 25, 53)] == [5, 4, 5, 5, 1, 1]
  assert CPU.head_block(19, 200) == REFERENCE.head_block(19, 200) == 1


class Network(NamedTuple):
  """A small network with the ops of a platform."""

  platform: str
  num_classes: int
  boundary_refine: bool = True


@functools.cache
def loss_gradient_and_logits(network: Network):
  """Returns (loss, gradient) of a training batch and (logits, classes) of its evaluation."""
  # No platform has these: maps in blocks, and others with channel padding.
  padded_tpu = dataclasses.replace(TPU, min_padded_channels=9, channel_multiple=8)
  ops = padded_tpu if network.platform == "padded tpu" else ops_for(network.platform)
  module = GCN(network.num_classes, "resnet_tiny", 7, ops=ops, boundary_refine=network.boundary_refine)
  images = random_array(2, 64, 96, 3)
  labels = random_labels(2, 64, 96, num_classes=network.num_classes)
  variables = random_variables(module, images, train=False)

  def loss(variables):
    logits, _ = module.apply(variables, images, train=True, mutable=["batch_stats"], method="raw_logits")
    total, weight = losses.segmentation_loss(logits, labels)
    return total / weight

  def evaluate(variables):
    logits = module.apply(variables, images, train=False, method="raw_logits")
    return logits.plain(), logits.argmax()

  return quick_jit(jax.value_and_grad(loss))(variables), quick_jit(evaluate)(variables)


@pytest.mark.parametrize(
  "network",
  [
    pytest.param(Network("cpu", 19), id="cpu"),
    pytest.param(Network("tpu", 19), id="tpu"),
    pytest.param(Network("gpu", 21), id="gpu", marks=pytest.mark.slow),
    pytest.param(Network("cpu", 5), id="cpu, no channel padding", marks=pytest.mark.slow),
    pytest.param(Network("tpu", 6, boundary_refine=False), id="tpu, without BR", marks=pytest.mark.slow),
    pytest.param(Network("tpu", 80), id="tpu, no space-to-depth", marks=pytest.mark.slow),
    pytest.param(Network("padded tpu", 19), id="tpu, every map padded", marks=pytest.mark.slow),
  ],
)
def test_a_network_is_the_same_on_all_platforms(network):
  (loss, gradient), (logits, classes) = loss_gradient_and_logits(network)
  reference = loss_gradient_and_logits(network._replace(platform="reference"))
  (expected_loss, expected_gradient), (expected_logits, expected_classes) = reference
  np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
  jax.tree.map(lambda a, b: assert_close(a, b, 2 * TOLERANCE), gradient["params"], expected_gradient["params"])
  assert_close(logits, expected_logits)
  assert np.mean(np.asarray(classes) == np.asarray(expected_classes)) > 0.9999


@pytest.mark.parametrize(
  "ops, boundary_refine, shape, block",
  [
    pytest.param(TPU, True, (1, 32, 32, 76), (2, 2), id="tpu"),
    pytest.param(TPU, False, (1, 32, 32, 76), (2, 2), id="tpu, without BR"),
    pytest.param(CPU, True, (1, 64, 64, 24), (1, 1), id="cpu"),
    pytest.param(GPU, True, (1, 64, 64, 32), (1, 1), id="gpu"),
    pytest.param(REFERENCE, True, (1, 64, 64, 19), (1, 1), id="reference"),
  ],
)
def test_raw_logits_are_in_blocks_on_a_tpu_and_padded_on_cpu_and_gpu(ops, boundary_refine, shape, block):
  network = GCN(19, "resnet_tiny", 7, ops=ops, boundary_refine=boundary_refine)
  images = jnp.zeros((1, 64, 64, 3))
  logits, _ = jax.eval_shape(
    lambda: network.init_with_output(jax.random.key(0), images, train=False, method="raw_logits")
  )
  assert logits.array.shape == shape and logits.layout.block == block


def test_the_platform_decides():
  assert ops_for("tpu") is TPU and ops_for() is ops_for("cpu") is CPU
  assert ops_for("gpu") is ops_for("cuda") is ops_for("rocm") is GPU
  assert ops_for("reference") is ops_for("metal") is REFERENCE


def test_a_gpu_pads_maps_that_grow_by_less_than_two():
  assert [GPU.padded(channels) for channels in (2, 11, 16, 17, 19, 21, 32, 150)] == [2, 11, 16, 32, 32, 32, 32, 160]


def test_ops_are_bound_for_a_context():
  assert current_ops() is CPU
  with use_ops(TPU):
    with use_ops(None):
      assert current_ops() is TPU
    with pytest.raises(KeyError), use_ops(REFERENCE):
      assert current_ops() is REFERENCE
      raise KeyError
    assert current_ops() is TPU
  assert current_ops() is CPU


MODULES = {
  "GlobalConv": functools.partial(GlobalConv, 19, 15),
  "BoundaryRefine": BoundaryRefine,
  "Deconv": Deconv,
  "encoder": BACKBONES["resnet_tiny"],
  "GCN": functools.partial(GCN, 19, "resnet_tiny", 15),
}


@functools.cache
def program(name: str, bound=None, **options) -> str:
  """Returns the jaxpr of a module applied to a map or an image, within `use_ops(bound)`."""
  network = name in ("encoder", "GCN")
  x = jax.ShapeDtypeStruct((1, 64, 64, 3 if network else 64), jnp.float32)
  module, train = MODULES[name](**options), {"train": False} if network else {}
  variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, **train), x)
  with use_ops(bound):
    jaxpr = jax.make_jaxpr(lambda variables, x: module.apply(variables, x, **train))(variables, x)
  return re.sub("0x[0-9a-f]+", "ADDRESS", str(jaxpr))


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_the_ops_of_the_platform_unless_others_are_bound(name):
  negative = dataclasses.replace(CPU, conv=lambda *arguments: -CPU.conv(*arguments))
  assert program(name) == program(name, CPU) != program(name, negative)
  if name in ("GlobalConv", "GCN"):
    assert program(name) != program(name, REFERENCE)


@pytest.mark.parametrize("remat", [False, True])
def test_the_ops_of_a_network_reach_all_of_its_layers_and_nothing_else(remat):
  """Also with gradient checkpointing, and whatever is bound outside."""
  for ops in (TPU, REFERENCE):
    assert program("GCN", CPU, ops=ops, remat=remat) == program("GCN", ops, remat=remat) != program("GCN", remat=remat)
    assert program("encoder", CPU, ops=ops, remat=remat) == program("encoder", ops, remat=remat)
  assert current_ops() is CPU
