"""Initial weights drawn by NumPy: distributed like those of Linen's draw, and the same everywhere."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gcn_flax import build
from gcn_flax import config as config_lib
from gcn_flax.models import initializers
from gcn_flax.models.classifier import Classifier
from gcn_flax.models.gcn import GCN

IMAGE = jnp.zeros((1, 32, 32, 3))
NETWORKS = {
  "tiny": GCN(5, "resnet_tiny", 7),
  "small_heads": GCN(5, "resnet_tiny", 7, small_heads=True, remat=True),
  "bottlenecks": GCN(5, "resnet50", 3, head="pointwise", small_heads=True),
  "classifier": Classifier(5, "resnet18", small_heads=True),
}
# SHA-256 of all arrays of the network "small_heads", in the order of their names.
DIGESTS = {
  0: "a48e75487ca852d61582cc0184dee16745e81ef6b19fd6f3eddde66328c059a1",
  1: "2161ebb8cc6c00f785ad224f746c56643cbdf1de9767a97b832f24082373af38",
}


def named(tree):
  """Returns the arrays of a tree by name."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {"/".join(key.key for key in path): np.asarray(leaf) for path, leaf in leaves}


def drawn(name, seed=0):
  return named(initializers.draw(initializers.trace(NETWORKS[name]), seed))


@pytest.mark.parametrize(
  "name", [pytest.param(name, marks=pytest.mark.slow) if name == "bottlenecks" else name for name in NETWORKS]
)
def test_weights_are_distributed_like_those_of_linen(name):
  """Arrays without randomness are equal; the others agree in mean, deviation and largest value."""
  ours, theirs = drawn(name), named(jax.jit(lambda: NETWORKS[name].init(jax.random.key(0), IMAGE, train=False))())
  assert list(ours) == list(theirs)
  random = 0
  for path, array in ours.items():
    other = theirs[path]
    assert (array.shape, array.dtype) == (other.shape, other.dtype), path
    if len(np.unique(other)) <= 5:  # Zeros, ones, or bilinear interpolation.
      np.testing.assert_allclose(array, other, err_msg=path)
      continue
    random += 1
    limit, error = 2 / 0.8796 * other.std(), 6 / np.sqrt(other.size)
    assert abs(array).max() < limit * (1 + error), path
    assert abs(array.mean()) < error * array.std() and abs(array.std() / other.std() - 1) < error, path
  assert random >= 16


@pytest.mark.parametrize("seed, digest", DIGESTS.items())
def test_a_seed_gives_the_same_weights_on_every_machine(seed, digest):
  found = hashlib.sha256()
  for path, array in sorted(drawn("small_heads", seed).items()):
    found.update(path.encode() + array.tobytes())
  assert found.hexdigest() == digest


def test_arrays_of_the_same_shape_differ():
  arrays = drawn("tiny")
  left, right = (arrays[f"params/head5/{side}_first/kernel"] for side in ("left", "right"))
  assert not np.allclose(left, right.swapaxes(0, 1))
  assert not np.allclose(left, drawn("tiny", 1)["params/head5/left_first/kernel"])


def test_linen_draws_plain_arrays():
  variables = jax.eval_shape(lambda: NETWORKS["small_heads"].init(jax.random.key(0), IMAGE, train=False))
  assert {type(leaf) for leaf in jax.tree.leaves(variables)} == {jax.ShapeDtypeStruct}
  assert jax.tree.structure(variables) == jax.tree.structure(initializers.draw(initializers.trace(NETWORKS["tiny"]), 0))


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("count", [1, 8])
def test_each_device_has_the_initial_state(kind, count):
  config = config_lib.get_config()
  config.model.backbone, config.model.kernel_size, config.optimizer.kind = "resnet_tiny", 7, kind
  config.optimizer.ema_decay = 0.9
  setup = build.build(config, 5, jax.devices()[:count])
  state = setup.init(1)
  expected = initializers.draw(initializers.trace(setup.network), 1)
  for weights in (state.params, state.ema["params"]):
    jax.tree.map(np.testing.assert_array_equal, weights, expected["params"])
  fresh = build._optimizer(config)[1].init(expected["params"])
  jax.tree.map(np.testing.assert_array_equal, state.opt_state, fresh)
  assert jax.tree.structure(state) == jax.tree.structure(setup.state_shapes)
  for leaf, shape in zip(jax.tree.leaves(state), jax.tree.leaves(setup.state_shapes), strict=True):
    assert (leaf.shape, leaf.dtype, leaf.sharding) == (shape.shape, shape.dtype, shape.sharding)
    assert len(leaf.addressable_shards) == count


def test_weights_of_a_file_replace_drawn_ones():
  config = config_lib.get_config()
  config.model.backbone, config.model.kernel_size = "resnet_tiny", 7
  setup = build.build(config, 5)
  encoder = jax.tree.map(np.ones_like, setup.init(0).params["encoder"])
  state = setup.init(0, {"params": {"encoder": encoder}})
  jax.tree.map(np.testing.assert_array_equal, state.params, {**setup.init(0).params, "encoder": encoder})


def test_bilinear_is_for_four_by_four_only():
  with pytest.raises(ValueError, match="not 3 x 5"):
    initializers.BILINEAR(jax.random.key(0), (3, 5, 2, 2))
