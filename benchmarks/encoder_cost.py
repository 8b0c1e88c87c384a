"""Multiply-adds and parameters of the encoders, counted from the programs themselves.

  python benchmarks/encoder_cost.py --json=runs/encoder_cost.json

Multiply-adds are those of convolutions, for one image of --size x --size; parameters are those of
convolutions and normalisation, running statistics not among them. The paper (section 4.1.2, Table
11) gives 3,700M multiply-adds at 224 x 224 for both ResNet-50 and ResNet50-GCN. Nothing is run or
timed: the figures are the same on every machine.
"""

import argparse
import json
import math
import pathlib
import sys
from collections.abc import Iterator, Sequence

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import jax  # noqa: E402
import jax.extend.core  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from gcn_flax.models.resnet import BACKBONES  # noqa: E402

# Arrangements whose cost the paper's figure can be compared with: (name, backbone, stride in the first 1 x 1).
ARRANGEMENTS = [
  *((name, name, False) for name in BACKBONES if name != "resnet_tiny"),
  ("resnet50, stride in the 1 x 1", "resnet50", True),
  ("resnet50_gcn, stride in the 1 x 1", "resnet50_gcn", True),
]


def cost(backbone: str, stride_in_1x1: bool, size: int) -> dict[str, int]:
  """`multiply_adds` of an image of `size` x `size`, and `parameters`."""
  encoder = BACKBONES[backbone](stride_in_1x1=stride_in_1x1)
  image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  variables = jax.eval_shape(lambda image: encoder.init(jax.random.key(0), image, train=False), image)
  program = jax.make_jaxpr(lambda variables, image: encoder.apply(variables, image, train=False))(variables, image)
  return {
    "multiply_adds": sum(_multiply_adds(program.jaxpr)),
    "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
  }


def _multiply_adds(program) -> Iterator[int]:
  """Those of each convolution of a program and of the programs it calls."""
  for equation in program.eqns:
    if equation.primitive.name == "conv_general_dilated":
      kernel = equation.invars[1].aval.shape
      outputs = equation.params["dimension_numbers"].rhs_spec[0]
      yield math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // kernel[outputs]
    for inner in jax.extend.core.jaxprs_in_params(equation.params):
      yield from _multiply_adds(inner)


def main(argv: Sequence[str]) -> int:
  """Prints the table, and writes it as JSON where asked to."""
  parser = argparse.ArgumentParser(prog="benchmarks/encoder_cost.py", description="Cost of the encoders.")
  parser.add_argument("--size", type=int, default=224, help="side of the image, a multiple of 32")
  parser.add_argument("--json", default="", help="file for the figures")
  args = parser.parse_args(argv)
  found = {name: cost(backbone, stride, args.size) for name, backbone, stride in ARRANGEMENTS}
  print(f"| encoder | multiply-adds at {args.size} x {args.size}, M | parameters, M |\n| --- | ---: | ---: |")
  for name, figures in found.items():
    print(f"| {name} | {figures['multiply_adds'] / 1e6:,.0f} | {figures['parameters'] / 1e6:.2f} |")
  if args.json:
    pathlib.Path(args.json).write_text(json.dumps({"size": args.size, "encoders": found}, indent=2) + "\n")
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
