"""A server that all tests of this folder share."""

import shutil

import pytest

from tests.serving.processes import serving


@pytest.fixture(scope="session")
def run(_trained_run, tmp_path_factory):
  """A trained workdir."""
  return shutil.copytree(_trained_run, tmp_path_factory.mktemp("served") / "run")


@pytest.fixture(scope="session")
def server(run, tmp_path_factory):
  """A server of the trained workdir."""
  with serving(run, tmp_path_factory.mktemp("server")) as started:
    yield started
