"""Random values for every parameter and statistic, so that no zero or one hides an error, and comparisons."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

TOLERANCE = 1e-5

# Small networks take far longer to compile than to run.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def random_array(*shape: int, seed: int = 0) -> np.ndarray:
  """Returns normal numbers, float32."""
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def random_labels(*shape: int, num_classes: int, void: float = 0.25) -> np.ndarray:
  """Returns random labels, uint8, with a share of void."""
  rng = np.random.default_rng(3)
  labels = rng.integers(0, num_classes, shape)
  return np.where(rng.random(shape) < void, 255, labels).astype(np.uint8)


def random_variables(module, *inputs, seed: int = 0, **kwargs):
  """Returns variables for `module` without running its initialisers; activations stay near one in size."""
  shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs, **kwargs))
  rng = np.random.default_rng(seed)

  def fill(path, leaf):
    name = path[-1].key
    if name == "kernel":
      value = rng.normal(0, 1.2 / np.sqrt(np.prod(leaf.shape[:-1])), leaf.shape)
    elif name in ("scale", "var"):
      value = rng.uniform(0.5, 1.5, leaf.shape)
    else:
      value = rng.normal(0, 0.3, leaf.shape)
    return value.astype(leaf.dtype)

  return jax.tree_util.tree_map_with_path(fill, shapes)


def assert_close(actual, expected, tolerance: float = TOLERANCE) -> None:
  """Asserts that the largest difference is at most `tolerance` times the largest expected value."""
  actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
  assert actual.shape == expected.shape
  assert np.isfinite(expected).all() and np.abs(expected).max() > 0
  assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


def assert_same_function(ours, theirs, *inputs) -> None:
  """Asserts that results and the gradients of a weighted sum of them, for every input, are close."""
  weights = random_array(*jax.eval_shape(theirs, *inputs).shape, seed=9)

  def results_and_gradients(function):
    def weighted_sum(*inputs):
      y = function(*inputs)
      return jnp.sum(weights * y), y

    (_, y), gradients = quick_jit(jax.value_and_grad(weighted_sum, tuple(range(len(inputs))), has_aux=True))(*inputs)
    return y, gradients

  jax.tree.map(assert_close, results_and_gradients(ours), results_and_gradients(theirs))
