"""Pictures of any kind become label maps of their size; unreadable ones are named, and the others are predicted."""

import pathlib
import struct
import types

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from gcn_flax import predict, segmenter
from gcn_flax.evaluation import crf
from gcn_flax.input_pipeline.pictures import read_picture
from gcn_flax.labels import CAMVID
from gcn_flax.picture_files import find_pictures
from gcn_flax.predict import predict_pictures
from gcn_flax.segmenter import Segmenter, _batch
from gcn_flax.workdir.record import TrainingData
from gcn_flax.workdir.trained import Trained
from tests.runs import build_setup


@pytest.fixture
def folder(tmp_path):
  """Pictures of several sizes and formats, one turned by EXIF, and three that are broken."""
  root = tmp_path / "pictures"
  root.mkdir()
  rng = np.random.default_rng(0)

  def picture(height, width, channels=3):
    small = rng.integers(0, 256, (6, 8, channels)).astype(np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).squeeze()

  exif = Image.Exif()
  exif[0x0112] = 6
  Image.fromarray(picture(70, 101)).save(root / "photo.jpg")
  Image.fromarray(picture(64, 128)).save(root / "turned.jpg", exif=exif)
  Image.fromarray(picture(33, 47, 4)).save(root / "transparent.png")
  Image.fromarray(picture(40, 150, 1)).save(root / "grey.png")
  (root / "cut.jpg").write_bytes((root / "photo.jpg").read_bytes()[:-500])
  (root / "empty.png").write_bytes(b"")
  Image.fromarray(rng.integers(0, 2**16, (20, 20)).astype(np.uint16)).save(root / "deep.png")
  return root


SIZES = {"photo": (70, 101), "turned": (128, 64), "transparent": (33, 47), "grey": (40, 150)}


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["plain", "views"])
def test_every_picture_gets_its_label_map(config, folder, tmp_path, variant):
  if variant == "views":
    config.eval.tile, config.eval.overlap, config.eval.flip, config.eval.scales = (64, 64), 8, True, (0.5, 1.0)
  setup = build_setup(config)
  weights = setup.init(3).weights()
  targets = find_pictures([f"{folder}/*"], tmp_path / "out")
  with pytest.raises(ValueError, match="3 of 7 pictures were left out: .*cut.jpg is damaged or truncated") as error:
    predict_pictures(Segmenter(config, Trained(setup, weights, 0, CAMVID, TrainingData())), targets)
  assert "deep.png has 16 bits per channel" in str(error.value)
  assert "empty.png is damaged or truncated" in str(error.value)
  written = sorted(path.name for path in (tmp_path / "out").iterdir())
  assert written == sorted(name for stem in SIZES for name in (f"{stem}.png", f"{stem}_overlay.jpg"))
  for stem, size in SIZES.items():
    label = Image.open(tmp_path / "out" / f"{stem}.png")
    assert label.mode == "P" and label.getpalette()[:33] == [value for colour in CAMVID.palette for value in colour]
    assert np.asarray(label).shape == cv2.imread(str(tmp_path / "out" / f"{stem}_overlay.jpg")).shape[:2] == size
    if variant == "plain":
      expected = by_hand(setup, weights, read_picture(next(folder.glob(f"{stem}.*"))))
      assert (np.asarray(label) == expected).mean() > 0.999


def by_hand(setup, weights, image):
  """The network on one picture that is padded by the mean pixel to multiples of 32."""
  height, width = image.shape[:2]
  canvas = np.full((1, -(-height // 32) * 32, -(-width // 32) * 32, 3), (124, 116, 104), np.float32)
  canvas[0, :height, :width] = image
  normal = (canvas - weights["normalization"]["mean"]) / weights["normalization"]["std"]
  variables = {name: weights[name] for name in ("params", "batch_stats")}
  return np.argmax(setup.network.apply(variables, normal, train=False)[0, :height, :width], -1)


def test_a_turned_photo_is_read_as_viewers_show_it(folder):
  np.testing.assert_allclose(
    read_picture(folder / "turned.jpg").astype(int), cv2.imread(str(folder / "turned.jpg"))[..., ::-1], atol=4
  )


def test_whatever_a_decoder_raises_names_the_picture(folder, monkeypatch):
  """Pillow raises struct.error for some damaged EXIF, RuntimeError for some damaged AVIF."""

  def fail(image):
    raise struct.error("unpack requires a buffer of 2 bytes")

  monkeypatch.setattr(ImageOps, "exif_transpose", fail)
  with pytest.raises(ValueError, match=r"photo.jpg is damaged or truncated \(unpack requires"):
    read_picture(folder / "photo.jpg")


def test_pictures_too_large_in_one_piece_are_told_to_use_tiles(config, monkeypatch):
  monkeypatch.setattr(segmenter, "MAX_WHOLE", 70 * 100)
  model, image = Segmenter(config, types.SimpleNamespace(label_set=CAMVID)), np.zeros((70, 101, 3), np.uint8)
  with pytest.raises(ValueError, match=r'photo.jpg is 70 x 101, .* Add --config.eval.tile="\(1024,1024\)";'):
    model.pad(image, "photo.jpg")
  config.eval.tile = (64, 64)
  assert model.pad(image).shape == (96, 128, 3)


def test_ten_unreadable_pictures_are_named_and_the_others_counted(config, tmp_path):
  model = types.SimpleNamespace(config=config, label_set=CAMVID, outputs=lambda examples: iter(list(examples)))
  targets = {tmp_path / f"{index:02}.png": tmp_path / "out" / f"{index:02}.png" for index in range(12)}
  (tmp_path / "00.png").mkdir()
  with pytest.raises(ValueError, match="12 of 12 pictures were left out: .*00.png.*09.png.*; and 2 more") as error:
    predict_pictures(model, targets)
  assert "10.png" not in str(error.value)


def test_a_batch_has_one_canvas_and_few_pictures_wait():
  shapes = [(height, width) for width in (100, 200, 300) for height in range(100, 1000, 128)]
  read, done = [], []

  def decoded():
    for shape in shapes * 2:
      read.append(shape)
      image = np.full((*shape, 3), shape[0] % 256, np.uint8)
      yield pathlib.Path(str(shape)), image, np.pad(image, ((0, shape[0] % 64), (0, 0), (0, 0)))

  for batch in _batch(decoded(), 2):
    assert len(read) - len(done) <= 4 * 2 + 1
    assert batch["image"].shape[0] == 2 and len(batch["examples"]) in (1, 2)
    for (path, image, _), size, padded in zip(batch["examples"], batch["size"], batch["image"], strict=False):
      assert tuple(size) == image.shape[:2] and str(path) == str(image.shape[:2])
      np.testing.assert_array_equal(padded[: size[0], : size[1]], image)
      assert not padded[size[0] :].any()
      done.append(image.shape[:2])
  assert sorted(done) == sorted(shapes * 2)


def test_without_the_library_a_crf_is_refused_at_once(config, folder, tmp_path, monkeypatch):
  config.eval.crf.iterations = 2
  monkeypatch.setattr(crf.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ValueError, match="pydensecrf is not installed. Run pip install pydensecrf2"):
    predict.run(config, tmp_path / "run", [f"{folder}/photo*"], tmp_path)
