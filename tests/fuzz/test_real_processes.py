"""A sample of the fuzzed commands as processes of their own, whose networks, output and exit are real."""

import concurrent.futures
import random
import shutil
import subprocess
import sys

import pytest

from tests.environment import jax_environment
from tests.fuzz import cases, command_lines, commands, rubbish
from tests.fuzz.outcome import Outcome, as_command, run
from tests.fuzz.world import signatures

NUM_LINES = 50
MAX_SECONDS = 200


@pytest.mark.slow
def test_mistakes_end_a_process_as_they_end_a_call(world, tmp_path):
  """Lines that succeed would compile networks of any size."""
  chosen, index = [], 0
  while len(chosen) < NUM_LINES:
    line = command_lines.random_line(random.Random(f"{cases.SEED} process {index}"))
    expected = run(line)
    world.put_back()
    if expected.status == 1:
      chosen.append((f"process {index}", line, expected.error))
    index += 1

  def faults_of(case):
    name, line, error = case
    folder = world.copy(tmp_path / name)
    before = signatures(folder)
    outcome = run_process(line, folder)
    after = signatures(folder)
    faults = outcome.faults((1,), lines=line[0] == "data.prepare")
    faults += [f"{each} was changed" for each in before if before[each] != after.get(each) and each != "run/lock"]
    same = outcome.error.replace(str(folder), "") == error.replace(str(world.path), "")
    faults += [] if same else [f"{outcome.error} instead of {error}"]
    shutil.rmtree(folder)
    return [(f"'{name}'  {as_command(line)}", fault) for fault in faults]

  cases.check(map_in_two_threads(faults_of, [case for case in chosen if cases.is_chosen(case[0])]))


@pytest.mark.slow
def test_rubbish_ends_a_process_with_one_line(readers, world, tmp_path):
  """Each state file with one kind of rubbish and one command, taken in turn."""
  chosen = []
  for index, (file, names) in enumerate(readers.items()):
    kinds = rubbish.kinds_for(world.path / file)
    kind, name = kinds[index % len(kinds)], names[index % len(names)]
    chosen.append((f"process|{kind}|{commands.stable_name(file)}|{name}", file, kind, name))

  def faults_of(arguments):
    case, file, kind, name = arguments
    folder = world.copy(tmp_path / case.replace("/", "_").replace("*", ""))
    rubbish.put(kind, folder / file, random.Random(f"{cases.SEED} {case}"))
    command = commands.COMMANDS[name]
    before = signatures(folder)
    outcome = run_process(command.arguments, folder, own_cache="compiled" in file)
    faults = outcome.faults((0, 1), command.error_lines)
    status = 0 if "array_record" in file else outcome.status  # Damaged records are found while a command works.
    after = {
      path: sign for path, sign in signatures(folder).items() if not path.startswith("home/")
    }  # Libraries' caches.
    faults += commands.lost_or_changed(command, before, after, status)
    shutil.rmtree(folder)
    return [(f"'{case}'", fault) for fault in faults]

  cases.check(map_in_two_threads(faults_of, [case for case in chosen if cases.is_chosen(case[0])]))


def run_process(line, folder, own_cache=False):
  """Runs a command in a folder, with the workdir's cache of compiled programs if `own_cache`; returns its outcome."""
  environment = {**jax_environment(devices=8), "HOME": str(folder / "home"), "PYTHONPATH": str(commands.ROOT)}
  if own_cache:
    del environment["JAX_COMPILATION_CACHE_DIR"]
  ended = subprocess.run(
    [sys.executable, "-m", *line], capture_output=True, cwd=folder, env=environment, timeout=MAX_SECONDS, check=False
  )
  stdout, stderr = (text.decode(errors="backslashreplace") for text in (ended.stdout, ended.stderr))
  trace = stderr[-500:] if "Traceback" in stderr or "Exception ignored" in stderr else ""
  return Outcome(ended.returncode, stdout, stderr, trace)


def map_in_two_threads(function, arguments):
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    return [fault for faults in pool.map(function, arguments) for fault in faults]
