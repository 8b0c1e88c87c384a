"""Cost of a step, from compiled text and from jaxprs."""

import jax
import jax.numpy as jnp
import pytest

from gcn_flax.planning import cost

HLO = """HloModule jit_step

%fused.1 (p: f32[8]) -> f32[8] {
  ROOT %add = f32[8]{0} add(%p, %p), backend_config={"estimated_cycles":"999"}
}

%body (arg: (s32[], f32[8])) -> (s32[], f32[8]) {
  %work = f32[8]{0} fusion(%x), calls=%fused.1, backend_config={"window_config":{"estimated_cycles":"100"}}
  %swap = (bf16[4,2]{1,0:T(2,128)(2,1)}, bf16[4,2]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x)
  ROOT %t = (s32[], f32[8]) tuple(%i, %work)
}

%condition (arg: (s32[], f32[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(7)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %first = f32[8]{0} copy(%x), metadata={op_name="N/encoder/layer1_0/dot"}, backend_config={"estimated_cycles":"30"}
  %loop = (s32[], f32[8]) while(%tuple), condition=%condition, body=%body
  %sum = (f32[10]{0:T(128)}, f32[5,2]{1,0}) all-reduce(%a, %b), to_apply=%region
  ROOT %last = f32[8]{0} copy(%y), backend_config={"estimated_cycles":"5"}
}
"""
UNESTIMATED_HLO = """HloModule jit_step

ENTRY %main (x: f32[8]) -> f32[8] {
  ROOT %y = f32[8]{0} copy(%x)
}
"""


def test_compiled_cost_counts_loops_once_per_iteration():
  compiled_cost = cost.compiled_cost(HLO)
  assert compiled_cost.cycles == 30 + 7 * 100 + 5
  assert compiled_cost.cycles_by_part == {"the rest": 705, "encoder/layer1": 30}
  assert compiled_cost.collectives == [
    cost.Collective("collective-permute", num_bytes=16, count=7),
    cost.Collective("all-reduce", num_bytes=80, count=1),
  ]


def test_compiled_cost_needs_estimated_cycles():
  with pytest.raises(ValueError, match="no estimated cycles"):
    cost.compiled_cost(UNESTIMATED_HLO)


@pytest.mark.parametrize(
  "kind, sent",
  [("all-reduce", 150), ("all-gather", 75), ("reduce-scatter", 300), ("all-to-all", 75), ("collective-permute", 100)],
)
def test_bytes_sent_on_a_ring_of_four(kind, sent):
  assert cost.Collective(kind, num_bytes=100, count=1).bytes_sent(4) == sent
  assert cost.Collective(kind, num_bytes=100, count=3).bytes_sent(4) == 3 * sent


def jaxpr(function, *shapes):
  return jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)).jaxpr


def convolve(image, kernel, **options):
  return jax.lax.conv_general_dilated(
    image, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
  )


def test_flops():
  assert cost.flops(jaxpr(jnp.dot, (5, 7), (7, 11))) == 2 * 5 * 7 * 11
  image, kernel = (2, 8, 8, 3), (3, 3, 3, 4)
  once = 2 * 2 * 8 * 8 * 4 * 3 * 3 * 3
  assert cost.flops(jaxpr(convolve, image, kernel)) == once
  assert cost.flops(jaxpr(jax.jit(convolve), image, kernel)) == once
  # Half of the inputs along each axis are zeros between the others.
  dilated = jaxpr(lambda x, k: convolve(x, k, lhs_dilation=(2, 2)), image, kernel)
  assert cost.flops(dilated) == 2 * 2 * 15 * 15 * 4 * 27 // 4
  repeated = jaxpr(lambda x, k: jax.lax.scan(lambda c, _: (convolve(c, k), None), x, None, 5)[0], image, (3, 3, 3, 3))
  assert cost.flops(repeated) == 5 * once * 3 // 4
  # A gradient costs twice the forward pass, except at the border.
  gradient = jaxpr(jax.grad(lambda x, k: convolve(x, k).sum(), argnums=(0, 1)), image, kernel)
  assert 2 * once <= cost.flops(gradient) <= 3.5 * once


def test_peak_bytes_keeps_values_until_their_last_use():
  chain = jaxpr(lambda x: jnp.sin(jnp.sin(jnp.sin(x))), (100,))
  assert cost.peak_bytes(chain) == 2 * 400  # Input and output of one operation.
  kept = jaxpr(lambda x: (jnp.sin(x) + jnp.sin(jnp.cos(jnp.tan(x)))) * x, (100,))
  assert cost.peak_bytes(kept) == 4 * 400
  inside = jaxpr(lambda x: jax.jit(lambda y: jnp.outer(y, y).sum())(x), (100,))
  assert cost.peak_bytes(inside) == 400 + 400 + 4 * 100 * 100  # The vector, the vector as a row, and the product.
