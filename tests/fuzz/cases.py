"""The seed of the fuzzer, the choice of its cases, and the report of their faults.

Environment variables: GCN_FUZZ_SEED, text, "1" by default; GCN_FUZZ_ONLY, part of the name of the cases to run.
"""

import os
import re
from collections.abc import Sequence

SEED = os.environ.get("GCN_FUZZ_SEED", "1")
_ONLY = os.environ.get("GCN_FUZZ_ONLY", "")


def is_chosen(case: str) -> bool:
  """Returns True if a case is to be run; its name is a number, or kind|file|command."""
  return _ONLY in (("", case) if case.isdigit() else case)


def check(faults: Sequence[tuple[str, str]]) -> None:
  """Raises AssertionError listing faults, given as (case, text), if there are any."""
  assert not faults, f"GCN_FUZZ_SEED={SEED}: {_grouped(faults)}"


def _grouped(faults: Sequence[tuple[str, str]], limit: int = 40) -> str:
  """Returns faults, given as (case, text), as text: those of the same kind once, with their number and one case."""
  groups = {}
  for case, text in faults:
    groups.setdefault(re.sub(r"--\S+|config\.\S+|\d+|'[^']*'|\S*/\S*|\([^)]*\)", "#", text)[:80], []).append(
      (case, text)
    )
  ordered = sorted(groups.values(), key=len, reverse=True)
  lines = [f"{len(group)} x {group[0][1][:400]}\n    GCN_FUZZ_ONLY={group[0][0][:600]}" for group in ordered[:limit]]
  return "\n".join([f"{len(faults)} faults of {len(groups)} kinds", *lines])
