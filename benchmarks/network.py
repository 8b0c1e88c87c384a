"""The flags of the benchmarks that compare one network with PyTorch's."""

import argparse

import jax

from benchmarks import script
from gcn_flax.labels import IGNORE
from gcn_flax.models import resnet
from gcn_flax.rounding import round_up


def parser(description: str) -> argparse.ArgumentParser:
  """Returns a parser with the flags of the network, its batch and the rounds."""
  result = script.parser(description)
  result.add_argument("--backbone", default="resnet50", choices=tuple(resnet.BACKBONES), help="encoder")
  result.add_argument("--size", type=int, default=256, help="side of the square images in pixels, a multiple of 32")
  result.add_argument("--batch", type=int, default=2, help="images in a batch")
  result.add_argument("--kernel_size", type=int, default=15, help="k of the heads, odd")
  result.add_argument("--num_classes", type=int, default=21, help="classes to predict")
  result.add_argument("--repeats", type=int, default=7, help="number of rounds; each times every rival once")
  return result


def add_dtype(parser: argparse.ArgumentParser) -> None:
  """Adds the flag --dtype, by default bfloat16 on a GPU and float32 elsewhere."""
  default = "bfloat16" if jax.default_backend() == "gpu" else "float32"
  parser.add_argument("--dtype", default=default, choices=("float32", "bfloat16"), help="of activations")


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
  """Returns the arguments. Exits with a message if one is out of range."""
  args = parser.parse_args()
  for name in ("size", "batch", "kernel_size", "repeats"):
    if getattr(args, name) < 1:
      parser.error(f"--{name}={getattr(args, name)}: must be at least 1")
  if args.size % 32:
    parser.error(f"--size={args.size}: must be a multiple of 32. Use {round_up(args.size, 32)}")
  if args.kernel_size % 2 == 0:
    parser.error(f"--kernel_size={args.kernel_size}: must be odd. Use {args.kernel_size + 1}")
  if not 2 <= args.num_classes <= IGNORE:
    parser.error(f"--num_classes={args.num_classes}: must be from 2 to {IGNORE}")
  return args
