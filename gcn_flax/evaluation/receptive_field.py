"""The effective receptive field: the pixels of an image that really drive the class score of one pixel."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

RADII = (32, 64, 96)  # Of the shares that `Field.measure` gives, pixels.
SHARES = (0.5, 0.9)  # Of the radii that `Field.measure` gives.

Pixel = tuple[int, int]  # (row, column).


def gradient_magnitude(network: Callable[[jax.Array], jax.Array], image: jax.Array, pixel: jax.Array) -> jax.Array:
  """Returns the magnitude of the gradient of one pixel's class score with respect to each pixel of the image.

  The score is the logit of the class that is predicted at the pixel; the magnitude is the Euclidean norm over the three
  channels. This is the effective receptive field of Luo et al. (NIPS 2016) for one image. The paper's Figure 3 shows
  valid receptive fields, without saying how they were computed.

  Args:
    network: maps RGB float32 `[1, H, W, 3]`, 0 to 255, to logits `[1, H, W, C]`.
    image: RGB `[H, W, 3]`, 0 to 255.
    pixel: (row, column), integers `[2]`.

  Returns:
    float32 `[H, W]`.
  """

  def score(image: jax.Array) -> jax.Array:
    logits = network(image[None])[0, pixel[0], pixel[1]]
    return logits[jnp.argmax(logits)]

  gradient = jax.grad(score)(image.astype(jnp.float32))
  return jnp.sqrt(jnp.sum(gradient**2, -1))


@dataclasses.dataclass(frozen=True)
class Field:
  """A receptive field, of one image or as the mean over several.

  Attributes:
    mass: share of each pixel in the sum of the gradient's magnitudes, float64 `[H, W]` with the sum 1.
    pixel: the pixel whose class score it belongs to.
  """

  mass: np.ndarray
  pixel: Pixel

  @classmethod
  def of(cls, magnitude: np.ndarray, pixel: Pixel) -> "Field":
    """Returns the field of a `gradient_magnitude`. Raises ValueError if it is 0 everywhere, or not finite."""
    total = magnitude.sum(dtype=np.float64)
    if not 0 < total < np.inf:
      raise ValueError(
        f"the gradient of the class score at pixel {pixel[0]},{pixel[1]} has the sum {total}: there is no receptive "
        "field. Use another checkpoint."
      )
    return cls(magnitude / total, pixel)

  @classmethod
  def mean(cls, fields: Sequence["Field"]) -> "Field":
    """Returns the mean of fields of any sizes, aligned at their pixels; beyond the edge of an image its field is 0."""
    before = np.max([field.pixel for field in fields], 0)
    after = np.max([np.subtract(field.mass.shape, field.pixel) for field in fields], 0)
    total = np.zeros(before + after)
    for field in fields:
      top, left = before - field.pixel
      total[top : top + field.mass.shape[0], left : left + field.mass.shape[1]] += field.mass
    return cls(total / len(fields), tuple(before.tolist()))

  def mass_outside(self, radius: float) -> float:
    """Returns the share of the mass that is more than `radius` pixels away from the pixel, 0 to 1."""
    return float(self.mass[self._distances() > radius].sum())

  def mass_by_radius(self) -> np.ndarray:
    """Returns the share of the mass within 0, 1, 2, ... pixels of the pixel, float64 `[R]`; the last one is 1."""
    rings = np.ceil(self._distances()).astype(int)
    within = np.cumsum(np.bincount(rings.ravel(), self.mass.ravel()))
    return within / within[-1]

  def radius_of(self, share: float) -> int:
    """Returns the radius in whole pixels, rounded up, that holds a share of the mass."""
    return int(np.searchsorted(self.mass_by_radius(), share))

  def measure(self) -> dict[str, Any]:
    """Returns the shares of the mass outside of `RADII`, and the radii that hold `SHARES` of it, for JSON."""
    return {
      "mass_outside_radius": {str(radius): self.mass_outside(radius) for radius in RADII},
      "radius_of_mass": {str(share): self.radius_of(share) for share in SHARES},
    }

  def _distances(self) -> np.ndarray:
    """Returns the Euclidean distance of each pixel from the field's own, float64 `[H, W]`, pixels."""
    rows, columns = np.ogrid[: self.mass.shape[0], : self.mass.shape[1]]
    return np.hypot(rows - self.pixel[0], columns - self.pixel[1])


def cut_window(image: np.ndarray, pixel: Pixel, size: Sequence[int]) -> tuple[np.ndarray, Pixel]:
  """Cuts an image to a window around a pixel.

  Args:
    image: `[H, W, ...]`.
    pixel: pixel of the image.
    size: max height and width of the window, which lies within the image.

  Returns:
    (window, the pixel in it).
  """
  places = zip(image.shape[:2], pixel, size, strict=True)
  top, left = (max(0, min(place - length // 2, side - length)) for side, place, length in places)
  return image[top : top + size[0], left : left + size[1]], (pixel[0] - top, pixel[1] - left)
