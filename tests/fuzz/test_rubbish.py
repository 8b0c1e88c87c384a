"""Every state file of a run and of its data set replaced by rubbish, and every command on it."""

import random

import pytest

from tests.fuzz import cases, commands, rubbish
from tests.fuzz.outcome import run
from tests.fuzz.world import signatures


@pytest.mark.slow
@pytest.mark.parametrize("kind", rubbish.KINDS)
def test_rubbish_in_place_of_a_state_file_is_one_line_and_loses_nothing(kind, readers, world):
  faults = []
  for file, names in readers.items():
    for name in names if kind in rubbish.kinds_for(world.path / file) else ():
      case = f"{kind}|{commands.stable_name(file)}|{name}"
      if cases.is_chosen(case):
        faults += [(f"'{case}'", fault) for fault in faults_of(world, kind, file, name)]
  cases.check(faults)


def faults_of(world, kind, file, name):
  """Runs a command on a world with one file replaced; returns its faults, and puts the world back."""
  command = commands.COMMANDS[name]
  rubbish.put(kind, world.path / file, random.Random(f"{cases.SEED} {kind} {commands.stable_name(file)}"))
  before = signatures(world.path)
  outcome = run(command.arguments)
  faults = outcome.faults((0, 1), command.error_lines)
  # Damaged records are found while a command works, which may have written a part by then.
  status = 0 if "array_record" in file else outcome.status
  faults += commands.lost_or_changed(command, before, signatures(world.path), status)
  if file != "run/metrics.jsonl" and name == "train":
    faults += commands.lost_metrics(world, outcome.stderr)
  if outcome.error and not names(file, outcome.error):
    faults.append(f"does not name the file: {outcome.error[:300]}")
  world.put_back()
  return faults


def names(file, error):
  """Returns True if an error names a file, or a folder that holds it; changed settings are those of "the workdir"."""
  parts = file.split("/")
  return "the workdir was begun with other settings" in error or any(
    "/".join(parts[:length]) in error for length in range(1, len(parts) + 1)
  )
