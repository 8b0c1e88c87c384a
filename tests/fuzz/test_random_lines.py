"""Random command lines: no traceback, one line for a mistake, and nothing of the user's changed by one."""

import random

import pytest

from tests.fuzz import cases, command_lines
from tests.fuzz.outcome import as_command, run
from tests.fuzz.world import signatures

NUM_LINES = 5_000
PART = 1_000


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, NUM_LINES, PART))
def test_a_random_command_line_is_one_line_and_loses_nothing(first, world):
  faults = []
  for index in range(first, first + PART):
    if cases.is_chosen(str(index)):
      line = command_lines.random_line(random.Random(f"{cases.SEED} {index}"))
      faults += [(f"{index}  {as_command(line)}", fault) for fault in faults_of(world, line)]
  cases.check(faults)


def faults_of(world, line):
  before = signatures(world.path)
  outcome = run(line)
  after = signatures(world.path)
  faults = outcome.faults((0, 1, 75) if line[0] == "gcn_flax" else (0, 1), lines=line[0] == "data.prepare")
  changed = [name for name in before if before[name] != after.get(name)]
  if outcome.status == 1 and "pictures were left out" not in outcome.error:  # All others are written.
    made = [name for name in after if name not in before and not name.endswith("/lock")]
    faults += [f"a failed command changed {name}" for name in changed if not name.endswith("/lock")]
    faults += [f"a failed command made {name}" for name in made]
  if before != after:
    world.put_back()
  return faults
