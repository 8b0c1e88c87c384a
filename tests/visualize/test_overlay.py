"""Files of predictions, and pictures of extreme shapes."""

import numpy as np
from PIL import Image

from gcn_flax.labels import CAMVID
from gcn_flax.visualize import overlay, sheets


def test_the_overlay_of_a_strip_is_shrunk_to_what_a_jpeg_holds(tmp_path):
  for shape, expected in (((4, 70_000), (65_500, 4)), ((70_000, 4), (4, 65_500)), ((65_500, 4), (4, 65_500))):
    overlay.save_overlay(tmp_path / "strip.jpg", np.full((*shape, 3), 99, np.uint8))
    with Image.open(tmp_path / "strip.jpg") as image:
      assert image.format == "JPEG" and image.size == expected


def test_label_maps_keep_their_values(tmp_path):
  label = np.arange(256, dtype=np.uint8).reshape(2, 128)
  for palette in ((), [[value, 0, 0] for value in range(256)]):
    overlay.save_labels(tmp_path / "label.png", label, palette)
    with Image.open(tmp_path / "label.png") as image:
      assert image.mode == ("P" if palette else "L")
      np.testing.assert_array_equal(np.asarray(image), label)


def test_sheets_of_strips_are_no_longer_than_other_sheets():
  for shape in ((66_000, 2), (2, 66_000)):
    image, label = np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8)
    for sheet in (
      sheets.contact_sheet([image], [label], [label], ["strip"], CAMVID),
      sheets.browse_sheet([image], [label], ["strip"], CAMVID),
    ):
      assert max(sheet.shape) < 2_500
