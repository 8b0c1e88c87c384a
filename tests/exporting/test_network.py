"""The exported PyTorch file gives the labels and probabilities of the network, and says what it cannot use."""

import ast
import importlib.util
import json
import pathlib
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

import gcn_flax
from gcn_flax import export
from gcn_flax.config import get_config
from gcn_flax.config_fields import CHOICES
from gcn_flax.input_pipeline.canvas import canvas_of
from gcn_flax.labels import SHAPES
from gcn_flax.models import torch_names
from gcn_flax.models.gcn import HEADS
from gcn_flax.models.pretrained import FAMILIES, shapes_of
from gcn_flax.models.resnet import BACKBONES
from gcn_flax.tasks import segmentation
from gcn_flax.workdir.record import TrainingData
from gcn_flax.workdir.workdir import Workdir
from tests.models.comparison import random_array, random_variables
from tests.test_main import ROOT

FILE = ROOT / "gcn_flax" / "exporting" / "network.py"
SIZES = ((64, 96), (40, 33), (50, 90))  # Two canvases.
COMBINED = [(backbone, head) for backbone in ("resnet_tiny", "resnet18", "resnet50_gcn") for head in HEADS]
COMBINED += [(backbone, "gcn") for backbone in ("resnet34", "resnet50", "resnet101", "resnet152")]
VARIANTS = {f"{backbone}-{head}": dict(backbone=backbone, head=head) for backbone, head in COMBINED}
VARIANTS |= {
  "unrefined": dict(backbone="resnet_tiny", boundary_refine=False),
  "stack_width": dict(backbone="resnet_tiny", head="stack", kernel_size=7, stack_width=6),
  "caffe-basic": dict(backbone="resnet_tiny", family="caffe"),
  "caffe": dict(backbone="resnet50", family="caffe"),
  "caffe-global": dict(backbone="resnet50_gcn", family="caffe"),
}
QUICK = [name for name in VARIANTS if VARIANTS[name]["backbone"] == "resnet_tiny"]
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS if name not in QUICK]


def config_of(variant: str):
  config = get_config()
  config.model.kernel_size = 5
  config.update_from_flattened_dict({f"model.{name}": value for name, value in VARIANTS[variant].items()})
  config.eval.batch_size = 8
  return config


def write_network(folder: pathlib.Path, config) -> pathlib.Path:
  """Exports a network with random weights and statistics, and the PyTorch file; returns their folder."""
  network = segmentation.network(config, SHAPES.num_classes, "cpu")
  variables = random_variables(network, random_array(1, 32, 32, 3), train=False)
  calm(variables["params"], FAMILIES[config.model.family].std, config.model.boundary_refine)
  data = TrainingData(SHAPES.classes, SHAPES.palette)
  trained = types.SimpleNamespace(weights=variables, step=7, label_set=SHAPES, data=data)
  export.write_weights(config, Workdir(folder), trained)
  shutil.copy(FILE, folder / "export")
  return folder / "export"


def calm(params, std, refines: bool) -> None:
  """Scales random weights so that probabilities of all sizes come out, as of a trained network."""
  encoder = params["encoder"]
  encoder["conv1"]["kernel"] *= np.mean(std) / 58
  for name, block in encoder.items():
    if name.startswith("layer"):
      block["bn3" if "bn3" in block else "bn2"]["scale"] *= 0.3
  params["deconv1"]["kernel"] *= 0.2 if refines else 1


def import_file(folder: pathlib.Path) -> types.ModuleType:
  spec = importlib.util.spec_from_file_location("network", folder / "network.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def pictures(sizes=SIZES) -> list[np.ndarray]:
  rng = np.random.default_rng(1)
  return [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in sizes]


def probabilities_of(model, image: np.ndarray) -> np.ndarray:
  """Returns those of the picture without its padding."""
  with torch.no_grad():
    _, found = model(model.pad(torch.from_numpy(image))[None])
  return found[0, : image.shape[0], : image.shape[1]].numpy()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
  return write_network(tmp_path_factory.mktemp("network"), config_of("resnet_tiny-gcn"))


@pytest.fixture(scope="module")
def network(folder) -> types.ModuleType:
  return import_file(folder)


@pytest.fixture(scope="module")
def model(network):
  return network.load()


@pytest.mark.parametrize("variant", QUICK + SLOW)
def test_labels_and_probabilities_are_those_of_the_network(variant, tmp_path):
  folder, images = write_network(tmp_path, config_of(variant)), pictures()
  model, segmenter = import_file(folder).load(), gcn_flax.load(folder / "network.safetensors")
  equal = []
  for image, expected in zip(images, segmenter.probabilities(images), strict=True):
    found, labels = probabilities_of(model, image), model.predict(image).numpy()
    assert expected.std(axis=(0, 1)).max() > 0.1 and expected.max(-1).mean() < 0.95  # They depend on the picture.
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_array_equal(labels, found.argmax(-1))
    equal.append(labels == expected.argmax(-1))
  assert np.concatenate([each.ravel() for each in equal]).mean() >= 0.999


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_and_shapes_are_those_of_every_network(variant, network):
  config = config_of(variant)
  ours = shapes_of(segmentation.network(config, 3, "cpu"))
  expected = {name: torch_names._torch_shape(path, leaf.shape) for name, (path, leaf) in named_leaves(ours).items()}
  with torch.device("meta"):
    state = network.GCN(json.loads(config.to_json()), {}, config.model.family, 3).state_dict()
  assert {name: tuple(value.shape) for name, value in state.items() if "num_batches" not in name} == expected


def named_leaves(variables):
  return {torch_names._name(path): (path, leaf) for path, leaf in torch_names._leaves(variables)}


def test_it_knows_every_choice(network):
  assert set(network.BACKBONES) == set(BACKBONES) == set(CHOICES["model.backbone"])
  assert set(network.FAMILIES) == set(FAMILIES)
  for name, (mean, std, is_caffe) in network.FAMILIES.items():
    family = FAMILIES[name]
    assert (mean, is_caffe, is_caffe) == (family.rgb_mean, family.bgr, family.stride_in_1x1)
    assert std == (family.std[::-1] if family.bgr else family.std)
  assert {*HEADS, "classifier"} == set(CHOICES["model.head"])
  assert all(network.make_head(head, 4, 3, 5, 0)(torch.ones(1, 4, 8, 8)).shape == (1, 3, 8, 8) for head in HEADS)


def test_a_loaded_network(model):
  assert not model.training and (model.classes, model.palette) == (SHAPES.classes, SHAPES.palette)
  assert (model.pixel_mean, model.pixel_std) == (FAMILIES["torchvision"].mean, FAMILIES["torchvision"].std)
  batch = torch.from_numpy(np.stack(pictures([(64, 96)] * 2)))
  labels, probabilities = model(batch)
  assert labels.dtype == torch.uint8 and labels.shape == (2, 64, 96)
  assert probabilities.dtype == torch.float32 and probabilities.shape == (2, 64, 96, 5)
  torch.testing.assert_close(probabilities.sum(-1), torch.ones(2, 64, 96))
  torch.testing.assert_close(model(batch.float()), (labels, probabilities), rtol=0, atol=0)
  assert labels.float().std() > 0.5  # Several classes.


def test_predict_takes_tensors_and_arrays_with_any_strides(model):
  image = pictures([(40, 33)])[0]
  expected = model.predict(image)
  assert expected.dtype == torch.uint8 and expected.shape == (40, 33) and not expected.requires_grad
  bgr = np.ascontiguousarray(image[..., ::-1])
  for other in (torch.from_numpy(image), bgr[..., ::-1], np.asfortranarray(image)):
    assert torch.equal(model.predict(other), expected)


@pytest.mark.parametrize("size", [(1, 1), (32, 33), (512, 513), (640, 641), (1000, 20)])
@pytest.mark.parametrize("family", ["torchvision", "caffe"])
def test_the_canvas_is_that_of_the_run(network, size, family):
  config = config_of("resnet_tiny-gcn")
  config.model.family = family
  image = pictures([size])[0]
  for fixed in ((), (1024, 672)):
    config.data.eval_size = fixed
    model = network.GCN(json.loads(config.to_json()), {}, family, 2)
    expected = segmentation.eval_transform(config)({"image": image, "image_id": ""})["image"]
    assert expected.shape[:2] == canvas_of(size, fixed)
    np.testing.assert_array_equal(model.pad(torch.from_numpy(image)).numpy(), expected)


def test_a_fixed_canvas_is_used_and_limits_pictures(tmp_path):
  config = config_of("resnet_tiny-gcn")
  config.data.eval_size = (96, 128)
  folder = write_network(tmp_path, config)
  model, segmenter, image = import_file(folder).load(), gcn_flax.load(folder / "network.safetensors"), pictures()[1]
  np.testing.assert_allclose(probabilities_of(model, image), segmenter.probabilities(image), atol=1e-4)
  with pytest.raises(ValueError, match="image: 97 x 20; must fit into the run's canvas, 96 x 128. Shrink it."):
    model.predict(np.zeros((97, 20, 3), np.uint8))


@pytest.mark.parametrize(
  "shape, message",
  [
    ((1, 33, 64, 3), r"images: \[1, 33, 64, 3\]; must be \[B, H, W, 3\], H and W multiples of 32. Pad them"),
    ((1, 64, 40, 3), r"images: \[1, 64, 40, 3\]; must be"),
    ((1, 3, 64, 64), r"images: \[1, 3, 64, 64\]; must be"),
    ((64, 64, 3), r"images: \[64, 64, 3\]; must be"),
  ],
)
def test_batches_of_another_shape_are_refused(model, shape, message):
  with pytest.raises(ValueError, match=message) as error:
    model(torch.zeros(shape))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  "image, message",
  [
    (np.zeros((4, 4, 3)), r"image: torch.float64 \[4, 4, 3\]; must be RGB uint8 \[H, W, 3\]."),
    (np.zeros((4, 4), np.uint8), r"image: torch.uint8 \[4, 4\]; must be"),
    (torch.zeros(3, 4, 4, dtype=torch.uint8), r"image: torch.uint8 \[3, 4, 4\]; must be"),
    (np.zeros((0, 4, 3), np.uint8), r"image: torch.uint8 \[0, 4, 3\]; must be"),
    ("picture.png", "image: str; must be"),
    (Image.new("RGB", (4, 4)), "image: Image; must be"),
  ],
)
def test_what_is_no_picture_is_refused(model, image, message):
  with pytest.raises(ValueError, match=message):
    model.predict(image)


def rewritten(content: bytes, change) -> bytes:
  """Returns a safetensors file whose header `change` has changed."""
  length = int.from_bytes(content[:8], "little")
  header = json.loads(content[8 : 8 + length])
  change(header)
  text = json.dumps(header).encode()
  return len(text).to_bytes(8, "little") + text + content[8 + length :]


def set_config(header, **model):
  config = json.loads(header["__metadata__"]["config"])
  config["model"] |= model
  header["__metadata__"]["config"] = json.dumps(config)


NOT_ONE = "holds no network with a class per pixel"
FAULTS = {
  "empty": (lambda content: b"", "is no safetensors file. Use the network.safetensors that --mode=export wrote."),
  "foreign": (lambda content: b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "is no safetensors file"),
  "half": (lambda content: content[: len(content) // 2], "is cut short, damaged or not float32"),
  "less one byte": (lambda content: content[:-1], "is cut short"),
  "half a header": (lambda content: content[:100], "is cut short"),
  "a huge header": (lambda content: b"\xff" * 8 + content[8:], "is cut short"),
  "text for a header": (lambda content: content[:9] + b"?" * 50 + content[59:], "is cut short"),
  "no metadata": (lambda content: rewritten(content, lambda header: header.pop("__metadata__")), NOT_ONE),
  "metadata of others": (
    lambda content: rewritten(content, lambda header: header.update(__metadata__={"format": "pt"})),
    r"holds no network with a class per pixel \(KeyError\('config'\)\)",
  ),
  "a classifier": (lambda content: rewritten(content, lambda header: set_config(header, head="classifier")), NOT_ONE),
  "a new backbone": (lambda content: rewritten(content, lambda header: set_config(header, backbone="vit")), NOT_ONE),
  "another kernel": (
    lambda content: rewritten(content, lambda header: set_config(header, kernel_size=7)),
    r": 16 tensors are missing, unexpected or misshapen: head2.left_first.weight, .*, \.\.\.\. Export it again",
  ),
  "a tensor too few": (
    lambda content: rewritten(content, lambda header: header.pop("refine0.conv1.bias")),
    "1 tensors are missing, unexpected or misshapen: refine0.conv1.bias. Export",
  ),
  "a tensor too many": (
    lambda content: rewritten(content, lambda header: header.update(more=header["refine0.conv1.bias"])),
    "1 tensors are missing, unexpected or misshapen: more. Export",
  ),
  "halves": (
    lambda content: rewritten(content, lambda header: header["refine0.conv1.bias"].update(dtype="F16")),
    r"damaged or not float32 \(refine0.conv1.bias is F16 \[5\]",
  ),
  "negative sides": (
    lambda content: rewritten(content, lambda header: header["refine0.conv1.bias"].update(shape=[-1, -5])),
    "damaged or not float32",
  ),
  "numbers out of the header": (
    lambda content: rewritten(content, lambda header: header["refine0.conv1.bias"].update(data_offsets=[-40, -20])),
    r"damaged or not float32 \(refine0.conv1.bias is F32 \[5\] in bytes -40 to -20\)",
  ),
  "a transposed tensor": (
    lambda content: rewritten(content, lambda header: header["encoder.conv1.weight"]["shape"].reverse()),
    "1 tensors are missing, unexpected or misshapen: encoder.conv1.weight. Export",
  ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_files_that_do_not_fit_are_named(fault, network, folder, tmp_path):
  damage, message = FAULTS[fault]
  path = tmp_path / "damaged.safetensors"
  path.write_bytes(damage((folder / "network.safetensors").read_bytes()))
  with pytest.raises(ValueError, match=message) as error:
    network.load(path)
  assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_the_encoder_alone_is_refused(network, folder):
  with pytest.raises(ValueError, match=NOT_ONE):
    network.load(folder / "encoder.safetensors")


def test_it_imports_torch_and_the_standard_library_alone():
  """Pillow within the functions that read and write pictures."""
  tree = ast.parse(FILE.read_text())

  def libraries(nodes):
    for node in nodes:
      if isinstance(node, ast.Import):
        yield from (alias.name.split(".")[0] for alias in node.names)
      elif isinstance(node, ast.ImportFrom):
        assert node.level == 0
        yield node.module.split(".")[0]

  assert set(libraries(tree.body)) - sys.stdlib_module_names == {"torch"}
  assert set(libraries(ast.walk(tree))) - sys.stdlib_module_names == {"torch", "PIL"}


def test_the_command_line(folder, model, tmp_path):
  """In another directory, on a picture that EXIF turns."""
  exif = Image.Exif()
  exif[0x0112] = 6
  image = pictures([(40, 33)])[0]
  Image.fromarray(np.rot90(image)).save(tmp_path / "picture.png", exif=exif)
  command = [sys.executable, "-I", folder / "network.py", "picture.png"]
  for output in ([], ["out.png"]):
    done = subprocess.run(command + output, capture_output=True, text=True, cwd=tmp_path)
    path = output[0] if output else "labels.png"
    assert (done.returncode, done.stdout, done.stderr) == (0, f"wrote {path}\n", "")
    written = Image.open(tmp_path / path)
    assert written.mode == "P" and written.getpalette()[:15] == [value for colour in SHAPES.palette for value in colour]
    np.testing.assert_array_equal(np.asarray(written), model.predict(image).numpy())


@pytest.mark.parametrize(
  "arguments, message",
  [
    ([], "usage: python network.py PICTURE [OUTPUT.png]"),
    (["a.png", "b.png", "c.png"], "usage: python network.py PICTURE [OUTPUT.png]"),
    (["text.png"], "error: text.png: cannot be read as a picture (cannot identify image file 'text.png')."),
    (["cut.png"], "error: cut.png: cannot be read as a picture ("),
    (["deep.png"], "error: deep.png: cannot be read as a picture (its pixels are I;16, not 8-bit)."),
    (["gone.png"], "error: gone.png: cannot be read as a picture ([Errno 2] No such file"),
    (["picture.png", "no/out.png"], "error: [Errno 2] No such file or directory"),
  ],
)
def test_mistakes_on_the_command_line_are_one_line(network, tmp_path, monkeypatch, arguments, message):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "argv", ["network.py", *arguments])
  Image.fromarray(pictures()[0]).save("picture.png")
  pathlib.Path("cut.png").write_bytes(pathlib.Path("picture.png").read_bytes()[:9000])
  Image.new("I;16", (4, 4)).save("deep.png")
  pathlib.Path("text.png").write_text("no picture")
  with pytest.raises(SystemExit) as error:
    network.main()
  assert error.value.code.startswith(message) and "\n" not in error.value.code


def test_without_a_palette_labels_are_grey(network, tmp_path):
  network.write_labels(tmp_path / "out.png", torch.tensor([[3, 4]], dtype=torch.uint8), ())
  written = Image.open(tmp_path / "out.png")
  assert written.mode == "L" and np.asarray(written).tolist() == [[3, 4]]
