"""The block of docs/figures/results.py that compares the paper's claims with what was measured."""

import dataclasses
import statistics

from docs.figures.results_format import RUNS, table
from gcn_flax.reporting import paper
from launch import records
from launch.ablation_run import Run

_DATA = {"shapes": "shapes", "camvid": "CamVid"}
_MAX_SEEDS = 10

Term = tuple[str, str]  # A cell of configs/ablation.py and a metric.


@dataclasses.dataclass(frozen=True)
class Claim:
  """A claim of the paper: the sum of some metrics is larger than that of others.

  Attributes:
    table: table of the paper.
    text: the claim.
    more, less: metrics that are added and subtracted.
  """

  table: int
  text: str
  more: tuple[Term, ...]
  less: tuple[Term, ...]


def _ahead(table_number: int, text: str, ours: str, other: str, measure: str = "mean_iou") -> Claim:
  prefix = f"table{table_number}-"
  return Claim(table_number, text, ((prefix + ours, measure),), ((prefix + other, measure),))


_INTERNAL, _BOUNDARY = "internal_accuracy", "boundary_accuracy"
CLAIMS = (
  _ahead(1, "GCN with k = 15 is ahead of 1 x 1 heads", "k15", "base"),
  _ahead(1, "k = 15 is ahead of k = 3", "k15", "k3"),
  _ahead(2, "GCN with k = 7 is ahead of one 7 x 7 convolution", "gcn-k7", "trivial-k7"),
  _ahead(3, "GCN with k = 7 is ahead of a stack of 3 x 3 convolutions", "gcn-k7", "stack-k7"),
  Claim(
    5,
    "GCN gains more inside of objects than at boundaries",
    (("table5-gcn", _INTERNAL), ("table5-base", _BOUNDARY)),
    (("table5-base", _INTERNAL), ("table5-gcn", _BOUNDARY)),
  ),
  _ahead(5, "BR raises the accuracy at boundaries", "gcn-br", "gcn", _BOUNDARY),
  _ahead(5, "BR raises mIoU", "gcn-br", "gcn"),
  _ahead(6, "ResNet50-GCN is ahead of ResNet-50, 1 x 1 heads", "resnet50_gcn-base", "resnet50-base"),
  _ahead(6, "ResNet50-GCN is ahead of ResNet-50, GCN with BR", "resnet50_gcn-gcn-br", "resnet50-gcn-br"),
)


def claims() -> str:
  """Returns each claim with the paper's difference, ours of each seed, and whether it holds."""
  header = ["claim", "table", "the paper, points"]
  header += [f"{title}{column}" for title in _DATA.values() for column in (", points: mean (each seed)", ": holds")]
  rows = []
  for claim in CLAIMS:
    row = [claim.text, str(claim.table), f"{_difference(claim, _PAPER):+.1f}"]
    for data in _DATA:
      found = _differences(claim, data)
      each = " / ".join(f"{value:+.1f}" for value in found)
      row += [f"{statistics.mean(found):+.1f} ({each})", _verdict(found)] if found else ["-", "not measured"]
    rows.append(row)
  return table(header, rows)


def _verdict(differences: list[float]) -> str:
  """Returns whether the sign of a difference is the claimed one in every seed."""
  if all(value > 0 for value in differences):
    return "yes"
  return "no" if all(value <= 0 for value in differences) else "not in every seed"


def _difference(claim: Claim, values: dict[Term, float]) -> float:
  return sum(values[term] for term in claim.more) - sum(values[term] for term in claim.less)


_PAPER = {(figure.cell, figure.measure): figure.value for figure in paper.FIGURES if figure.cell}


def _differences(claim: Claim, data: str) -> list[float]:
  """Returns the difference in points for each seed that has a record of all cells."""
  found = [_values(claim, data, seed) for seed in range(_MAX_SEEDS)]
  return [_difference(claim, values) for values in found if values]


def _values(claim: Claim, data: str, seed: int) -> dict[Term, float] | None:
  terms = (*claim.more, *claim.less)
  paths = {term: Run(term[0], data, seed, RUNS, RUNS).record_path for term in terms}
  if not all(path.exists() for path in paths.values()):
    return None
  return {term: 100 * records.read(path)["last"][term[1]] for term, path in paths.items()}
