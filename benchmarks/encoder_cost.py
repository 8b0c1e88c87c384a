"""Counts multiply-adds and parameters of the encoders from their jaxprs.

  python benchmarks/encoder_cost.py --json=runs/encoder_cost.json

Multiply-adds are those of all convolutions, for one image of --size x --size; parameters are those of convolutions and
batch normalization, without running statistics. The paper (section 4.1.2, Table 11) gives 3,700M multiply-adds at
224 x 224 for both ResNet-50 and ResNet50-GCN. Nothing runs: the figures are the same on every machine.
"""

import math
import pathlib
import sys
from collections.abc import Iterator

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import jax  # noqa: E402
import jax.extend.core  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from benchmarks import script, timing  # noqa: E402
from gcn_flax import distributed  # noqa: E402
from gcn_flax.models.ops import REFERENCE  # noqa: E402
from gcn_flax.models.resnet import BACKBONES  # noqa: E402

# Variants to compare with the paper's figure: (name, backbone, whether a block's stride is in its first 1 x 1).
VARIANTS = [
  *((name, name, False) for name in BACKBONES if name != "resnet_tiny"),
  ("resnet50, stride in the 1 x 1", "resnet50", True),
  ("resnet50_gcn, stride in the 1 x 1", "resnet50_gcn", True),
]


def main() -> None:
  """Prints the table and writes the JSON file."""
  distributed.skip_libtpu()
  parser = script.parser("Counts multiply-adds and parameters of the encoders.")
  parser.add_argument("--size", type=int, default=224, help="side of the image in pixels, a multiple of 32")
  args = parser.parse_args()
  found = {name: cost(backbone, stride, args.size) for name, backbone, stride in VARIANTS}
  rows = [
    (name, f"{figures['multiply_adds'] / 1e6:,.0f}", f"{figures['parameters'] / 1e6:.2f}")
    for name, figures in found.items()
  ]
  print(timing.table(("encoder", f"multiply-adds at {args.size} x {args.size}, M", "parameters, M"), rows))
  script.write_json(args.json, {"size": args.size, "encoders": found})


def cost(backbone: str, stride_in_1x1: bool, size: int) -> dict[str, int]:
  """Returns the `multiply_adds` for one image of `size` x `size`, and the number of `parameters`."""
  encoder = BACKBONES[backbone](stride_in_1x1=stride_in_1x1, ops=REFERENCE)
  image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  variables = jax.eval_shape(lambda image: encoder.init(jax.random.key(0), image, train=False), image)
  program = jax.make_jaxpr(lambda variables, image: encoder.apply(variables, image, train=False))(variables, image)
  return {
    "multiply_adds": sum(_multiply_adds(program.jaxpr)),
    "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
  }


def _multiply_adds(jaxpr) -> Iterator[int]:
  """Yields the multiply-adds of each convolution in a jaxpr and in the jaxprs it calls."""
  for equation in jaxpr.eqns:
    if equation.primitive.name == "conv_general_dilated":
      kernel = equation.invars[1].aval.shape
      outputs = equation.params["dimension_numbers"].rhs_spec[0]
      yield math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // kernel[outputs]
    for inner in jax.extend.core.jaxprs_in_params(equation.params):
      yield from _multiply_adds(inner)


if __name__ == "__main__":
  main()
