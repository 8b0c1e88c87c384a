"""Cost of a train step: cycles and collectives from libtpu's compiled text, FLOPs and memory from any jaxpr."""

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
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_PART = re.compile(r"\b(encoder\)?/(conv1|bn1|layer\d)|encoder|head\d|refine_head\d|refine\d|deconv\d)")
_OPERATION = re.compile(r" = (\(.*?\)|\S+) ([a-z\-]+)\(")
_SHAPE = re.compile(r"\b([a-z]+\d+|pred)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
  """A collective operation between devices.

  Attributes:
    kind: `all-reduce`, `all-gather`, `reduce-scatter`, `all-to-all` or `collective-permute`.
    num_bytes: size of its result on one device.
    count: number of times that it runs in a step.
  """

  kind: str
  num_bytes: int
  count: int

  def bytes_sent(self, num_devices: int) -> int:
    """Returns the bytes that one device sends in all `count` of them, on a ring of `num_devices`."""
    share = (num_devices - 1) / num_devices
    factor = {"all-reduce": 2 * share, "reduce-scatter": num_devices - 1, "collective-permute": 1}.get(self.kind, share)
    return round(self.count * self.num_bytes * factor)


@dataclasses.dataclass(frozen=True)
class CompiledCost:
  """Cost of one step on one device, from libtpu's compiled text.

  Attributes:
    cycles: sum of the compiler's estimates. It has none for collectives, copies between memories, and reduce-window and
      select-and-scatter (max-pooling and its gradient).
    cycles_by_part: the same by part of the network, such as `encoder/layer1`, `head2`, `refine0`, `deconv1`; loss,
      image normalisation and weight update are `the rest`.
    collectives: all collectives of the step.
  """

  cycles: int
  cycles_by_part: dict[str, int]
  collectives: list[Collective]


def compiled_cost(text: str) -> CompiledCost:
  """Sums the cost of a compiled step; operations in a loop count once per iteration.

  Args:
    text: `as_text()` of the compiled step.

  Raises:
    ValueError: if the text has no estimated cycles, which libtpu alone writes.
  """
  computations, entry = _computations(text)
  if not _CYCLES.search(text):
    raise ValueError("the compiled step has no estimated cycles: it comes from another compiler or libtpu version.")
  cycles_by_part, collectives = collections.Counter(), []
  for line, count in _executed_lines(computations, entry, 1):
    cycles = _CYCLES.search(line)
    if cycles:
      cycles_by_part[_part(line)] += count * int(cycles[1])
    operation = _OPERATION.search(line)
    kind = operation[2].removesuffix("-start") if operation else ""
    if kind in _COLLECTIVES:
      sizes = [_num_bytes(*shape) for shape in _SHAPE.findall(operation[1])]
      # Except for all-reduce, a `-start` returns operand and result, and flags of a few bytes.
      has_operand = operation[2].endswith("-start") and kind != "all-reduce"
      collectives.append(Collective(kind, max(sizes) if has_operand else sum(sizes), count))
  return CompiledCost(sum(cycles_by_part.values()), dict(cycles_by_part.most_common()), collectives)


def _part(line: str) -> str:
  name = _OP_NAME.search(line)
  part = _PART.search(name[1]) if name else None
  return part[0].replace(")", "") if part else "the rest"


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
  """Returns the lines of each computation by its name, and the name of the entry computation."""
  computations, entry, current = {}, "", []
  for line in text.splitlines():
    head = _COMPUTATION.match(line)
    if head:
      current = computations.setdefault(head[2], [])
      entry = head[2] if head[1] else entry
    elif line.startswith("  "):
      current.append(line)
  return computations, entry


def _executed_lines(computations: dict[str, list[str]], name: str, count: int) -> Iterator[tuple[str, int]]:
  """Yields each line of a computation, its loops and its calls, with the number of times it is executed.

  The computations inside fusions are left out: the fusion's own line holds their cost.
  """
  for line in computations.get(name, []):
    yield line, count
    loop = re.search(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)", line)
    if loop:
      yield from _executed_lines(computations, loop[2], count * _num_iterations(computations.get(loop[1], [])))
    for callee in re.findall(r" call\(.*to_apply=%?([\w.\-]+)", line):
      yield from _executed_lines(computations, callee, count)


def _num_iterations(condition: list[str]) -> int:
  """Returns the constant that a loop's condition counts up to; 1 if it has none."""
  limits = [int(value) for line in condition for value in re.findall(r"s32\[\]\S* constant\((\d+)\)", line)]
  return max(limits, default=1)


def _num_bytes(element: str, dimensions: str) -> int:
  return _ELEMENT_BYTES.get(element, 4) * math.prod(int(side) for side in dimensions.split(",") if side)


def flops(jaxpr: core.Jaxpr) -> int:
  """Counts multiplications and additions of convolutions and matrix products, once per iteration of a scan."""
  total = 0
  for equation in jaxpr.eqns:
    count = equation.params["length"] if equation.primitive.name == "scan" else 1
    total += count * sum(flops(inner) for inner in core.jaxprs_in_params(equation.params))
    if equation.primitive.name == "conv_general_dilated":
      total += _convolution_flops(equation)
    elif equation.primitive.name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      left = equation.invars[0].aval.shape
      total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
  return total


def _convolution_flops(equation: core.JaxprEqn) -> int:
  numbers = equation.params["dimension_numbers"]
  kernel = equation.invars[1].aval.shape
  per_output = math.prod(kernel[axis] for axis in numbers.rhs_spec[2:]) * kernel[numbers.rhs_spec[1]]
  # Input dilation puts zeros between the inputs; products with them are not counted.
  return 2 * math.prod(equation.outvars[0].aval.shape) * per_output // math.prod(equation.params["lhs_dilation"])


def peak_bytes(jaxpr: core.Jaxpr) -> int:
  """Returns the peak memory of a jaxpr run in its own order, each value kept from its definition to its last use.

  Fusion is not modelled: a compiler that merges operations needs no memory for the values between them.
  """
  last_use = {value: len(jaxpr.eqns) for value in jaxpr.outvars if isinstance(value, core.Var)}
  for index, equation in reversed(list(enumerate(jaxpr.eqns))):
    for value in equation.invars:
      if isinstance(value, core.Var):
        last_use.setdefault(value, index)
  freed_after = collections.defaultdict(list)
  for value, index in last_use.items():
    freed_after[index].append(value)
  used = peak = sum(map(_value_bytes, (*jaxpr.invars, *jaxpr.constvars)))
  for index, equation in enumerate(jaxpr.eqns):
    inside = max(
      (peak_bytes(inner) - sum(map(_value_bytes, inner.invars)) for inner in core.jaxprs_in_params(equation.params)),
      default=0,
    )
    outputs = sum(_value_bytes(value) for value in equation.outvars if value in last_use)
    peak = max(peak, used + max(outputs, inside))
    used += outputs - sum(_value_bytes(value) for value in freed_after[index])
  return peak


def _value_bytes(value: core.Var) -> int:
  aval = value.aval
  return math.prod(aval.shape) * aval.dtype.itemsize if hasattr(aval, "shape") else 0
