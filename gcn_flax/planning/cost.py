"""What a program costs, read off what the compiler wrote (TPU) or off the program before it (any machine)."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator

from jax.extend import core

_ELEMENT_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s32": 4, "u32": 4, "f32": 4}
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_NAME = re.compile(r'op_name="([^"]*)"')
_PART = re.compile(r"\b(encoder\)?/(conv1|bn1|layer\d)|encoder|head\d|refine_head\d|refine\d|deconv\d)")
_OPERATION = re.compile(r" = (\(.*?\)|\S+) ([a-z\-]+)\(")
_SHAPE = re.compile(r"\b([a-z]+\d+|pred)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
  """One exchange between devices.

  Attributes:
    kind: `all-reduce`, `all-gather`, `reduce-scatter`, `all-to-all` or `collective-permute`.
    size: bytes of its result on one device.
    times: how often it takes place in a step.
  """

  kind: str
  size: int
  times: int

  def sent(self, devices: int) -> int:
    """Bytes that one device sends in all of them, by a ring over `devices`."""
    share = (devices - 1) / devices
    factor = {"all-reduce": 2 * share, "reduce-scatter": devices - 1, "collective-permute": 1}.get(self.kind, share)
    return round(self.times * self.size * factor)


@dataclasses.dataclass(frozen=True)
class Account:
  """What libtpu's compiled text tells of one step on one device.

  Attributes:
    cycles: sum of the compiler's estimates; it has none for exchanges, copies between memories, and windows that are
      reduced or selected from (max-pool and its gradient).
    by_part: the same by part of the network, `encoder/layer1`, `head2`, `refine0`, `deconv1` and so on; what is in
      none of them (loss, images, update) is `the rest`.
    collectives: exchanges between devices.
  """

  cycles: int
  by_part: dict[str, int]
  collectives: list[Collective]


def account(text: str) -> Account:
  """Adds up a compiled program, loops as often as they run. Raises ValueError where it is not libtpu's."""
  computations, entry = _computations(text)
  if not _CYCLES.search(text):
    raise ValueError("the compiled program has no estimated cycles: another libtpu, or not one?")
  by_part, collectives = collections.Counter(), []
  for line, times in _lines(computations, entry, 1):
    found = _CYCLES.search(line)
    if found:
      by_part[_part(line)] += times * int(found[1])
    operation = _OPERATION.search(line)
    kind = operation[2].removesuffix("-start") if operation else ""
    if kind in _COLLECTIVES:
      sizes = [_size(*shape) for shape in _SHAPE.findall(operation[1])]
      # But for all-reduce, the start of an exchange has operand and result, and flags of a few bytes.
      twice = operation[2].endswith("-start") and kind != "all-reduce"
      size = max(sizes) if twice else sum(sizes)
      collectives.append(Collective(kind, size, times))
  return Account(sum(by_part.values()), dict(by_part.most_common()), collectives)


def _part(line: str) -> str:
  name = _NAME.search(line)
  found = _PART.search(name[1]) if name else None
  return found[0].replace(")", "") if found else "the rest"


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
  computations, entry, here = {}, "", []
  for line in text.splitlines():
    head = _COMPUTATION.match(line)
    if head:
      here = computations.setdefault(head[2], [])
      entry = head[2] if head[1] else entry
    elif line.startswith("  "):
      here.append(line)
  return computations, entry


def _lines(computations: dict[str, list[str]], name: str, times: int) -> Iterator[tuple[str, int]]:
  """(line, how often it runs) of a computation and of the loops and calls in it; a fusion's inside has no cost."""
  for line in computations.get(name, []):
    yield line, times
    loop = re.search(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)", line)
    if loop:
      yield from _lines(computations, loop[2], times * _trips(computations.get(loop[1], [])))
    for inner in re.findall(r" call\(.*to_apply=%?([\w.\-]+)", line):
      yield from _lines(computations, inner, times)


def _trips(condition: list[str]) -> int:
  """The constant that a loop counts up to; 1 where it has none."""
  limits = [int(value) for line in condition for value in re.findall(r"s32\[\]\S* constant\((\d+)\)", line)]
  return max(limits, default=1)


def _size(element: str, dimensions: str) -> int:
  return _ELEMENT_BYTES.get(element, 4) * math.prod(int(side) for side in dimensions.split(",") if side)


def flops(jaxpr: core.Jaxpr) -> int:
  """Multiplications and additions of all convolutions and matrix products of a program, loops as often as they run."""
  total = 0
  for equation in jaxpr.eqns:
    times = equation.params["length"] if equation.primitive.name == "scan" else 1
    total += times * sum(flops(inner) for inner in core.jaxprs_in_params(equation.params))
    if equation.primitive.name == "conv_general_dilated":
      total += _convolution(equation)
    elif equation.primitive.name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      left = equation.invars[0].aval.shape
      total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
  return total


def _convolution(equation: core.JaxprEqn) -> int:
  numbers = equation.params["dimension_numbers"]
  kernel = equation.invars[1].aval.shape
  per_output = math.prod(kernel[axis] for axis in numbers.rhs_spec[2:]) * kernel[numbers.rhs_spec[1]]
  # Between dilated inputs stand zeros, which do not count.
  return 2 * math.prod(equation.outvars[0].aval.shape) * per_output // math.prod(equation.params["lhs_dilation"])


def peak_bytes(jaxpr: core.Jaxpr) -> int:
  """Bytes in use at the worst moment of a program, in its own order, each value from its making to its last use.

  No fusion: where a compiler makes several operations into one, what is between them takes no memory.
  """
  last = {value: len(jaxpr.eqns) for value in jaxpr.outvars if isinstance(value, core.Var)}
  for index, equation in reversed(list(enumerate(jaxpr.eqns))):
    for value in equation.invars:
      if isinstance(value, core.Var):
        last.setdefault(value, index)
  dying = collections.defaultdict(list)
  for value, index in last.items():
    dying[index].append(value)
  used = peak = sum(map(_bytes, (*jaxpr.invars, *jaxpr.constvars)))
  for index, equation in enumerate(jaxpr.eqns):
    inside = max(
      (peak_bytes(inner) - sum(map(_bytes, inner.invars)) for inner in core.jaxprs_in_params(equation.params)),
      default=0,
    )
    made = sum(_bytes(value) for value in equation.outvars if value in last)
    peak = max(peak, used + max(made, inside))
    used += made - sum(_bytes(value) for value in dying[index])
  return peak


def _bytes(value: core.Var) -> int:
  shape = value.aval
  return math.prod(shape.shape) * shape.dtype.itemsize if hasattr(shape, "shape") else 0
