"""The canvas of an image: the size that `transforms.pad` fills for evaluation, prediction and submissions."""

from collections.abc import Sequence

import numpy as np

from gcn_flax.rounding import round_up

Canvas = tuple[int, int]

# Padding changes predictions, so it is kept below one stride of the network. Large sides take coarser steps, so that
# images of many sizes share few canvases, each of which is compiled once.
_STEP, _LARGE, _LARGE_STEP = 32, 512, 128
RULE = f"each side is rounded up to a multiple of {_STEP}, above {_LARGE} to a multiple of {_LARGE_STEP}"
_MAX_CROP = 512  # Larger crops take much memory: choose them yourself.


def canvas_of(size: Sequence[int], fixed: Sequence[int] = ()) -> Canvas:
  """Returns the canvas of an image: (height, width), pixels.

  It depends on nothing but the image's own size: each side is rounded up to a multiple of 32, above 512 to a multiple
  of 128.

  Args:
    size: (height, width) of the image, pixels.
    fixed: the same canvas for all images, instead (`config.data.eval_size`); () for the rule above.
  """
  return tuple(fixed) or tuple(map(_side, size))


def _side(side: int) -> int:
  return round_up(int(side), _STEP if side <= _LARGE else _LARGE_STEP)


def crop_of(sizes: np.ndarray, multiple: int = _STEP) -> Canvas:
  """Returns a crop for training on images of these sizes: (height, width), pixels.

  Each side is the largest multiple of 32 that is neither above 512 nor above the median of the images' sides, so that
  most images fill their crops; at least 32.

  Args:
    sizes: (height, width) of each image, pixels, int `[N, 2]`.
    multiple: the height is a multiple of this, which is one of 32.
  """
  height, width = np.minimum(np.quantile(sizes, 0.5, axis=0, method="lower"), _MAX_CROP)
  return tuple(max(step, int(side) // step * step) for side, step in ((height, multiple), (width, _STEP)))


def batches_by_canvas(canvases: Sequence[Canvas], batch_size: int, multiple: int) -> list[np.ndarray]:
  """Groups examples into batches of one canvas each, so that every canvas is compiled once.

  The largest canvas comes first: if memory runs out, it does so at once.

  Args:
    canvases: canvas of each example.
    batch_size: max number of examples in a batch.
    multiple: the number of examples in a batch is a multiple of this: the number of devices.

  Returns:
    The indices of the examples of each batch, int64 `[b]`, -1 where the batch is filled up. All batches of a canvas
    have the same length. It is less than `batch_size` for a canvas of few images.
  """
  groups = {}
  for index, canvas in enumerate(canvases):
    groups.setdefault(canvas, []).append(index)
  batches = []
  for canvas in sorted(groups, key=lambda canvas: (-canvas[0] * canvas[1], canvas)):
    indices = np.array(groups[canvas])
    size = min(batch_size, round_up(len(indices), multiple))
    padded = np.pad(indices, (0, -len(indices) % size), constant_values=-1)
    batches += list(padded.reshape(-1, size))
  return batches
