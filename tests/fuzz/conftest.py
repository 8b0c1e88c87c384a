"""A small world for commands, whose slow parts are stubs."""

import logging
import os

import pytest

from tests.fuzz import cases, command_lines, commands, stubs


@pytest.fixture(scope="session")
def _world(tmp_path_factory):
  root = tmp_path_factory.mktemp("fuzz")
  world = commands.make_world(root)
  with pytest.MonkeyPatch.context() as patch:
    stubs.install(patch)
    patch.chdir(world.path)
    command_lines.make_targets()
    commands.begin_run(world)
  return world


@pytest.fixture(scope="session")
def _readers(_world):
  with pytest.MonkeyPatch.context() as patch:
    stubs.install(patch)
    patch.chdir(_world.path)
    return commands.readers(_world, commands.state_files(_world))


@pytest.fixture
def readers(_readers) -> dict[str, list[str]]:
  """State files of the world, each with the commands that read or replace it."""
  return _readers


@pytest.fixture
def world(_world, monkeypatch, partitioner):
  """A folder with data, pictures and a trained run, which is the current directory; networks are stubs."""
  print(f"GCN_FUZZ_SEED={cases.SEED}")
  stubs.install(monkeypatch)
  monkeypatch.chdir(_world.path)
  monkeypatch.setenv("HOME", str(_world.path / "home"))
  logger = logging.getLogger("gcn_flax")
  before = logger.propagate, logger.level, logger.handlers
  _world.put_back()
  yield _world
  os.chdir(_world.path)
  _world.put_back()
  logger.propagate, logger.level, logger.handlers = before
