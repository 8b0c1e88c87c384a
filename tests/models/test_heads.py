import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gcn_flax.models.heads import BoundaryRefine, ConvStack, GlobalConv, PointwiseConv, TrivialConv
from tests.models.comparison import TOLERANCE, assert_close, random_array, random_variables
from tests.torch_reference import (
  TorchBoundaryRefine,
  TorchConv,
  TorchConvStack,
  TorchGlobalConv,
  load_flax,
  to_numpy,
  to_torch,
)


def count_parameters(module, channels: int) -> int:
  shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 16, 16, channels), jnp.float32))
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize("k, expected", [(3, 260_694), (5, 434_490), (7, 608_286), (9, 782_082)])
def test_parameters_of_global_conv_in_table_2(k, expected):
  assert count_parameters(GlobalConv(21, k, use_bias=False), 2048) == expected


@pytest.mark.parametrize("k, expected", [(3, 387_072), (5, 1_075_200), (7, 2_107_392), (9, 3_483_648)])
def test_parameters_of_trivial_conv_in_table_2(k, expected):
  assert count_parameters(TrivialConv(21, k, use_bias=False), 2048) == expected


@pytest.mark.parametrize("width, expected", [(2048, 75_884_544), (1024, 28_505_088), (210, 4_307_310)])
def test_parameters_of_conv_stack_in_table_4(width, expected):
  assert count_parameters(ConvStack(21, 7, width, use_bias=False), 2048) == expected


@pytest.mark.parametrize(
  "module, biases",
  [(GlobalConv(21, 7), 4 * 21), (TrivialConv(21, 7), 21), (ConvStack(21, 7, 8), 2 * 8 + 21), (PointwiseConv(21), 21)],
)
def test_heads_have_biases_unless_switched_off(module, biases):
  assert count_parameters(module, 16) - count_parameters(module.clone(use_bias=False), 16) == biases


@pytest.mark.parametrize(
  "module, k",
  [
    (GlobalConv(3, 3), 3),
    (GlobalConv(3, 9), 9),
    (TrivialConv(3, 3), 3),
    (TrivialConv(3, 9), 9),
    (ConvStack(3, 3, 4), 3),
    (ConvStack(3, 9, 4), 9),
    (PointwiseConv(3), 1),
  ],
)
def test_centre_pixel_sees_exactly_its_window(module, k):
  x = random_array(1, 13, 15, 2)
  variables = random_variables(module, x)
  gradient = jax.grad(lambda x: module.apply(variables, x)[0, 6, 7, 1])(x)
  seen = np.zeros((13, 15), bool)
  seen[6 - k // 2 : 7 + k // 2, 7 - k // 2 : 8 + k // 2] = True
  np.testing.assert_array_equal(np.all(gradient[0] != 0, -1), seen)
  np.testing.assert_array_equal(np.any(gradient[0] != 0, -1), seen)


HEADS = {
  "gcn": (GlobalConv(4, 5), lambda: TorchGlobalConv(3, 4, 5)),
  "gcn_no_bias": (GlobalConv(4, 7, use_bias=False), lambda: TorchGlobalConv(3, 4, 7, bias=False)),
  "gcn_1": (GlobalConv(4, 1), lambda: TorchGlobalConv(3, 4, 1)),
  "trivial": (TrivialConv(4, 5), lambda: TorchConv(3, 4, 5)),
  "trivial_no_bias": (TrivialConv(4, 3, use_bias=False), lambda: TorchConv(3, 4, 3, bias=False)),
  "stack": (ConvStack(4, 7, 6), lambda: TorchConvStack(3, 4, 7, 6)),
  "stack_of_one": (ConvStack(4, 3, 6), lambda: TorchConvStack(3, 4, 3, 6)),
  "pointwise": (PointwiseConv(4), lambda: TorchConv(3, 4)),
}


@pytest.mark.parametrize("name", HEADS)
def test_head_equals_torch(name):
  module, make_reference = HEADS[name]
  x = random_array(2, 9, 14, 3)
  variables = random_variables(module, x)
  expected = load_flax(make_reference(), variables)(to_torch(x))
  assert_close(module.apply(variables, x), to_numpy(expected), TOLERANCE)


@pytest.mark.parametrize("module", [GlobalConv(4, 5, False), TrivialConv(4, 5, False), ConvStack(4, 5, 6, False)])
def test_head_has_no_nonlinearity(module):
  x, y = random_array(1, 8, 9, 3), random_array(1, 8, 9, 3, seed=1)
  variables = random_variables(module, x)
  separate = 2 * module.apply(variables, x) - 3 * module.apply(variables, y)
  assert_close(module.apply(variables, 2 * x - 3 * y), separate, TOLERANCE)


def test_boundary_refine_equals_torch():
  x = random_array(2, 7, 11, 5)
  variables = random_variables(BoundaryRefine(), x)
  expected = load_flax(TorchBoundaryRefine(5), variables)(to_torch(x))
  assert_close(BoundaryRefine().apply(variables, x), to_numpy(expected), TOLERANCE)


def test_boundary_refine_with_a_second_kernel_of_zeros_begins_as_the_identity():
  x = random_array(1, 8, 6, 3)
  refined, _ = BoundaryRefine(last_init=nn.initializers.zeros).init_with_output(jax.random.key(0), x)
  np.testing.assert_array_equal(refined, x)
  refined, _ = BoundaryRefine().init_with_output(jax.random.key(0), x)
  assert (refined != x).all()


@pytest.mark.parametrize("k", [2, 4, 0, -3])
@pytest.mark.parametrize("make", [GlobalConv, TrivialConv, lambda features, k: ConvStack(features, k, 4)])
def test_a_kernel_without_a_centre_is_refused(make, k):
  with pytest.raises(ValueError, match=f"kernel_size={k}: must be odd"):
    make(3, k).init(jax.random.key(0), np.zeros((1, 8, 8, 2)))


def test_a_stack_without_convolutions_is_refused():
  with pytest.raises(ValueError, match="kernel_size=1"):
    ConvStack(3, 1, 4).init(jax.random.key(0), np.zeros((1, 8, 8, 2)))
