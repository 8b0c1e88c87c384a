"""Every form of an operation gives what the plain one gives, and the same gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gcn_flax.models import ops
from gcn_flax.models.gcn import GCN
from gcn_flax.models.heads import GlobalConv
from gcn_flax.training import losses
from tests.models.comparison import assert_close, quick_jit, random_array, random_variables

TOLERANCE = 1e-5
CONVOLUTIONS = {  # kernel, channels in and out, stride, size of the map, platforms that have a form of their own
  "1 x 1": ((1, 1), 8, 5, 1, (6, 7), {"cpu"}),
  "1 x 1, stride 2": ((1, 1), 8, 5, 2, (7, 6), {"cpu"}),
  "3 x 3": ((3, 3), 3, 7, 1, (9, 12), {}),
  "3 x 3, stride 2": ((3, 3), 8, 4, 2, (9, 12), {}),
  "3 x 3, few pixels, many channels": ((3, 3), 256, 7, 1, (4, 5), {"cpu"}),
  "3 x 3, few pixels, many channels, stride 2": ((3, 3), 256, 7, 2, (9, 8), {"cpu"}),
  "3 x 3, large map": ((3, 3), 16, 3, 1, (21, 6), {"cpu"}),
  "7 x 5, large map": ((7, 5), 16, 3, 1, (40, 6), {"cpu"}),
  "3 x 3, large map, few channels": ((3, 3), 15, 3, 1, (21, 6), {}),
  "7 x 7, stride 2": ((7, 7), 3, 8, 2, (12, 16), {"tpu"}),
  "5 x 3, stride 2": ((5, 3), 3, 8, 2, (12, 16), {"tpu"}),
  "7 x 7, stride 2, odd": ((7, 7), 3, 8, 2, (13, 16), {}),
  "5 x 1": ((5, 1), 64, 24, 1, (60, 45), {"cpu"}),
  "1 x 5": ((1, 5), 32, 32, 1, (60, 60), {"cpu"}),
  "5 x 1, to many": ((5, 1), 31, 32, 1, (60, 60), {}),
  "1 x 25, longer than the map": ((1, 25), 256, 21, 1, (32, 8), {"cpu"}),
  "5 x 1, little work": ((5, 1), 12, 3, 1, (9, 7), {}),
  "5 x 1, stride 2": ((5, 1), 12, 3, 2, (20, 30), {}),
}
FILLED = dataclasses.replace(ops.TPU, widths=(9, 8))  # Of no platform: folded maps, and plain ones that are filled.
UNREFINED = 6  # The network of so many classes is without boundary refinement.
FORMS = {"cpu": ops.CPU, "tpu": ops.TPU}


def assert_same(ours, theirs, *inputs):
  """Results, and gradients of a weighted sum of them."""
  weights = random_array(*jax.eval_shape(theirs, *inputs).shape, seed=9)

  def all_of(function):
    def weighed(*inputs):
      y = function(*inputs)
      return jnp.sum(weights * y), y

    return quick_jit(jax.value_and_grad(weighed, tuple(range(len(inputs))), has_aux=True))(*inputs)

  ((_, y), gradients), ((_, expected), expected_gradients) = all_of(ours), all_of(theirs)
  jax.tree.map(lambda a, b: assert_close(a, b, TOLERANCE), (y, gradients), (expected, expected_gradients))


OWN = [(platform, name) for name, case in CONVOLUTIONS.items() for platform in case[-1]]


@pytest.fixture
def small_strips(monkeypatch):
  """Strips of 3 rows and of 1, the last of fewer, and more than are allowed."""
  monkeypatch.setattr(ops, "_STRIP", 576)


def convolution(platform, name):
  """The convolution of a case in the forms of a platform, and its inputs."""
  size, inputs, outputs, stride, sides, _ = CONVOLUTIONS[name]
  padding = tuple((side // 2,) * 2 for side in size)
  form = ops.PLAIN if platform == "plain" else FORMS[platform]

  def conv(x, kernel):
    return form.conv(x, kernel, (stride, stride), padding)

  return conv, random_array(2, *sides, inputs), random_array(*size, inputs, outputs, seed=1)


@pytest.mark.parametrize("platform, name", OWN)
def test_convolutions_of_their_own_equal_the_plain_ones(small_strips, platform, name):
  conv, *inputs = convolution(platform, name)
  assert_same(conv, convolution("plain", name)[0], *inputs)


@pytest.mark.parametrize("platform", FORMS)
def test_which_convolutions_have_forms_of_their_own(monkeypatch, platform):
  for name, case in CONVOLUTIONS.items():
    monkeypatch.setattr(ops, "_STRIP", 576 if "large" in name else 1 << 20)
    (conv, *inputs), (plain, *_) = convolution(platform, name), convolution("plain", name)
    same = str(jax.make_jaxpr(conv)(*inputs)) == str(jax.make_jaxpr(plain)(*inputs))
    assert same == (platform not in case[-1]), name


@pytest.mark.parametrize("sides", [(8, 12), (9, 7)])
def test_max_pool_by_slices_equals_the_plain_one(sides):
  """Whole numbers, so that many are equal: the first of them gets the gradient, as in XLA and PyTorch."""
  x = np.random.default_rng(0).integers(-4, 0, (2, *sides, 3)).astype(np.float32)
  assert_same(ops.CPU.max_pool, ops.PLAIN.max_pool, x)


@pytest.mark.parametrize("channels, sides", [(19, (50, 60)), (5, (51, 52)), (19, (8, 40))])
def test_heads_on_a_tpu_equal_the_plain_ones(channels, sides):
  heads = [GlobalConv(channels, 7, forms=form) for form in (ops.TPU, ops.PLAIN)]
  x = random_array(1, *sides, 6)
  variables = random_variables(heads[1], x)
  assert_same(*(lambda variables, x, head=head: head.apply(variables, x) for head in heads), variables, x)


def test_a_heads_outputs_fill_the_lanes_where_the_side_divides():
  assert [ops.TPU.head_fold(19, side) for side in (200, 128, 100, 50, 25, 53)] == [5, 4, 5, 5, 1, 1]
  assert ops.CPU.head_fold(19, 200) == ops.PLAIN.head_fold(19, 200) == 1


@functools.cache
def loss_and_gradient(name, classes):
  """Of a small network; and its logits and classes in evaluation."""
  form = {**FORMS, "plain": ops.PLAIN, "filled": FILLED}[name]
  network = GCN(classes, "resnet_tiny", 7, forms=form, boundary_refine=classes != UNREFINED)
  images = random_array(2, 64, 96, 3)
  variables = random_variables(network, images, train=False)
  rng = np.random.default_rng(3)
  labels = np.where(rng.random((2, 64, 96)) < 0.25, 255, rng.integers(0, classes, (2, 64, 96))).astype(np.uint8)

  def loss(variables):
    scores, _ = network.apply(variables, images, train=True, mutable=["batch_stats"], method="scores")
    total, weight = losses.of_scores(scores, labels)
    return total / weight

  def evaluate(variables):
    scores = network.apply(variables, images, train=False, method="scores")
    return network.apply(variables, images, train=False), scores.logits(), scores.classes()

  return quick_jit(jax.value_and_grad(loss))(variables), quick_jit(evaluate)(variables)


MORE = [("cpu", 5), ("tpu", UNREFINED), ("tpu", 80), ("filled", 19)]


@pytest.mark.parametrize(
  "name, classes", [("cpu", 19), ("tpu", 19), *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE)]
)
def test_networks_of_all_forms_are_one(name, classes):
  (loss, gradient), (logits, again, found) = loss_and_gradient(name, classes)
  (expected, expected_gradient), (expected_logits, _, expected_found) = loss_and_gradient("plain", classes)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  jax.tree.map(lambda a, b: assert_close(a, b, 2e-5), gradient["params"], expected_gradient["params"])
  assert_close(logits, expected_logits, TOLERANCE)
  np.testing.assert_array_equal(logits, again)
  assert np.mean(np.asarray(found) == np.asarray(expected_found)) > 0.9999


def test_scores_stay_folded_on_a_tpu_and_are_filled_on_a_cpu():
  def layout(form, boundary_refine=True):
    network = GCN(19, "resnet_tiny", 7, forms=form, boundary_refine=boundary_refine)
    images = jnp.zeros((1, 64, 64, 3))
    shapes = jax.eval_shape(lambda: network.init_with_output(jax.random.key(0), images, train=False, method="scores"))
    return shapes[0].array.shape, shapes[0].layout.block

  assert layout(ops.TPU) == layout(ops.TPU, boundary_refine=False) == ((1, 32, 32, 76), (2, 2))
  assert layout(FILLED) == layout(ops.TPU)
  assert layout(ops.CPU) == ((1, 64, 64, 24), (1, 1))
  assert layout(ops.PLAIN) == ((1, 64, 64, 19), (1, 1))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_bfloat16_is_as_close_to_float32_as_the_plain_form(form):
  """Convolutions round once, also those that are sums of products."""
  x, kernel = random_array(2, 90, 60, 80), random_array(15, 1, 80, 24, seed=1)
  exact = ops.PLAIN.conv(x, kernel, (1, 1), ((7, 7), (0, 0)))
  found = form.conv(jnp.bfloat16(x), jnp.bfloat16(kernel), (1, 1), ((7, 7), (0, 0)))
  plain = ops.PLAIN.conv(jnp.bfloat16(x), jnp.bfloat16(kernel), (1, 1), ((7, 7), (0, 0)))
  assert found.dtype == jnp.bfloat16
  errors = [np.abs(np.asarray(y, np.float32) - exact).mean() for y in (found, plain)]
  assert errors[0] <= 1.05 * errors[1]


def test_the_platform_decides():
  assert ops.of_platform("tpu") is ops.TPU and ops.of_platform() is ops.of_platform("cpu") is ops.CPU
  assert ops.of_platform("gpu") is ops.PLAIN
