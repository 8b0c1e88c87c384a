"""The steps that were compiled ahead are those that the training calls."""

import contextlib
import dataclasses
import logging
import threading

import jax
import pytest

from gcn_flax import compile_ahead, train
from gcn_flax.compile_ahead import compiled_ahead
from gcn_flax.evaluate import evaluate
from gcn_flax.run_data import RunData
from tests.runs import build_setup

pytestmark = pytest.mark.compiles
_LOGGER = "jax._src.dispatch"


@contextlib.contextmanager
def compilations(caplog):
  """Yields the list of steps that any thread compiles or reads from the cache meanwhile, complete at the end."""
  found = []
  jax.config.update("jax_log_compiles", True)
  try:
    with caplog.at_level(logging.DEBUG, logger=_LOGGER):
      caplog.clear()
      yield found
      lines = [line for line in caplog.messages if line.startswith("Finished XLA compilation of jit(")]
      found += [line.split("(")[1].split(")")[0] for line in lines if "step" in line]
  finally:
    jax.config.update("jax_log_compiles", False)


@pytest.fixture
def tiny(request, monkeypatch):
  """A config by its name, whose evaluation step is compiled ahead, too."""
  monkeypatch.setattr(compile_ahead, "_has_free_cores", lambda mesh: True)

  def make(name):
    config = request.getfixturevalue("class_config" if name == "classifier" else "config")
    if name == "mixed sizes":
      config.data.data_dir = request.getfixturevalue("mixed_data_dir")
    return config

  return make


@pytest.mark.parametrize("name, num_canvases", [("one size", 1), ("mixed sizes", 2), ("classifier", 1)])
def test_no_step_is_compiled_twice(name, num_canvases, tiny, caplog):
  config = tiny(name)
  setup, data = build_setup(config), RunData(config)
  source = data.eval_source(config.data.eval_split)
  state = setup.init(0)
  with compilations(caplog) as ahead, compiled_ahead(config, setup, source) as awaiting:
    pass
  assert sorted(ahead) == ["eval_step", "train_step"]
  with compilations(caplog) as later:
    batch = next(data.train_batches(0))
    state, _ = awaiting.train_step(state, train.sharding.shard_batch(batch, setup.mesh))
    evaluate(config, awaiting, state.weights(), source)
  assert later == ["eval_step"] * (num_canvases - 1)  # One for each further size.


def test_a_training_compiles_each_step_once_and_a_finished_one_none(config, tmp_path, caplog):
  config.total_steps = 1
  with compilations(caplog) as found:
    train.run(config, tmp_path)
  assert sorted(found) == ["eval_step", "train_step"]
  with compilations(caplog) as found:
    train.run(config, tmp_path)
  assert not found


def test_cpus_compile_the_train_step_alone(config, caplog):
  setup = build_setup(config)
  source = RunData(config).eval_source(config.data.eval_split)
  with compilations(caplog) as found, compiled_ahead(config, setup, source) as awaiting:
    assert awaiting.eval_step is setup.eval_step
  assert found == ["train_step"]


class TooLarge:
  """A step that the compiler cannot fit."""

  def lower(self, *_):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: too large")

  def __call__(self, *_):
    pytest.fail("called without having been compiled")


@pytest.mark.parametrize("step", ["train_step", "eval_step"])
def test_an_error_of_the_compiler_is_raised_where_the_step_is_called(step, tiny):
  config = tiny("one size")
  source = RunData(config).eval_source(config.data.eval_split)
  setup = dataclasses.replace(build_setup(config), **{step: TooLarge()})
  with compiled_ahead(config, setup, source) as awaiting, pytest.raises(jax.errors.JaxRuntimeError, match="too large"):
    getattr(awaiting, step)(None, None)


def test_a_run_that_fails_meanwhile_waits_for_the_compiler_and_raises_its_own_error(config, tmp_path, monkeypatch):
  threads, ended = threading.active_count(), []
  original = compile_ahead._compile

  def compile_and_note(*args):
    original(*args)
    ended.append(True)

  def fail(*_):
    raise OSError("disk full")

  monkeypatch.setattr(compile_ahead, "_compile", compile_and_note)
  monkeypatch.setattr(train, "_begin", fail)
  with pytest.raises(OSError, match="disk full"):
    train.run(config, tmp_path)
  assert ended and threading.active_count() == threads
