"""The fused Boundary Refinement equals the plain one, and can be lowered for NVIDIA GPUs; no test runs it on one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gcn_flax.models import gpu_ops
from gcn_flax.models.gcn import GCN
from gcn_flax.models.heads import BoundaryRefine
from gcn_flax.models.layout import FeatureMap, Layout
from gcn_flax.models.ops import GPU, GPU_FUSED, REFERENCE, use_ops
from tests.models.comparison import assert_close, assert_same_function, quick_jit, random_array, random_variables


def refine(ops, dtype=jnp.float32):
  """Returns `(variables, x) -> BR(x)` with the given ops, and with the channel padding that they ask for."""

  def apply(variables, x):
    layout = Layout(x.shape[-1])
    with use_ops(ops):
      scores = FeatureMap(x.astype(dtype), layout).to(Layout(layout.channels, width=ops.padded(layout.channels)))
      return BoundaryRefine(dtype).apply(variables, scores).plain().astype(jnp.float32)

  return apply


def inputs(*shape):
  x = random_array(*shape)
  return random_variables(BoundaryRefine(), x), x


SLOW_SHAPES = [
  pytest.param((1, 32, 62, 16), marks=pytest.mark.slow),
  pytest.param((1, 3, 130, 5), marks=pytest.mark.slow),
]


# Strips have 62 columns and chunks 32 rows, so that these have one or several, whole or not.
@pytest.mark.parametrize("shape", [(2, 5, 7, 19), (1, 35, 64, 21), *SLOW_SHAPES])
def test_the_fused_block_equals_the_reference(shape):
  assert_same_function(refine(GPU_FUSED), refine(REFERENCE), *inputs(*shape))


def rounded(x):
  """Rounds to what bfloat16 can hold, so that both dtypes begin with the same numbers."""
  return np.asarray(jnp.asarray(x).astype(jnp.bfloat16), np.float32)


def test_in_bfloat16_it_is_closer_to_float32_than_two_convolutions_are():
  variables, x = jax.tree.map(rounded, inputs(1, 35, 70, 21))
  weights = rounded(random_array(*x.shape, seed=9))

  def result_and_gradients(ops, dtype):
    def weighted_sum(variables, x):
      y = refine(ops, dtype)(variables, x)
      return jnp.sum(weights * y), y

    (_, y), gradients = quick_jit(jax.value_and_grad(weighted_sum, (0, 1), has_aux=True))(variables, x)
    return jax.tree.leaves((y, gradients))

  exact = result_and_gradients(REFERENCE, jnp.float32)
  plain, fused = (result_and_gradients(ops, jnp.bfloat16) for ops in (GPU, GPU_FUSED))
  for one, other, expected in zip(fused, plain, exact, strict=True):
    assert_close(one, expected, 5e-3)
    assert np.abs(one - expected).max() <= np.abs(other - expected).max()


def test_padding_of_the_hidden_map_is_zero_and_not_what_the_bias_gives():
  variables, x = inputs(1, 4, 4, 3)
  variables["params"]["conv1"]["bias"] += 10
  assert_close(refine(GPU_FUSED)(variables, x), refine(REFERENCE)(variables, x))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_it_lowers_to_triton_for_nvidia_gpus(dtype):
  """Forward and backward: three kernels in the lowered program."""
  x, kernel, bias = jnp.zeros((2, 64, 64, 32), dtype), jnp.zeros((3, 3, 32, 32)), jnp.zeros(32)
  refine = functools.partial(gpu_ops.boundary_refine, interpret=False)
  gradients = jax.jit(lambda *inputs: jax.vjp(refine, *inputs)[1](inputs[0]))
  forward = jax.jit(refine).trace(x, kernel, bias, kernel, bias).lower(lowering_platforms=("cuda",)).as_text()
  backward = gradients.trace(x, kernel, bias, kernel, bias).lower(lowering_platforms=("cuda",)).as_text()
  assert [text.count("__gpu$xla.gpu.triton") for text in (forward, backward)] == [1, 2]


def test_only_the_fused_ops_use_it_and_parameters_are_the_same():
  network, images = GCN(21, "resnet_tiny", 3), jnp.zeros((1, 32, 32, 3))

  def program_and_shapes(ops):
    module = network.clone(ops=ops)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), images, train=False))
    return str(jax.make_jaxpr(lambda v: module.apply(v, images, train=False))(shapes)), shapes

  (plain, shapes), (fused, fused_shapes) = (program_and_shapes(ops) for ops in (GPU, GPU_FUSED))
  assert "pallas_call" in fused and "pallas_call" not in plain and shapes == fused_shapes
