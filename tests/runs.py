"""Short ways to what most tests of runs need."""

import jax
import numpy as np

from gcn_flax import build
from gcn_flax.evaluate import evaluate
from gcn_flax.run_data import RunData
from gcn_flax.training.checkpoint import open_checkpoints


def build_setup(config, devices=None, platform=""):
  """The setup of a config, with the classes of its data set."""
  return build.build(config, RunData(config).label_set.num_classes, devices, platform)


def evaluate_split(config, setup, weights, split="validation"):
  """The metrics of weights on a split of the config's data set."""
  return evaluate(config, setup, weights, RunData(config).eval_source(split))


def final_state(workdir, config):
  """The newest train state of a workdir."""
  with open_checkpoints(workdir) as checkpoints:
    return checkpoints.restore(checkpoints.latest(), build_setup(config).state_shapes)


def assert_identical(one, other):
  """Raises AssertionError unless two trees have the same structure and the same numbers, bit by bit."""
  assert jax.tree.structure(one) == jax.tree.structure(other)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
