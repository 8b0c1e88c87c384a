"""The page `label_errors_<split>.html`: regions whose labels may be wrong, each with picture, mask and prediction."""

from collections.abc import Mapping, Sequence
from typing import Any

from gcn_flax.labels import LabelSet
from gcn_flax.reporting import rendering
from gcn_flax.visualize.crops import Crop, draw_crop

_MAX_IMAGES = 50  # In the table of images; the JSON file has all.
_PICTURES = ("picture", "mask", "prediction")


def render(result: Mapping[str, Any], crops: Sequence[Crop], label_set: LabelSet) -> str:
  """Renders the page.

  Args:
    result: content of `label_errors_<split>.json`.
    crops: one for each of its regions.
    label_set: the classes.

  Raises:
    ImportError: if Jinja is not installed.
  """
  colours = dict(zip(label_set.classes, map(rendering.colour, label_set.palette), strict=True))
  return rendering.render(
    "label_errors.html",
    title=f"Possible label errors: {result['dataset']} {result['split']}",
    subtitle=f"step {result['step']:,}; {result['num_regions']:,} regions in {len(result['images']):,} of "
    f"{result['num_images']:,} images",
    limit=rendering.percent(result["max_label_probability"]),
    regions=[
      {"number": number, **_card(*pair, label_set, colours)}
      for number, pair in enumerate(zip(result["regions"], crops, strict=True), 1)
    ],
    images=[each | {"score": f"{each['score']:,.0f}"} for each in result["images"][:_MAX_IMAGES]],
    num_images=len(result["images"]),
  )


def _card(region: Mapping[str, Any], crop: Crop, label_set: LabelSet, colours: Mapping[str, str]) -> dict[str, Any]:
  """Returns the variables of one region."""
  sources = map(rendering.jpeg_source, draw_crop(crop, label_set))
  top, left, bottom, right = region["box"]
  return {
    "image_id": region["image_id"],
    "classes": [
      (role, region[role], colours[region[role]], rendering.percent(region[f"{role}_probability"]))
      for role in ("labelled", "predicted")
    ],
    "score": f"{region['score']:,.0f}",
    "pixels": f"{region['pixels']:,}",
    "place": f"rows {top} to {bottom - 1}, columns {left} to {right - 1}",
    "pictures": list(zip(_PICTURES, sources, strict=True)),
  }
