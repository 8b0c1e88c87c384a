"""An image has the same label map in every mode: the canvas is a function of its own size."""

import json
import logging
import shutil

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import camvid
from gcn_flax import command_line, commands, evaluate, main, train
from gcn_flax.input_pipeline.canvas import canvas_of
from gcn_flax.input_pipeline.datasets import open_source
from gcn_flax.tasks import segmentation
from gcn_flax.workdir.workdir import Workdir
from tests.conftest import tiny_config


@pytest.fixture(scope="module")
def run(mixed_data_dir, tmp_path_factory):
  """A workdir trained on images of mixed sizes, and the label maps of its last evaluation by image id."""
  config, workdir = tiny_config(mixed_data_dir), tmp_path_factory.mktemp("mixed_run") / "run"
  config.total_steps = 2
  with pytest.MonkeyPatch.context() as patch:
    label_maps = recorded_label_maps(patch)
    train.run(config, workdir)
  return workdir, label_maps


@pytest.fixture
def pictures(mixed_data_dir, tmp_path):
  """The images of the validation split as files."""
  source, folder = open_source("camvid", "validation", mixed_data_dir), tmp_path / "pictures"
  folder.mkdir()
  for example in source:
    cv2.imwrite(str(folder / f"{example['image_id']}.png"), example["image"][..., ::-1])
  return folder


def recorded_label_maps(patch):
  """Returns a dict that evaluations fill: image id -> label map."""
  found, original = {}, evaluate._Tally.count

  def count(self, result, postprocess):
    index, counts, row = original(self, result, postprocess)
    found[row.image_id] = row.prediction
    return index, counts, row

  patch.setattr(evaluate._Tally, "count", count)
  return found


def flags(data_dir, workdir, *more):
  return [
    "gcn_flax",
    "--config=configs/camvid.py",
    f"--workdir={workdir}",
    f"--config.data.data_dir={data_dir}",
    "--config.model.kernel_size=3",
    *more,
  ]


def assert_same(found, expected):
  assert found.keys() == expected.keys()
  for name, label in expected.items():
    np.testing.assert_array_equal(found[name], label, name)


def read_folder(folder, names):
  return {name: np.asarray(Image.open(folder / f"{name}.png")) for name in names}


def test_every_mode_gives_the_same_label_maps(run, pictures, mixed_data_dir, tmp_path, monkeypatch, caplog):
  workdir, expected = run
  monkeypatch.setattr(commands, "log_to_stderr", lambda quiet: None)
  caplog.set_level(logging.INFO, "gcn_flax")
  sizes = [label.shape for label in expected.values()]
  assert len(sizes) == 5 and len(set(sizes)) == 3 and len(set(map(canvas_of, sizes))) == 2

  found = recorded_label_maps(monkeypatch)
  assert main.main(flags(mixed_data_dir, workdir, "--mode=eval", "--checkpoint=last")) == 0
  assert_same(found, expected)
  assert caplog.text.count("compiling inference on images of") == 2

  predict = ["--mode=predict", "--checkpoint=last", f"--images={pictures}/*.png", f"--output={tmp_path}/out"]
  assert main.main(flags(mixed_data_dir, workdir, *predict)) == 0
  assert_same(read_folder(tmp_path / "out", expected), expected)

  assert main.main(flags(mixed_data_dir, workdir, "--mode=export", "--checkpoint=last")) == 0
  found.clear()
  exported = f"--config.init_from={workdir}/export/network.safetensors"
  assert main.main(flags(mixed_data_dir, tmp_path / "other", "--mode=eval", "--checkpoint=0", exported)) == 0
  assert_same(found, expected)


def test_the_canvas_of_a_run_is_kept_and_another_one_is_named(run, pictures, mixed_data_dir, tmp_path, monkeypatch):
  """The run was evaluated on a fixed canvas; the recipe has the default, each image's own size."""
  workdir = shutil.copytree(run[0], tmp_path / "run")
  settings = json.loads((workdir / "config.json").read_text())
  settings["data"]["eval_size"] = [96, 128]
  (workdir / "config.json").write_text(json.dumps(settings))
  seen = []
  original = evaluate.evaluate

  def evaluated(config, *arguments, **kwargs):
    seen.append(tuple(config.data.eval_size))
    return original(config, *arguments, **kwargs)

  monkeypatch.setattr(evaluate, "evaluate", evaluated)
  assert main.main(flags(mixed_data_dir, workdir, "--mode=eval", "--checkpoint=last")) == 0
  result = json.loads((workdir / "eval_validation.json").read_text())
  assert seen == [(96, 128)] and "eval_size_of_training" not in result and result["num_canvases"] == 1

  config, given = command_line.parse(flags(mixed_data_dir, workdir))
  assert commands._with_canvas(config, Workdir(workdir), given).data.eval_size == (96, 128)
  own_size = "--config.data.eval_size=()"
  config, given = command_line.parse(flags(mixed_data_dir, workdir, own_size))
  assert commands._with_canvas(config, Workdir(workdir), given).data.eval_size == ()
  assert main.main(flags(mixed_data_dir, workdir, "--mode=eval", "--checkpoint=last", own_size)) == 0
  result = json.loads((workdir / "eval_validation.json").read_text())
  assert seen == [(96, 128), ()] and result["eval_size_of_training"] == [96, 128] and result["num_canvases"] == 2

  assert main.main(flags(mixed_data_dir, workdir, "--mode=export", "--checkpoint=last")) == 0
  exported = f"--config.init_from={workdir}/export/network.safetensors"
  assert main.main(flags(mixed_data_dir, tmp_path / "other", "--mode=eval", "--checkpoint=0", exported)) == 0
  assert seen[-1] == (96, 128)


def test_the_network_sees_one_image_at_a_time():
  """In a batch, the order of sums would depend on the number of images."""
  shapes = []

  class Logits:
    def argmax(self):
      return jnp.zeros((1, 32, 64), jnp.uint8)

  def apply(images):
    shapes.append(images.shape)
    return Logits()

  infer = segmentation.inference(camvid.get_config())
  found = infer(apply, jnp.zeros((3, 32, 64, 3), jnp.uint8), jnp.zeros((3, 2), jnp.int32))
  assert found.shape == (3, 32, 64) and set(shapes) == {(1, 32, 64, 3)}
