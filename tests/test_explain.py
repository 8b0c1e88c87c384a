"""Receptive fields and panels of trained networks: pictures, numbers, and what they are taken from."""

import json
import re
import shutil

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gcn_flax
from gcn_flax import explain, main, train
from gcn_flax.example_pictures import find_examples
from gcn_flax.models.ops import REFERENCE
from gcn_flax.workdir.stored_config import stored_config
from gcn_flax.workdir.workdir import Workdir
from tests.conftest import tiny_config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def other_run(data_dir, tmp_path_factory):
  """A second run of the same data set, with other heads."""
  workdir = tmp_path_factory.mktemp("other") / "pointwise"
  config = tiny_config(data_dir)
  config.total_steps, config.model.head, config.model.boundary_refine = 1, "pointwise", False
  train.run(config, workdir)
  return workdir


def explained(workdir):
  return json.loads((workdir / "explain" / "receptive_field.json").read_text())


def picture_size(path):
  return cv2.imread(str(path)).shape[:2]


def test_networks_are_explained_side_by_side(trained_run, other_run, capsys):
  arguments = ["gcn_flax", "--mode=explain", f"--workdir={trained_run}", f"--other={other_run}"]
  assert main.main(arguments) == 0
  result, printed = explained(trained_run), capsys.readouterr().out
  assert (result["pictures"], result["num_pictures"], result["pixel"]) == ("camvid validation", 5, None)
  assert {name: (each["network"], each["step"]) for name, each in result["networks"].items()} == {
    "trained": ("resnet_tiny, GCN, k = 3, BR", 2), "pointwise": ("resnet_tiny, 1 x 1", 1),
  }  # fmt: skip
  for name, each in [*result["networks"].items(), ("every pixel alike", result["uniform"])]:
    assert 1 > each["mass_outside_radius"]["32"] > each["mass_outside_radius"]["64"] == 0  # Of 64 x 96 pixels.
    assert 0 < each["radius_of_mass"]["0.5"] < each["radius_of_mass"]["0.9"] < 58
    (line,) = (line for line in printed.splitlines() if line.startswith(name))
    assert f"{100 * each['mass_outside_radius']['32']:.1f}" in line.split()
  folder = trained_run / "explain"
  assert sorted(path.name for path in folder.iterdir()) == ["panel.png", "receptive_field.json", "receptive_field.png"]
  height, width = picture_size(folder / "panel.png")
  assert width == 4 * 308 + 8 and height > 5 * 200  # Picture, two predictions, ground truth; five rows.
  assert min(picture_size(folder / "receptive_field.png")) > 500


def test_the_gradient_is_that_of_the_logit(trained_run, data_dir):
  """Against a difference of logits of the network in its reference implementation."""
  network = gcn_flax.load(trained_run)
  examples = find_examples(network.config, Workdir(trained_run), network.classes, 1)
  (field,) = explain.find_fields({"a": network}, examples, (20, 30))["a"]
  weights, image = network.trained.weights, examples[0].image.astype(np.float32)
  module = network.trained.setup.network.clone(ops=REFERENCE)
  variables = {name: weights[name] for name in ("params", "batch_stats")}
  normalization = weights["normalization"]

  @jax.jit
  def logits(image):
    normal = (image - normalization["mean"]) / normalization["std"]
    return module.apply(variables, normal[None], train=False)[0, 20, 30]

  best = int(jnp.argmax(logits(image)))
  gradient = jax.jit(jax.grad(lambda image: logits(image)[best]))(jnp.asarray(image))
  expected = np.linalg.norm(np.asarray(gradient), axis=-1)
  np.testing.assert_allclose(field.mass, expected / expected.sum(), rtol=1e-3, atol=1e-7)
  direction = np.asarray(gradient / jnp.linalg.norm(gradient))
  change = float(logits(image + 0.05 * direction)[best] - logits(image - 0.05 * direction)[best]) / 0.1
  assert change == pytest.approx(float(np.linalg.norm(gradient)), rel=0.05)


def test_mixed_precision_is_explained_in_float32(trained_run):
  network = gcn_flax.load(trained_run)
  examples = find_examples(network.config, Workdir(trained_run), network.classes, 2)
  expected = explain.find_fields({"a": network}, examples, None)["a"]
  config = network.config.copy_and_resolve_references()
  config.model.dtype = "bfloat16"
  (trained_run / "config.json").write_text(config.to_json())
  found = explain.find_fields({"a": gcn_flax.load(trained_run)}, examples, None)["a"]
  np.testing.assert_allclose(found[0].mass, expected[0].mass, rtol=1e-5)


def test_without_the_data_set_it_is_the_samples(trained_run, capsys):
  arguments = ["gcn_flax", "--mode=explain", f"--workdir={trained_run}", "--config.data.data_dir=gone"]
  assert main.main([*arguments, "--pixel=10,90"]) == 0
  result = explained(trained_run)
  assert result["pictures"] == "the samples that training kept" and result["pixel"] == [10, 90]
  assert "receptive field of pixel 10,90, mean of 5 pictures" in capsys.readouterr().out
  assert picture_size(trained_run / "explain" / "panel.png")[1] == 2 * 308 + 8  # No ground truth.
  shutil.rmtree(trained_run / "samples")
  assert main.main(arguments) == 1
  assert "the workdir has no samples. Use --images='a/*.jpg'." in capsys.readouterr().err
  assert main.main([*arguments, "--split=validation"]) == 1
  assert "data set 'camvid' is not prepared in 'gone'" in capsys.readouterr().err


def test_pictures_of_all_sizes_are_taken(trained_run, tmp_path, monkeypatch):
  monkeypatch.setattr(explain, "_WINDOW", (64, 64))
  rng = np.random.default_rng(0)
  for name, size in (("a", (40, 50)), ("b", (150, 90)), ("c", (33, 200))):
    cv2.imwrite(str(tmp_path / f"{name}.png"), rng.integers(0, 256, (*size, 3)).astype(np.uint8))
  result = explain.run(stored_config(trained_run), trained_run, images=[f"{tmp_path}/*.png"])
  assert result["pictures"] == "--images" and result["num_pictures"] == 3
  assert result["uniform"]["mass_outside_radius"]["64"] == 0  # Larger pictures are cut around their centres.


@pytest.mark.parametrize(
  "arguments, message",
  [
    (["--pixel=64,1"], r"--pixel=64,1: val\d has 64 x 96 pixels. Use a row below 64 and a column below 96."),
    (["--pixel=1;2"], "--pixel='1;2': must be a row and a column. Use for instance --pixel=100,150."),
    (["--pixel=-1,2"], "--pixel=-1,2: must be a row and a column."),
    (["--other=WORKDIR"], "WORKDIR: is given twice. Use each run once."),
    (["--other=nowhere"], "nowhere: has no checkpoint"),
    (["--images=nowhere"], "--images='nowhere' matches no picture"),
    (["--images=a.png", "--split=train"], "--split=train names a split of a data set, and --images is none"),
    (["--split=test"], "camvid has no split 'test'"),
  ],
)
def test_mistakes_are_named_in_one_line(trained_run, capsys, arguments, message):
  arguments = [argument.replace("WORKDIR", str(trained_run)) for argument in arguments]
  assert main.main(["gcn_flax", "--mode=explain", f"--workdir={trained_run}", *arguments]) == 1
  error = capsys.readouterr().err.splitlines()[-1].replace(str(trained_run), "WORKDIR")
  assert re.search(message, error), error
  assert not (trained_run / "explain").exists()


def test_networks_of_other_classes_are_rejected(trained_run, other_run, tmp_path, capsys):
  other = shutil.copytree(other_run, tmp_path / "other")
  settings = json.loads((other / "config.json").read_text())
  settings["data"]["dataset"] = "folder"
  record = json.loads((other / "run.json").read_text())
  record["classes"] = [f"class {index}" for index in range(11)]
  (other / "config.json").write_text(json.dumps(settings))
  (other / "run.json").write_text(json.dumps(record))
  assert main.main(["gcn_flax", "--mode=explain", f"--workdir={trained_run}", f"--other={other}"]) == 1
  error = capsys.readouterr().err.splitlines()[-1]
  assert "its classes are class 0, class 1, " in error and "are sky, building, " in error
