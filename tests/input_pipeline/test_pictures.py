"""Prediction and data preparation read the same pictures, and reject the others with the same words."""

import io
import shlex
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from data import pictures as strict
from gcn_flax.input_pipeline import pictures
from gcn_flax.input_pipeline.examples import CorruptExample, Source
from gcn_flax.labels import CAMVID

RGB = cv2.resize(np.random.default_rng(0).integers(0, 256, (5, 6, 3)).astype(np.uint8), (56, 42))
IMAGE = Image.fromarray(RGB)


def saved(image, kind, **options):
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def pages(kind, **options):
  return saved(IMAGE, kind, save_all=True, append_images=[Image.fromarray(np.roll(RGB, 9, 1))], **options)


def deep(suffix, factor, channels=3):
  array = RGB.astype(np.uint16) * factor
  return cv2.imencode(suffix, array[..., ::-1] if channels == 3 else array[..., 0])[1].tobytes()


def header(width, height, depth=8, colour_type=2):
  """A PNG that only claims its size."""

  def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

  parts = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
  return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", parts) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


REJECTED = {
  "12 bits in 16": (deep(".png", 16), "has 16 bits per channel. Its values reach 3984. Convert all .* 0 to 4095: "),
  "grey 12 bits in 16": (deep(".png", 16, 1), "has 16 bits per channel. .* 0 to 4095: "),
  "16 bits": (deep(".png", 257), "has 16 bits per channel. .* 0 to 65535: "),
  "TIFF of 16 bits": (deep(".tiff", 16), "has 16 bits per channel. .* 0 to 4095: "),
  "grey TIFF of 16 bits": (deep(".tiff", 16, 1), "has 16 bits per channel. .* 0 to 4095: "),
  "floats": (saved(Image.fromarray(RGB[..., 0] / np.float32(255)), "TIFF"), "has 32 bits per channel. .* 0 to 1: "),
  "pages": (pages("TIFF"), "holds 2 pages or frames. Save the one to read"),
  "animated GIF": (pages("GIF"), "holds 2 pages or frames"),
  "animated PNG": (pages("PNG"), "holds 2 pages or frames"),
  "animated WebP": (pages("WEBP", lossless=True), "holds 2 pages or frames"),
  "EPS": (
    saved(IMAGE, "EPS"),
    "is damaged or truncated, or not an 8-bit grey or colour picture of the formats JPEG, PNG, BMP, TIFF, WEBP, GIF",
  ),
  "PPM": (saved(IMAGE, "PPM"), "is damaged or truncated, or not an 8-bit grey or colour"),
  "text": (b"no picture at all", "is damaged or truncated, or not an 8-bit grey or colour"),
  "empty": (b"", "is damaged or truncated, or not an 8-bit grey or colour"),
  "truncated": (saved(IMAGE, "JPEG")[:-200], r"is damaged or truncated \(image file is truncated"),
  "bomb": (header(60_000, 60_000, 1, 0), "has more than 268,435,456 pixels. Cut it into pieces."),
  "bomb within Pillow's limit": (header(20_000, 14_000), "has more than 268,435,456 pixels"),
  "too long": (header(1_000_001, 1), "is 1 x 1000001, longer than 1,000,000 pixels. Cut it"),
}


@pytest.mark.parametrize("kind", REJECTED)
def test_readers_reject_the_same_files(tmp_path, kind):
  data, message = REJECTED[kind]
  path = tmp_path / "photo.jpg"
  path.write_bytes(data)
  readers = (
    lambda: pictures.read_picture(path),
    lambda: strict.decode_rgb(data, str(path)),
    lambda: strict.decode_rgb(data, str(path), published=True),
  )
  for read in readers:
    with pytest.raises(ValueError, match=f"^{path} {message}"):
      read()


def pyramid():
  """A TIFF of a picture, a smaller copy of it, and its transparency mask, as GDAL writes overviews."""
  small, mask = IMAGE.resize((28, 21)), Image.new("1", IMAGE.size, 1)
  small.encoderinfo, mask.encoderinfo = {"tiffinfo": {254: 1}}, {"tiffinfo": {254: 4}}
  return saved(IMAGE, "TIFF", save_all=True, append_images=[small, mask])


@pytest.mark.parametrize(
  "data, difference",
  [
    (saved(IMAGE, "PNG"), 0),
    (saved(IMAGE, "BMP"), 0),
    (saved(IMAGE, "TIFF"), 0),
    (pyramid(), 0),
    (saved(IMAGE, "WEBP", lossless=True), 0),
    (saved(IMAGE.convert("RGBA"), "PNG"), 0),
    (saved(IMAGE, "JPEG", quality=100), 3),
    (saved(IMAGE, "MPO", save_all=True, append_images=[IMAGE.resize((9, 9))], quality=100), 3),
    (saved(IMAGE, "GIF"), 6),
  ],
  ids=["PNG", "BMP", "TIFF", "TIFF pyramid", "WebP", "RGBA", "JPEG", "photo with preview", "GIF"],
)
def test_pictures_of_all_formats_are_read(tmp_path, data, difference):
  path = tmp_path / "photo"
  path.write_bytes(data)
  assert np.abs(pictures.read_picture(path).astype(int) - RGB).mean() <= difference
  np.testing.assert_array_equal(strict.decode_rgb(data, "photo", published=True), pictures.read_picture(path))


@pytest.mark.parametrize(
  "kind, expected", [("12 bits in 16", RGB), ("pages", RGB), ("grey TIFF of 16 bits", RGB[..., :1])]
)
def test_the_command_of_the_message_makes_a_picture_that_is_read(tmp_path, kind, expected):
  path = tmp_path / "it's a [photo].png"
  path.write_bytes(REJECTED[kind][0])
  with pytest.raises(ValueError) as error:
    pictures.read_picture(path)
  words = shlex.split(str(error.value).partition(": ")[2].partition(": ")[2] or str(error.value).partition(": ")[2])
  assert words[:2] == ["python", "-c"]
  subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, check=True)
  (result,) = set(tmp_path.iterdir()) - {path}
  image = strict.decode_rgb(result.read_bytes(), "result").astype(int)
  np.testing.assert_allclose(image, np.broadcast_to(expected, image.shape), atol=1)


def test_masks_may_have_16_bits_but_no_second_page():
  ids = np.full((4, 5), 26_001, np.uint16)
  np.testing.assert_array_equal(strict.decode_instances(saved(Image.fromarray(ids), "PNG"), "ids"), ids)
  with pytest.raises(ValueError, match="mask holds 2 pages or frames"):
    strict.decode_mask(pages("PNG"), "mask")


def test_a_picture_that_a_format_cannot_hold_is_reported():
  strip = np.zeros((2, 66_000, 3), np.uint8)
  assert len(pictures.encode(strip, ".png")) > 0
  with pytest.raises(ValueError, match="2 x 66000 pixels cannot be written as '.jpg'. Use .png"):
    strict.encode_jpeg(strip)
  with pytest.raises(ValueError, match="cannot be written as '.txt'"):
    pictures.encode(strip, ".txt")


@pytest.mark.parametrize("data", [b"", b"no picture", header(40_000, 40_000)], ids=["empty", "text", "too large"])
def test_whatever_opencv_makes_of_a_damaged_record_the_example_is_named(data):
  """It returns None or raises cv2.error."""
  records = [{"image_id": b"street_1", "image": data, "label": data}]
  source = Source("fake", "train", records, CAMVID, has_labels=True)
  for read in (lambda: source[0], lambda: source.label(0)):
    with pytest.raises(CorruptExample, match="fake 'train', example 0, is damaged: street_1: the (image|label)"):
      read()


def test_a_record_that_was_cut_is_named():
  """array_record reads nothing for each field, and no error."""
  records = [{"image_id": None, "image": None, "label": None}]
  source = Source("fake", "train", records, CAMVID, has_labels=True)
  for read in (lambda: source[0], lambda: source.label(0), lambda: source.image_id(0)):
    with pytest.raises(CorruptExample, match="fake 'train', example 0, is damaged: its record is incomplete"):
      read()


@pytest.mark.parametrize("image_id", ["a", "cat/001.jpg", "..b", "Straße 1", "a:b"])
def test_ids_are_paths_inside_a_folder(image_id):
  pictures.check_image_id(image_id)


@pytest.mark.parametrize(
  "image_id", ["", "..", "../a", "/a", "a/../b", "a//b", "a/", "a\0b", "a\nb", "\x1b[31m", "\udcff"]
)
def test_ids_that_lead_elsewhere_or_break_lines_are_rejected(image_id):
  with pytest.raises(ValueError, match="Rename the image"):
    pictures.check_image_id(image_id)
