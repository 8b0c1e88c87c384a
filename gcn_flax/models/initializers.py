"""Initial values of the weights, drawn by JAX in `Module.init` or by NumPy in `draw`.

NumPy compiles nothing, and gives a seed the same weights on every kind of device and in every version of JAX.
"""

import contextlib
import contextvars
import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

# Standard deviation of a standard normal distribution that is cut off at -2 and 2.
_TRUNCATED_STD = 0.87962566103423978
# Arrays that Flax initialises itself, and that no initializer of this module is given for.
_CONSTANTS = {"bias": 0.0, "mean": 0.0, "scale": 1.0, "var": 1.0}
_marking = contextvars.ContextVar("marking", default=False)


@dataclasses.dataclass(frozen=True)
class Initializer:
  """Initialises an array; for Linen it is a function `(key, shape, dtype) -> jax.Array`.

  Attributes:
    by_jax: `(key, shape, dtype) -> jax.Array`.
    by_numpy: `(random, shape) -> float32 array` of the same distribution; `random` is a `numpy.random.RandomState`.
  """

  by_jax: Callable[..., jax.Array]
  by_numpy: Callable[[np.random.RandomState, Sequence[int]], np.ndarray]

  def __call__(self, key: jax.Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32) -> Any:
    value = self.by_jax(key, shape, dtype)
    return _Marked(value, self) if _marking.get() else value


@flax.struct.dataclass
class _Marked(nn.meta.AxisMetadata):
  """An array with its initializer. Linen takes it off where the array is used."""

  value: Any
  initializer: Initializer = flax.struct.field(pytree_node=False)

  def unbox(self) -> Any:
    return self.value

  def replace_boxed(self, val: Any) -> "_Marked":
    return self.replace(value=val)

  def add_axis(self, index: int, params: dict) -> "_Marked":
    raise NotImplementedError("networks here have no transformed axes.")

  remove_axis = add_axis


def variance_scaling(scale: float) -> Initializer:
  """Initialises with a normal distribution, cut off at two standard deviations, of variance `scale` / fan-in."""

  def by_numpy(random: np.random.RandomState, shape: Sequence[int]) -> np.ndarray:
    std = math.sqrt(scale / math.prod(shape[:-1])) / _TRUNCATED_STD
    return (std * _truncated_normal(random, math.prod(shape))).astype(np.float32).reshape(shape)

  return Initializer(nn.initializers.variance_scaling(scale, "fan_in", "truncated_normal"), by_numpy)


def _truncated_normal(random: np.random.RandomState, size: int) -> np.ndarray:
  """Draws from the standard normal distribution, and draws again what is below -2 or above 2."""
  values = random.standard_normal(size)
  while len(outside := np.flatnonzero(np.abs(values) > 2)):
    values[outside] = random.standard_normal(len(outside))
  return values


def _constant(values: Callable[[Sequence[int]], np.ndarray]) -> Initializer:
  return Initializer(lambda _, shape, dtype: jnp.asarray(values(shape), dtype), lambda _, shape: values(shape))


def _bilinear(shape: Sequence[int]) -> np.ndarray:
  height, width, inputs, outputs = shape
  if (height, width) != (4, 4):
    raise ValueError(f"BILINEAR is for 4 x 4 kernels with stride 2, not {height} x {width}.")
  taps = np.array([0.25, 0.75, 0.75, 0.25], np.float32)
  return np.einsum("i,j,ab->ijab", taps, taps, np.eye(inputs, outputs, dtype=np.float32))


ZEROS = _constant(functools.partial(np.zeros, dtype=np.float32))
LECUN_NORMAL = variance_scaling(1.0)
# LeCun normal with a tenth of its standard deviation, for the last layer before the logits.
SMALL_NORMAL = variance_scaling(0.01)
# A 4 x 4 transposed convolution `[4, 4, C, C]` as bilinear interpolation by two: each class is at first interpolated
# by itself, without the other classes. The paper does not give the initialisation of its deconvolutions; this is FCN's
# (Long et al., CVPR 2015).
BILINEAR = _constant(_bilinear)


@contextlib.contextmanager
def _mark() -> Iterator[None]:
  token = _marking.set(True)
  try:
    yield
  finally:
    _marking.reset(token)


def trace(network: nn.Module) -> dict[str, Any]:
  """Returns the variables of a network as `jax.ShapeDtypeStruct`s, some of them with their initializer, for `draw`."""
  # The smallest image will do: the shapes of the weights do not depend on it.
  image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  with _mark():
    return jax.eval_shape(lambda image: network.init(jax.random.key(0), image, train=False), image)


def shapes(traced: dict[str, Any]) -> dict[str, Any]:
  """Returns the variables of `trace` without their initializers."""
  return nn.meta.unbox(traced)


def draw(traced: dict[str, Any], seed: int) -> dict[str, Any]:
  """Draws the initial value of each variable, float32, each with a memory of its own.

  The random numbers of an array follow from the seed and its name alone. They are those of `RandomState`, which NumPy
  never changes (NEP 19).

  Args:
    traced: variables from `trace`.
    seed: seed of the run.
  """

  def value(path: tuple, leaf: Any) -> np.ndarray:
    names = [key.key for key in path]
    if isinstance(leaf, _Marked):
      return leaf.initializer.by_numpy(_random_state(seed, "/".join(names)), leaf.value.shape)
    return np.full(leaf.shape, _CONSTANTS[names[-1]], np.float32)

  return jax.tree_util.tree_map_with_path(value, traced, is_leaf=lambda leaf: isinstance(leaf, _Marked))


def _random_state(seed: int, name: str) -> np.random.RandomState:
  digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
  return np.random.RandomState(np.frombuffer(digest, "<u4"))
