"""A workdir or an exported file is all that it takes to use a network, on the command line and in Python."""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import types

import cv2
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import gcn_flax
from gcn_flax import command_line, main
from gcn_flax.workdir.samples import sample_pictures
from gcn_flax.workdir.workdir import Workdir
from tests.test_main import ROOT

SIZES = ((64, 96), (50, 70), (33, 60), (64, 96), (70, 33))


@pytest.fixture(scope="module")
def run(_trained_run, tmp_path_factory) -> pathlib.Path:
  """A workdir whose data set is gone, with an exported network."""
  workdir = shutil.copytree(_trained_run, tmp_path_factory.mktemp("copied") / "run")
  settings = json.loads((workdir / "config.json").read_text())
  settings["data"]["data_dir"] = "gone"
  (workdir / "config.json").write_text(json.dumps(settings))
  assert main.main(["gcn_flax", "--mode=export", f"--workdir={workdir}"]) == 0
  return workdir


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[pathlib.Path]:
  """Pictures of several sizes, one of them turned by EXIF."""
  root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
  exif = Image.Exif()
  exif[0x0112] = 6
  for index, (height, width) in enumerate(SIZES):
    image = cv2.resize(rng.integers(0, 256, (6, 8, 3)).astype(np.uint8), (width, height))
    Image.fromarray(image).save(root / f"{index}.jpg", exif=exif if index == 1 else Image.Exif())
  return sorted(root.iterdir())


@pytest.fixture(scope="module")
def model(run):
  return gcn_flax.load(run)


def label(path):
  return np.asarray(Image.open(path))


@pytest.mark.parametrize("flags", [[], ["--config.eval.flip=True", "--config.eval.tile=(64,64)"]], ids=["plain", "TTA"])
@pytest.mark.parametrize("source", ["run", pytest.param("run/export/network.safetensors", marks=pytest.mark.slow)])
def test_python_predicts_what_the_command_line_predicts(run, pictures, tmp_path, source, flags):
  """By the workdir or the exported file alone, in one batch or one by one."""
  path = run.parent / source
  arguments = ["gcn_flax", "--mode=predict", f"--workdir={path}", f"--images={pictures[0].parent}"]
  assert main.main([*arguments, f"--output={tmp_path}/out", *flags]) == 0
  model = gcn_flax.load(path, overrides={"eval.flip": True, "eval.tile": (64, 64)} if flags else None)
  found = model.predict(pictures)
  assert len({each.tobytes() for each in found}) == len(SIZES)
  for picture, labels in zip(pictures, found, strict=True):
    np.testing.assert_array_equal(labels, label(tmp_path / "out" / f"{picture.stem}.png"))
    np.testing.assert_array_equal(labels, model.predict(picture))


def test_images_of_all_kinds(model, pictures):
  expected = model.predict(pictures[1])
  assert expected.dtype == np.uint8 and expected.shape == SIZES[1][::-1]  # Turned by EXIF.
  array = np.ascontiguousarray(cv2.imread(str(pictures[1]))[..., ::-1])
  turned = Image.open(pictures[1])
  for image in (str(pictures[1]), turned, np.asarray(turned.transpose(Image.Transpose.ROTATE_270))):
    np.testing.assert_array_equal(model.predict(image), expected)
  both = model.predict([array, pictures[0]])
  assert [each.shape for each in both] == [array.shape[:2], SIZES[0]] and model.predict([]) == []


def test_probabilities_belong_to_the_label_map(model, pictures):
  labels, probabilities = model.predict(pictures), model.probabilities(pictures)
  for each, soft, size in zip(labels, probabilities, [SIZES[0], SIZES[1][::-1], *SIZES[2:]], strict=True):
    assert soft.dtype == np.float32 and soft.shape == (*size, len(model.classes))
    np.testing.assert_allclose(soft.sum(-1), 1, rtol=1e-5)
    top = np.sort(soft, -1)
    clear = top[..., -1] - top[..., -2] > 1e-5
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(soft.argmax(-1)[clear], each[clear])


def test_classes_palette_and_overlay(model, pictures):
  assert model.classes[:2] == ("sky", "building") and model.palette[1] == (128, 0, 0)
  image = np.zeros((40, 50, 3), np.uint8)
  labels = np.zeros((40, 50), np.uint8)
  assert model.overlay(image, labels).shape == (40, 50, 3)
  assert (model.overlay(image, labels + 1)[20, 20] == np.round(0.55 * np.array(model.palette[1]))).all()
  with pytest.raises(ValueError, match=r"labels: uint8 \(40, 50\); must be uint8 \(64, 96\)"):
    model.overlay(pictures[0], labels)
  assert "resnet_tiny" in repr(model) and "11 classes" in repr(model)


@pytest.mark.compiles
def test_each_canvas_is_compiled_once(run, pictures, caplog):
  model = gcn_flax.load(run)
  with caplog.at_level("INFO", "gcn_flax"):
    for _ in range(2):
      model.predict(pictures)
  compiled = [record.getMessage() for record in caplog.records if "compiling" in record.getMessage()]
  assert len(compiled) == len({(-(-h // 32), -(-w // 32)) for h, w in [SIZES[0], SIZES[1][::-1], *SIZES[2:]]})


@pytest.mark.parametrize(
  "image, message",
  [
    (np.zeros((4, 4, 3)), r"the image is float64 \[4, 4, 3\]: must be RGB uint8"),
    (np.zeros((4, 4), np.uint8), r"the image is uint8 \[4, 4\]: must be RGB"),
    (np.zeros((0, 4, 3), np.uint8), "must be RGB uint8"),
    (Image.new("I;16", (4, 4)), "the image has mode I;16. Convert it to 8-bit RGB"),
    ([5], "int is no image"),
    ([[np.zeros((4, 4, 3), np.uint8)]], "list is no image"),
    (pathlib.Path("README.md"), "README.md is damaged or truncated, or not an 8-bit"),
  ],
)
def test_what_is_no_image_is_named(model, image, message):
  with pytest.raises(ValueError, match=message):
    model.predict(image)


@pytest.mark.parametrize(
  "arguments, message",
  [
    ({"overrides": {"evl.flip": True}}, "overrides: the config has no field 'evl.flip'. Did you mean 'eval.flip'?"),
    ({"overrides": {"eval.flip": "yes"}}, "overrides: eval.flip='yes': "),
    ({"overrides": {"eval.tile": (50, 64)}}, "config.eval.tile="),
    ({"overrides": {"model.kernel_size": 5}}, "config.model.kernel_size was 3, is 5"),
    ({"checkpoint": "7"}, "7"),
    ({"checkpoint": "newest"}, "--checkpoint=newest: must be best, last or a step"),
  ],
)
def test_what_does_not_fit_the_run_is_named(run, arguments, message):
  with pytest.raises(ValueError) as error:
    gcn_flax.load(run, **arguments)
  assert message in str(error.value)


def test_what_is_no_network_is_named(tmp_path, run):
  with pytest.raises(ValueError, match="has no checkpoint"):
    gcn_flax.load(tmp_path)
  (tmp_path / "file.safetensors").write_bytes(b"rubbish")
  with pytest.raises(ValueError, match="is a text file, not safetensors"):
    gcn_flax.load(tmp_path / "file.safetensors")
  safetensors.numpy.save_file({"conv1.weight": np.zeros((1, 1), np.float32)}, tmp_path / "other.safetensors")
  with pytest.raises(ValueError, match="is no network that --mode=export wrote"):
    gcn_flax.load(tmp_path / "other.safetensors")
  with pytest.raises(ValueError, match="an exported network has no checkpoints"):
    gcn_flax.load(run / "export/network.safetensors", checkpoint="last")


def test_settings_come_from_the_workdir_and_flags_override_them(run, caplog, data_dir):
  with caplog.at_level("INFO", "gcn_flax"):
    flags = [f"--workdir={run}", f"--config.data.data_dir={data_dir}", "--config.eval.flip=True"]
    assert main.main(["gcn_flax", "--mode=eval", *flags]) == 0
  config, _ = command_line.parse(["gcn_flax", "--mode=eval", *flags])
  assert config.model.kernel_size == 3 and config.data.crop_size == (64, 64) and config.data.data_dir == data_dir
  assert (run / "eval_validation.json").exists()


def test_what_is_overridden_is_logged(run, pictures, tmp_path, capsys):
  flags = ["--config.eval.flip=True", "--config.seed=0", f"--images={pictures[0]}", f"--output={tmp_path}/out"]
  assert main.main(["gcn_flax", "--mode=predict", f"--workdir={run}", *flags]) == 0
  log = capsys.readouterr().err
  assert "config.eval.flip=True (the run: False)" in log and "config.seed" not in log


def test_a_missing_data_set_is_named(run, capsys):
  assert main.main(["gcn_flax", "--mode=eval", f"--workdir={run}"]) == 1
  assert "'camvid' is not prepared in 'gone'" in capsys.readouterr().err


def test_the_config_of_a_run_is_a_recipe(run, tmp_path):
  config, _ = command_line.parse(
    ["gcn_flax", f"--config={run}/config.json", f"--workdir={tmp_path}", "--config.seed=7"]
  )
  assert (
    config.seed == 7 and config.model.kernel_size == 3 and config.data.train_mix == (("camvid", "train", "all once"),)
  )


def test_an_exported_network_can_be_evaluated_by_the_settings_it_carries(run, data_dir, tmp_path):
  exported = f"--config.init_from={run}/export/network.safetensors"
  flags = ["--mode=eval", "--checkpoint=0", exported, f"--workdir={tmp_path}/new", f"--config.data.data_dir={data_dir}"]
  assert main.main(["gcn_flax", *flags]) == 0
  assert json.loads((tmp_path / "new/eval_validation.json").read_text())["num_images"] == 5


@pytest.mark.parametrize(
  "arguments, message",
  [
    (["--workdir=W"], "--config is missing, for instance --config=configs/quickstart.py"),
    (["--workdir={empty}"], "has no checkpoint"),
    (["--workdir={run}/export/network.safetensors", "--mode=eval"], "is a file, and --mode=eval writes into a folder"),
    (
      ["--workdir={run}/export/network.safetensors", "--mode=predict", "--images=a", "--output=O", "--checkpoint=last"],
      "--checkpoint=last: an exported network has no checkpoints. Leave it out.",
    ),
    (["--workdir={run}", "--config.modle.head=gcn"], "Did you mean --config.model.head=gcn?"),
  ],
)
def test_mistakes_without_a_recipe_are_named(run, tmp_path, arguments, message):
  with pytest.raises(command_line.UserError) as error:
    command_line.parse(["gcn_flax", *(each.format(run=run, empty=tmp_path) for each in arguments)])
  assert message in str(error.value)


def test_training_keeps_samples_of_the_evaluation_split(run, street):
  paths = sample_pictures(Workdir(run))
  kept = [cv2.imread(str(path)) for path in paths]
  known = [cv2.imread(str(path)) for path in sorted((street / "images/val").iterdir())]
  assert len(kept) == 5
  for image in kept:
    assert any((image == other).all() for other in known)


def test_a_classifier_is_refused(class_config, tmp_path):
  (tmp_path / "checkpoints/2/default").mkdir(parents=True)
  (tmp_path / "config.json").write_text(class_config.to_json())
  (tmp_path / "run.json").write_text("{}")
  with pytest.raises(ValueError, match="gcn_flax.load is for classes of pixels"):
    gcn_flax.load(tmp_path)


@pytest.mark.parametrize(
  "line", ["import gcn_flax", "import gcn_flax.main; gcn_flax.main.main(['gcn_flax', '--help'])"]
)
def test_help_does_not_wait_for_jax(line):
  code = f"{line}; import sys; assert not {{'jax', 'tensorflow'}} & set(sys.modules)"
  subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
  assert "load" in dir(gcn_flax) and isinstance(gcn_flax, types.ModuleType)


def test_the_page_on_python_runs(run, pictures, tmp_path, monkeypatch, fast_runs):
  """Every block of docs/PYTHON.md but the last, which trains; `runs/quickstart` is a smaller run."""
  text = (ROOT / "docs" / "PYTHON.md").read_text()
  *blocks, training = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
  assert len(blocks) == 5 and "train.run(config" in training
  monkeypatch.chdir(tmp_path)
  shutil.copytree(run, tmp_path / "runs" / "quickstart")
  shutil.copy(pictures[0], "photo.jpg")
  names = {}
  for block in blocks:
    exec(block, names)
  assert names["labels"].shape == names["confidence"].shape == SIZES[0] and len(names["maps"]) == 2
  assert names["picture"].shape == names["colours"].shape == (*SIZES[0], 3)
  assert sum(names["share"].values()) == pytest.approx(1) and names["logits"].shape == (1, 64, 64, 11)
