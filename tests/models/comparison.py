"""Random numbers for every parameter and statistic, so that no zero or one hides a mistake, and how to compare."""

import functools

import jax
import numpy as np

# Small networks take far longer to compile than to run.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def random_array(*shape: int, seed: int = 0) -> np.ndarray:
  """Normal numbers, float32."""
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def random_variables(module, *inputs, seed: int = 0, **kwargs):
  """Variables for `module` without running its initialisers; they keep activations near one in size."""
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


def assert_close(actual, expected, tolerance: float) -> None:
  """Largest difference at most `tolerance` times the largest expected value."""
  actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
  assert actual.shape == expected.shape
  assert np.isfinite(expected).all() and np.abs(expected).max() > 0
  assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()
