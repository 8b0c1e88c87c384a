"""Finds what file names of masks have before or after the names of their images, as in `a_mask.png` for `a.jpg`."""

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Iterator, Set

_SAMPLE = 20  # Images whose names are looked for in those of all masks.
_BETWEEN = "_-. "
_OF_CLASSES = re.compile("label|mask|seg", re.IGNORECASE)  # Preferred where an image has several masks.


@dataclasses.dataclass(frozen=True)
class Affixes:
  """Text before and after the part that the names of an image and its mask share; file suffixes do not count."""

  image_prefix: str
  image_suffix: str
  mask_prefix: str
  mask_suffix: str

  def mask_of(self, image: str) -> str:
    """Returns the name of an image's mask."""
    return self.mask_prefix + image.removeprefix(self.image_prefix).removesuffix(self.image_suffix) + self.mask_suffix


def find_affixes(images: Set[str], masks: Set[str]) -> Affixes | None:
  """Returns the affixes that give most images their mask, None if there are none for more than half of them."""
  best, most = None, 0
  for affixes in _candidates(images, masks):
    matched = sum(affixes.mask_of(name) in masks for name in images)
    if matched > most:
      best, most = affixes, matched
  return best if 2 * most > len(images) else None


def _candidates(images: Set[str], masks: Set[str]) -> Iterator[Affixes]:
  for prefix, suffix in _image_affixes(images):
    found = Counter()
    for name in sorted(images)[:_SAMPLE]:
      common = name.removeprefix(prefix).removesuffix(suffix)
      found.update((mask[:at], mask[at + len(common) :]) for mask in masks if common and (at := mask.find(common)) >= 0)
    found = {key: count for key, count in found.items() if all(not part or not part.isdigit() for part in key)}
    for key in sorted(found, key=lambda key: (-found[key], not _OF_CLASSES.search("".join(key)), key))[:4]:
      yield Affixes(prefix, suffix, *key)


def _image_affixes(images: Set[str]) -> Iterator[tuple[str, str]]:
  """Yields what images may have before or after the common part: nothing, or parts of what all of them have."""
  yield "", ""
  tail = os.path.commonprefix([name[::-1] for name in images])[::-1]
  for at in reversed(range(len(tail))):
    if tail[at] in _BETWEEN and re.search("[a-zA-Z]", tail[at:]):
      yield "", tail[at:]
  head = os.path.commonprefix(sorted(images))
  for at in range(1, len(head) + 1):
    if head[at - 1] in _BETWEEN or head[at:].isdigit() or at == len(head):
      yield head[:at].rstrip("0123456789"), ""
