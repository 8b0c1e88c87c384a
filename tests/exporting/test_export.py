"""Exported files give the network's results in their own runtimes, for pictures of any size, without the data set."""

import json
import logging
import re
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors
from jax import export as jax_export
from PIL import Image

import gcn_flax
from gcn_flax import export, main
from gcn_flax.exporting import agreement, onnx_graph
from gcn_flax.input_pipeline import canvas
from gcn_flax.models import torch_names
from gcn_flax.models.gcn import GCN, HEADS
from gcn_flax.models.ops import REFERENCE
from gcn_flax.models.pretrained import FAMILIES
from gcn_flax.training.steps import normalize
from gcn_flax.workdir.workdir import Workdir

SIZES = ((64, 96), (50, 70), (33, 60))
OPERATORS = {
  "Add", "ArgMax", "Cast", "Conv", "ConvTranspose", "Div", "MaxPool", "Relu", "Softmax", "Sub", "Transpose",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(_trained_run, tmp_path_factory):
  """An exported workdir whose data set is gone; the command line overrides what has no place in the metadata."""
  workdir = shutil.copytree(_trained_run, tmp_path_factory.mktemp("exported") / "run")
  flags = ["--config.data.data_dir=gone", "--config.eval.flip=True", "--config.total_steps=99"]
  assert main.main(["gcn_flax", "--mode=export", f"--workdir={workdir}", *flags]) == 0
  return workdir


@pytest.fixture(scope="module")
def images():
  rng = np.random.default_rng(0)
  return [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in SIZES]


def description(workdir):
  return json.loads((workdir / "export" / "network.json").read_text())


def test_every_file_agrees_with_the_network(run):
  found = description(run)
  assert found["pictures"] == "5 pictures of the samples that training kept, at most 1024 x 1024 pixels of each"
  assert set(found["agreement"]) == {"network.onnx", "network.stablehlo", "network.py"}
  assert {path.name for path in (run / "export").iterdir()} == set(export._FILES)
  for each in found["agreement"].values():
    assert each["equal_labels"] > 0.999 and each["largest_difference"] < 1e-3


def test_settings_and_metadata_are_those_of_the_run(run):
  model = onnx.load(run / "export/network.onnx")
  metadata = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
  settings = json.loads((run / "config.json").read_text())
  assert metadata["settings"] == description(run)["settings"] == settings
  assert metadata["classes"][:2] == ["sky", "building"] and metadata["palette"][1] == [128, 0, 0]
  assert metadata["step"] == 2 and metadata["padding_pixel"] == [124, 116, 104]
  assert metadata["canvas"] == [] and metadata["canvas_rule"].startswith("each side is rounded up to a multiple of 32")
  with safetensors.safe_open(run / "export/network.safetensors", "numpy") as file:
    assert json.loads(file.metadata()["config"]) == settings


def test_the_lines_of_the_readme_run(run, images, monkeypatch):
  monkeypatch.chdir(run / "export")
  monkeypatch.syspath_prepend(str(run / "export"))
  monkeypatch.delitem(sys.modules, "network", raising=False)
  text = (run / "export" / "README.md").read_text()
  padding, *blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
  assert len(blocks) == 4 and "0. sky" in text and "100.000 %" in text
  model = gcn_flax.load(run)
  for image in images:
    Image.fromarray(image).save("photo.png")
    expected = model.predict(image)
    for block in blocks:
      names = {}
      exec((padding + block).replace("photo.jpg", "photo.png"), names)
      assert (np.asarray(names["labels"]) == expected).mean() > 0.999
  monkeypatch.delitem(sys.modules, "network")


@pytest.mark.parametrize("size", [(512, 513), (641, 20), (1000, 1025)])
def test_the_lines_of_the_readme_pad_as_the_run(run, size, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  padding, *_ = re.findall(r"```python\n(.*?)```", (run / "export" / "README.md").read_text(), re.DOTALL)
  image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
  Image.fromarray(image).save("photo.png")
  names = {}
  exec(padding.replace("photo.jpg", "photo.png"), names)
  expected = gcn_flax.load(run).pad(image)
  assert expected.shape[:2] == canvas.canvas_of(size)
  np.testing.assert_array_equal(names["images"], expected[None])


def test_programs_take_any_batch_and_any_size(run):
  programs = [agreement.stablehlo_runtime((run / "export/network.stablehlo").read_bytes())]
  programs.append(agreement.onnx_runtime((run / "export/network.onnx").read_bytes()))
  for shape in ((1, 32, 32), (2, 96, 160)):
    images = np.random.default_rng(1).integers(0, 256, (*shape, 3)).astype(np.uint8)
    (labels, probabilities), (others, _) = (program(images) for program in programs)
    assert labels.shape == others.shape == shape and labels.dtype == others.dtype == np.uint8
    assert probabilities.shape == (*shape, 11) and probabilities.dtype == np.float32
    assert (labels == others).mean() > 0.999


def test_stablehlo_is_for_all_platforms(run):
  exported = jax_export.deserialize(bytearray((run / "export/network.stablehlo").read_bytes()))
  assert exported.platforms == ("cpu", "cuda", "tpu")


def test_a_size_can_be_fixed_and_pictures_chosen(_trained_run, tmp_path, images, capsys):
  """Pictures that are larger are cut."""
  workdir = shutil.copytree(_trained_run, tmp_path / "run")
  for index, image in enumerate(images):
    Image.fromarray(image).save(tmp_path / f"{index}.png")
  flags = ["--export_size=64,64", f"--images={tmp_path}/*.png", "--config.data.data_dir=gone"]
  assert main.main(["gcn_flax", "--mode=export", f"--workdir={workdir}", *flags]) == 0
  shape = onnx.load(workdir / "export/network.onnx").graph.input[0].type.tensor_type.shape
  assert [dim.dim_value or dim.dim_param for dim in shape.dim] == ["B", 64, 64, 3]
  exported = jax_export.deserialize(bytearray((workdir / "export/network.stablehlo").read_bytes()))
  assert exported.in_avals[0].shape[1:] == (64, 64, 3)
  found = description(workdir)
  assert found["pictures"] == "3 pictures of --images, at most 64 x 64 pixels of each"
  assert "rows, columns = 64, 64" in (workdir / "export/README.md").read_text()
  assert all(each["equal_labels"] > 0.999 for each in found["agreement"].values())
  assert "network.onnx: 100.000 % equal labels, largest difference of a probability" in capsys.readouterr().out


def test_pictures_are_those_of_the_data_set_or_generated(trained_run, data_dir, monkeypatch, caplog):
  monkeypatch.setattr(logging.getLogger("gcn_flax"), "propagate", True)
  model = gcn_flax.load(trained_run, overrides={"data.data_dir": data_dir})
  found = export._find_pictures(model, Workdir(trained_run), [])
  assert found.text.startswith("5 pictures of camvid validation") and len(found.images) == 5
  shutil.rmtree(trained_run / "samples")
  model = gcn_flax.load(trained_run, overrides={"data.data_dir": "gone"})
  found = export._find_pictures(model, Workdir(trained_run), [])
  assert found.text.startswith("6 pictures of noise") and len(found.images) == 6
  assert "WARNING: exported files are compared on noise. " in caplog.text


def test_large_pictures_are_cut(run, tmp_path):
  Image.new("RGB", (40, 1100)).save(tmp_path / "tall.png")
  for canvas_size, expected in (((), (1024, 40, 3)), ((64, 32), (64, 32, 3))):
    model = gcn_flax.load(run, overrides={"data.eval_size": canvas_size})
    (image,) = export._find_pictures(model, Workdir(run), [f"{tmp_path}/tall.png"]).images
    assert image.shape == expected


def test_a_picture_that_cannot_be_read_stops_it_before_anything_is_written(_trained_run, tmp_path, capsys):
  (tmp_path / "broken.png").write_bytes(b"no picture")
  flags = ["gcn_flax", "--mode=export", f"--workdir={_trained_run}", f"--images={tmp_path}/broken.png"]
  assert main.main(flags) == 1
  assert "broken.png is damaged or truncated" in capsys.readouterr().err and not (_trained_run / "export").exists()


def test_without_its_library_a_file_is_not_compared(run, images, monkeypatch, capsys):
  original, hidden = agreement.importlib.util.find_spec, ("torch", "onnxruntime")
  monkeypatch.setattr(
    agreement.importlib.util, "find_spec", lambda name, *rest: None if name in hidden else original(name, *rest)
  )
  found = export._compare(gcn_flax.load(run), run / "export", images[:1])
  assert found["network.stablehlo"]["equal_labels"] > 0.999
  assert found["network.py"] == {"not_checked": "not compared: no torch"}
  assert found["network.onnx"] == {"not_checked": "not compared: no onnxruntime"}
  printed = capsys.readouterr().out
  assert "network.py: not compared with the network, torch is not installed. pip install torch" in printed
  assert "network.onnx: not compared with the network, onnxruntime is not installed" in printed


@pytest.mark.parametrize(
  "size, message",
  [
    ("50,64", "--export_size=50,64: sides must be multiples of 32. Use --export_size=64,64."),
    ("64", "must be H,W"),
    ("0,0", "Use --export_size=32,32."),
    ("65536,65536", "--export_size=65536,65536: more than the 67,108,864 pixels that are predicted whole."),
  ],
)
def test_wrong_sizes_are_named(_trained_run, size, message, capsys):
  assert main.main(["gcn_flax", "--mode=export", f"--workdir={_trained_run}", f"--export_size={size}"]) == 1
  assert message in capsys.readouterr().err and not (_trained_run / "export").exists()


CASES = {
  **{head: ("resnet_tiny", head, "torchvision", head != "stack") for head in HEADS},
  "caffe": ("resnet50", "pointwise", "caffe", True),
  "resnet50_gcn": ("resnet50_gcn", "gcn", "torchvision", False),
}


@pytest.mark.parametrize(
  "case", [pytest.param(case, marks=() if case in HEADS else pytest.mark.slow) for case in CASES]
)
def test_onnx_is_the_network_with_folded_normalisation(case):
  """With random weights and statistics, so that nothing is the identity."""
  backbone, head, family, refine = CASES[case]
  family, rng = FAMILIES[family], np.random.default_rng(2)
  network = GCN(5, backbone, 5, head, boundary_refine=refine, stride_in_1x1=family.stride_in_1x1, ops=REFERENCE)

  def draw(path, leaf):
    name, noise = path[-1].key, rng.standard_normal(leaf.shape).astype(np.float32)
    if name == "kernel":
      return noise / np.float32(np.sqrt(np.prod(leaf.shape[:3])))
    return 1 + 0.2 * np.abs(noise) if name in ("scale", "var") else 0.2 * noise

  shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
  variables = jax.tree_util.tree_map_with_path(draw, shapes)
  images = rng.integers(0, 256, (2, 64, 96, 3)).astype(np.uint8)
  content = onnx_graph.serialize(torch_names.to_tensors(variables), family, {})
  assert {node.op_type for node in onnx.load_from_string(content).graph.node} <= OPERATORS
  labels, probabilities = onnxruntime.InferenceSession(content).run(None, {"images": images})
  apply = jax.jit(lambda images: network.apply(variables, normalize(images, family.arrays()), train=False))
  logits = np.asarray(apply(images))
  np.testing.assert_allclose(probabilities, jax.nn.softmax(logits), atol=2e-4)
  assert (labels == logits.argmax(-1)).mean() > 0.999 and len(np.unique(labels)) > 1


def test_a_wrong_weight_is_seen(run, images, monkeypatch, caplog):
  monkeypatch.setattr(logging.getLogger("gcn_flax"), "propagate", True)
  model = onnx.load(run / "export/network.onnx")
  weight = next(each for each in model.graph.initializer if each.name == "deconv1.weight")
  wrong = -onnx.numpy_helper.to_array(weight)
  weight.CopyFrom(onnx.numpy_helper.from_array(wrong, weight.name))
  network = gcn_flax.load(run)
  runtimes = {"network.onnx": agreement.onnx_runtime(model.SerializeToString())}
  found = agreement.compare(runtimes, [(network.pad(image), network.probabilities(image)) for image in images])
  assert found["network.onnx"].equal_labels < 0.9 and found["network.onnx"].largest_difference > 0.01
  export._print_agreement("network.onnx", found["network.onnx"])
  assert "WARNING: network.onnx gives other labels than the network." in caplog.text


def test_a_probability_that_is_not_a_number_is_seen():
  probabilities = np.full((2, 3, 4), 0.25, np.float32)
  broken = np.where(np.arange(4) == 3, np.nan, probabilities)[None]
  runtimes = {"broken": lambda images: (np.zeros((1, 2, 3), np.uint8), broken)}
  found = agreement.compare(runtimes, [(np.zeros((2, 3, 3), np.uint8), probabilities)])
  assert found["broken"] == agreement.Agreement(1.0, 1.0)
