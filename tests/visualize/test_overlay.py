"""Files of predictions, and pictures of extreme shapes."""

import io

import numpy as np
from PIL import Image

from gcn_flax.labels import CAMVID
from gcn_flax.visualize import overlay, sheets


def test_a_strip_is_shrunk_to_what_a_jpeg_holds():
  for shape, expected in (((4, 70_000), (65_500, 4)), ((70_000, 4), (4, 65_500)), ((65_500, 4), (4, 65_500))):
    with Image.open(io.BytesIO(overlay.encode_jpeg(np.full((*shape, 3), 99, np.uint8)))) as image:
      assert image.format == "JPEG" and image.size == expected


def test_label_maps_keep_their_values(tmp_path):
  label = np.arange(256, dtype=np.uint8).reshape(2, 128)
  for palette in ((), [[value, 0, 0] for value in range(256)]):
    overlay.save_labels(tmp_path / "label.png", label, palette)
    with Image.open(tmp_path / "label.png") as image:
      assert image.mode == ("P" if palette else "L")
      np.testing.assert_array_equal(np.asarray(image), label)


def test_an_edited_label_map_is_no_prediction_any_more(tmp_path):
  """It may be corrected by hand."""
  path = tmp_path / "label.png"
  overlay.save_labels(path, np.zeros((4, 5), np.uint8))
  assert overlay.is_predicted(path)
  with Image.open(path) as image:
    image.load()
  image.save(path)
  assert not overlay.is_predicted(path)


def test_sheets_of_strips_are_no_longer_than_other_sheets():
  for shape in ((66_000, 2), (2, 66_000)):
    image, label = np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8)
    for sheet in (
      sheets.contact_sheet([image], [label], [label], ["strip"], CAMVID),
      sheets.browse_sheet([image], [label], ["strip"], CAMVID),
    ):
      assert max(sheet.shape) < 2_500
