"""Decides for each platform (CPU, GPU, TPU) the implementation of operations, space-to-depth and channel padding.

It also decides whether batch normalisation computes the exact variance, as on CPUs (`Ops.fast_variance`).

All implementations give the same results up to rounding. The choice follows measurements on CPUs and GPUs and the
compiler's estimates for TPUs (nothing was run on one), see docs/PERFORMANCE.md. No XLA flags are set on any platform.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator

import jax

from gcn_flax.models import cpu_ops, reference_ops, tpu_ops
from gcn_flax.models.layout import Layout
from gcn_flax.rounding import round_up


@dataclasses.dataclass(frozen=True)
class Ops:
  """Implementations of operations and layouts of maps for one platform.

  Attributes:
    conv: `(x, kernel, strides, padding)` -> convolution of `[B, H, W, I]` with `[k, l, I, O]`.
    max_pool: 3 x 3 max-pooling with stride 2 and padding 1.
    lanes: channels that a vector unit works on at once. Space-to-depth fills them where maps are large and have few
      channels; 0 for no space-to-depth.
    min_padded_channels: fewest channels that get channel padding.
    channel_multiple: channel padding goes up to a multiple of it; 1 for no padding.
    fast_variance: batch normalisation computes the variance as E[x^2] - E[x]^2, which reads the map once. In float32
      it is wrong by 3 % if the mean is 100 times the standard deviation, and by 90 % at 1,000 times.
    boundary_refine: `(x, kernel1, bias1, kernel2, bias2)` -> Boundary Refinement of `[B, H, W, C]` as one operation,
      with kernels `[3, 3, C, C]`; None for two convolutions. It is not used for maps in blocks.
  """

  conv: Callable[..., jax.Array] = reference_ops.conv
  max_pool: Callable[[jax.Array], jax.Array] = reference_ops.max_pool
  lanes: int = 0
  min_padded_channels: int = 1
  channel_multiple: int = 1
  fast_variance: bool = True
  boundary_refine: Callable[..., jax.Array] | None = None

  def layout(self, channels: int, stride: int) -> Layout:
    """Returns the layout of maps of class scores at a stride of the input: large ones in blocks of 2 x 2."""
    if stride <= _MAX_BLOCK_STRIDE and 4 * channels <= self.lanes:
      return Layout(channels, (2, 2), self.padded(4 * channels))
    return Layout(channels, width=self.padded(channels))

  def padded(self, channels: int) -> int:
    """Returns the number of channels with channel padding."""
    multiple = self.channel_multiple
    return round_up(channels, multiple) if channels >= self.min_padded_channels else channels

  def head_block(self, channels: int, side: int) -> int:
    """Returns the block size along the kernel of a head's first k x 1 or 1 x k convolution, pixels; 1 for no block."""
    if not self.lanes or side < _MIN_HEAD_SIDE:  # Without lanes the side may be unknown, as in exported programs.
      return 1
    limit = min(self.lanes // channels, _MAX_HEAD_BLOCK)
    return max((pixels for pixels in range(1, limit + 1) if side % pixels == 0), default=1)


def _fused_boundary_refine(*arguments: jax.Array) -> jax.Array:
  # Imported here: Pallas takes a fifth of a second, and no default needs it.
  from gcn_flax.models import gpu_ops

  return gpu_ops.boundary_refine(*arguments)


_MAX_BLOCK_STRIDE = 2  # Space-to-depth does not pay for smaller maps.
_MIN_HEAD_SIDE = 50  # Pixels below which space-to-depth of a head's outputs costs more than it saves.
_MAX_HEAD_BLOCK = 8  # Larger blocks were not tried.

REFERENCE = Ops()
# XLA's 3 x 3 convolutions of 24 channels take half the time of 21; 5 padded to 8, or 11 to 16, gain nothing.
CPU = Ops(conv=cpu_ops.conv, max_pool=cpu_ops.max_pool, min_padded_channels=17, channel_multiple=8, fast_variance=False)
# libtpu takes five times as long for 65 to 94 channels as for 128, where a 3 x 3 convolution reads them.
TPU = Ops(conv=tpu_ops.conv, lanes=128, min_padded_channels=65, channel_multiple=128)
# Measured on an H100 in bfloat16: with 21 class scores padded to 32, the train step is 1.27 times as fast, padded to 24
# 1.21 times. No other number of classes was measured. From 17 on (19 of Cityscapes, 21 of VOC) maps grow by less than
# two; fewer channels are left alone, since the 11 of CamVid would take three times the memory.
GPU = Ops(min_padded_channels=17, channel_multiple=32)
# Not the default of any platform: it was not timed on a GPU. `benchmarks/gpu.sh` compares it with `GPU`.
GPU_FUSED = dataclasses.replace(GPU, boundary_refine=_fused_boundary_refine)
_BY_PLATFORM = {"cpu": CPU, "tpu": TPU, "gpu": GPU, "cuda": GPU, "rocm": GPU}


def ops_for(platform: str = "") -> Ops:
  """Returns the ops of a platform by JAX's name for it; a GPU is "gpu", "cuda" or "rocm".

  "" stands for the platform that JAX computes on, and "reference", as any platform without ops of its own, gets the
  reference implementations.
  """
  return _BY_PLATFORM.get(platform or jax.default_backend(), REFERENCE)


_bound: contextvars.ContextVar[Ops | None] = contextvars.ContextVar("ops", default=None)


@contextlib.contextmanager
def use_ops(ops: Ops | None) -> Iterator[None]:
  """Binds the ops of all modules called within the context; None leaves the present ones."""
  token = _bound.set(ops or _bound.get())
  try:
    yield
  finally:
    _bound.reset(token)


def current_ops() -> Ops:
  """Returns the ops bound by `use_ops`, or those of the platform that JAX computes on."""
  return _bound.get() or ops_for()
