"""Submission folders for the servers of VOC and Cityscapes, from small copies of the official archives."""

import types
import zlib

import numpy as np
import pytest
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official
from PIL import Image

from configs import cityscapes as cityscapes_recipe
from configs import pascal_voc
from gcn_flax import submission
from gcn_flax.run_data import RunData
from gcn_flax.submission import competition, open_folder, predict_split
from gcn_flax.workdir.record import TrainingData
from gcn_flax.workdir.trained import Trained
from gcn_flax.workdir.workdir import Workdir
from tests.data_sets import archives
from tests.runs import build_setup, evaluate_split


def shrunk(config, data_dir):
  config.data.data_dir = data_dir
  config.data.eval_size = (96, 96)
  config.data.num_threads = 2
  config.eval.batch_size = 8
  config.eval.tile, config.eval.overlap = (), 0
  config.model.backbone, config.model.kernel_size, config.model.dtype = "resnet_tiny", 3, "float32"
  return config


def predicted(config, kind, split, output):
  """Writes a submission with random weights; returns the trained network, the folder and the source."""
  folder = open_folder(config, Workdir(output / "no_run"), kind, split, output)
  source = RunData(config).dataset(config.data.dataset).source(split)
  setup = build_setup(config)
  trained = Trained(setup, setup.init(1).weights(), 0, source.label_set, TrainingData())
  assert predict_split(config, trained, folder, source) == len(source)
  return trained, folder, source


def test_the_submission_folder_of_voc(voc, tmp_path):
  config = shrunk(pascal_voc.get_config("ablation:modern"), voc.data_dir)
  _, submitted, source = predicted(config, "voc", "test", tmp_path)
  folder = tmp_path / "results" / "VOC2012" / "Segmentation" / "comp6_test_cls"
  assert submitted.folder == folder
  assert sorted(path.name for path in folder.iterdir()) == [f"{name}.png" for name in sorted(archives.VOC_TEST)]
  for example in source:
    label = Image.open(folder / f"{example['image_id']}.png")
    assert label.mode == "P" and np.asarray(label).shape == example["image"].shape[:2]
    assert label.getpalette()[3 * 15 : 3 * 16] == [192, 128, 128]  # VOC's colour of persons.

  with pytest.raises(ValueError, match="comp6_test_cls is not empty. Remove its content"):
    predict_split(config, None, submitted, source)
  check_damage_is_reported(submitted, source)


def check_damage_is_reported(submitted, source):
  """Checks that everything a server rejects is reported with the file."""
  first, second = (submitted.path(source.image_id(index)) for index in range(2))
  whole = first.read_bytes()
  label = Image.open(first)
  palette = label.getpalette()

  def wrong(array, mode_palette=palette):
    image = Image.fromarray(array)
    if mode_palette:
      image.putpalette(mode_palette)
    image.save(first)
    return pytest.raises(ValueError, match="is not ready for the server")

  array = np.asarray(label)
  for broken, options, message in [
    (array[1:], {}, f"{first.name} is {array.shape[0] - 1} x {array.shape[1]}, its image {array.shape[0]} x"),
    (np.where(array == array[0, 0], 255, array).astype(np.uint8), {}, f"{first.name} holds 255, which is no class"),
    (
      np.where(array == array[0, 0], 255, 254).astype(np.uint8),
      {},
      f"{first.name} holds 254, 255, which are no classes",
    ),
    (array, {"mode_palette": None}, f"{first.name} is of mode L instead of P"),
    (array, {"mode_palette": palette[::-1]}, f"{first.name} has another palette than VOC's"),
    (np.stack([array] * 3, -1), {"mode_palette": None}, f"{first.name} is of mode RGB"),
  ]:
    with wrong(broken, **options) as error:
      submitted.check(source)
    assert message in str(error.value)
  with wrong(array) as error:  # A header that claims a picture of 40,000 x 40,000.
    broken = bytearray(first.read_bytes())
    broken[16:24] = (40_000).to_bytes(4, "big") * 2
    broken[29:33] = zlib.crc32(broken[12:29]).to_bytes(4, "big")
    first.write_bytes(bytes(broken))
    submitted.check(source)
  assert f"{first.name} cannot be read" in str(error.value)
  first.write_bytes(whole[: whole.index(b"IDAT") + 8])  # Four bytes of the pixels.
  (submitted.folder / "2099_000001.png").write_bytes(whole)
  second.unlink()
  with pytest.raises(ValueError, match="1 of 2 files are missing") as error:
    submitted.check(source)
  for fault in (f"{second.name} is missing", "2099_000001.png belongs to no image", f"{first.name} cannot be read"):
    assert fault in str(error.value)


def test_the_official_cityscapes_script_computes_the_same_metrics(cityscapes, tmp_path, monkeypatch):
  config = shrunk(cityscapes_recipe.get_config(), cityscapes.data_dir)
  trained, submitted, _ = predicted(config, "cityscapes", "validation", tmp_path / "results")
  truth = tmp_path / "truth"
  truth.mkdir()
  files = cityscapes.files["gtFine_trainvaltest.zip"]
  wanted = [name for name in files if "/val/" in name and name.endswith(("labelIds.png", "instanceIds.png"))]
  for name in wanted:
    (truth / name.rpartition("/")[2]).write_bytes(files[name])
  arguments = types.SimpleNamespace(**{**vars(official.args), "quiet": True, "JSONOutput": False})
  arguments.predictionPath = str(submitted.folder)
  labels = sorted(str(path) for path in truth.glob("*labelIds.png"))
  monkeypatch.setattr(np, "in1d", np.isin, raising=False)  # cityscapesscripts 2.3.0 calls what NumPy has dropped.
  pairs = [official.getPrediction(arguments, path) for path in labels]
  expected = official.evaluateImgLists(pairs, labels, arguments)
  scores = evaluate_split(config, trained.setup, trained.weights).scalars
  assert len(labels) == 1 and scores["mean_iou"] > 0
  for ours, theirs in [
    ("mean_iou", "averageScoreClasses"), ("mean_instance_iou", "averageScoreInstClasses"),
    ("mean_category_iou", "averageScoreCategories"), ("mean_category_instance_iou", "averageScoreInstCategories"),
  ]:  # fmt: skip
    np.testing.assert_allclose(scores[ours], expected[theirs], rtol=0, atol=1e-9)


def test_cityscapes_test_is_predicted_without_labels(cityscapes, tmp_path):
  config = shrunk(cityscapes_recipe.get_config(), cityscapes.data_dir)
  _, submitted, source = predicted(config, "cityscapes", "test", tmp_path)
  assert sorted(path.name for path in tmp_path.iterdir()) == [
    "berlin_000000_000019_labelIds.png", "bonn_000000_000019_labelIds.png"
  ]  # fmt: skip
  values = np.unique([value for path in tmp_path.iterdir() for value in np.unique(np.asarray(Image.open(path)))])
  assert set(values) <= {7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33}
  path = submitted.path(source.image_id(0))
  Image.fromarray(np.full_like(np.asarray(Image.open(path)), 18)).save(path)
  with pytest.raises(ValueError, match="labelIds.png holds 18, which is no class"):
    submitted.check(source)


def test_the_training_data_decides_the_competition():
  config = pascal_voc.get_config("ablation")
  assert competition(config.to_dict()) == "comp6"
  config.data.train_mix = (("voc_segmentation", "trainval", "all once"),)
  assert competition(config.to_dict()) == "comp5"
  config.init_from = "runs/another"
  assert competition(config.to_dict()) == "comp6"
  assert competition(pascal_voc.get_config("stage3").to_dict()) == "comp6"


def test_the_competition_follows_the_trained_config_and_not_the_flags(voc, tmp_path):
  trained = shrunk(pascal_voc.get_config("ablation:modern"), voc.data_dir)
  trained.data.train_mix = (("voc_segmentation", "trainval", "all once"),)
  trained.model.pretrained = "resnet.safetensors"
  (tmp_path / "checkpoints" / "7" / "state").mkdir(parents=True)
  (tmp_path / "config.json").write_text(trained.to_json())
  trained.model.pretrained = ""
  submitted = open_folder(trained, Workdir(tmp_path), "voc", "test", tmp_path)
  assert submitted.folder.name == "comp6_test_cls"
  submitted = open_folder(trained, Workdir(tmp_path / "other"), "voc", "validation", tmp_path)
  assert submitted.folder.name == "comp5_val_cls"


def test_a_submission_for_another_data_set_is_rejected(voc, tmp_path):
  config = shrunk(pascal_voc.get_config("ablation:modern"), voc.data_dir)
  with pytest.raises(
    ValueError, match="--submission=cityscapes is for the data set cityscapes, but .*voc_segmentation"
  ):
    open_folder(config, Workdir(tmp_path), "cityscapes", "test", tmp_path)
  config.data.eval_size = (32, 32)
  with pytest.raises(ValueError, match="config.data.eval_size=.32, 32.: voc_segmentation 'test' has images of up to"):
    submission.run(config, tmp_path / "run", "voc")


@pytest.mark.parametrize("image_id", ["../escaped", "/escaped", "city/escaped", "two\nlines", "nul\0", ".."])
def test_image_ids_that_lead_out_of_the_folder_are_rejected_before_any_work(voc, tmp_path, monkeypatch, image_id):
  config = shrunk(pascal_voc.get_config("ablation:modern"), voc.data_dir)
  monkeypatch.setattr(submission.Source, "image_id", lambda source, index: image_id)
  monkeypatch.setattr(submission, "load_trained", lambda *args: pytest.fail("weights were loaded"))
  with pytest.raises(ValueError, match="the image id .* Rename the image"):
    submission.run(config, tmp_path / "run", "voc", output=tmp_path / "out")
  with pytest.raises(ValueError, match="the image id .* Rename the image"):
    submission.SubmissionFolder("cityscapes", tmp_path / "out").write(image_id, np.zeros((2, 2), np.uint8))
  assert not list(tmp_path.glob("**/*.png"))
