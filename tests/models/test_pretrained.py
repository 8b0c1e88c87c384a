"""Weights of PyTorch's networks give the same features; errors name what is wrong in a file, and no code in it runs."""

import argparse
import functools
import gzip
import io
import pathlib
import pickle
import re
import shlex
import shutil
import sys
import tarfile
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch

from gcn_flax.models import pretrained, weights_file
from gcn_flax.models.pretrained import FAMILIES, load_backbone, load_classifier
from gcn_flax.models.resnet import BACKBONES
from tests.models.comparison import assert_close, quick_jit, random_array
from tests.torch_reference import TorchResNet, to_numpy, to_torch


def random_network(name, caffe=False, num_classes=0):
  """Returns a PyTorch network with random weights and random statistics."""
  torch.manual_seed(0)
  network = TorchResNet(name, caffe)
  if num_classes:
    network.fc = torch.nn.Linear(network.channels[-1], num_classes)
  for module in network.modules():
    if isinstance(module, torch.nn.BatchNorm2d):
      torch.nn.init.uniform_(module.weight, 0.3, 0.8)
      torch.nn.init.normal_(module.bias, 0, 0.2)
      torch.nn.init.normal_(module.running_mean, 0, 0.3)
      torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
  return network.eval()


def save(network, path, change=lambda tensors: tensors):
  tensors = change(dict(network.state_dict()))
  if path.suffix == ".safetensors":
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
  else:
    torch.save(tensors, path)
  return path


@functools.cache
def compiled_encoder(name, stride_in_1x1):
  encoder = BACKBONES[name](stride_in_1x1=stride_in_1x1)
  return quick_jit(lambda variables, images: encoder.apply(variables, images, train=False))


def assert_same_features(network, path, name, family="torchvision", size=(32, 160)):
  """Compares all four maps, the last of one row and several columns."""
  variables, images = load_backbone(path, name, family), random_array(1, *size, 3)
  with torch.no_grad():
    expected = network(to_torch(images))
  found = compiled_encoder(name, FAMILIES[family].stride_in_1x1)(variables, images)
  for ours, theirs in zip(found, expected, strict=True):
    assert_close(ours, to_numpy(theirs), 1e-4)


CASES = [
  ("resnet_tiny", "torchvision"),
  ("resnet18", "timm"),
  ("resnet50", "torchvision"),
  ("resnet50", "caffe"),
  ("resnet50_gcn", "torchvision"),
]
OTHERS = [(name, family) for name in BACKBONES for family in FAMILIES if (name, family) not in CASES]


@pytest.mark.parametrize("name, family", CASES + [pytest.param(*case, marks=pytest.mark.slow) for case in OTHERS])
def test_features_equal_torch(name, family, tmp_path):
  """From both kinds of files."""
  network = random_network(name, caffe=family == "caffe")
  path = save(network, tmp_path / "weights.safetensors")
  assert_same_features(network, path, name, family)
  if name == "resnet_tiny":
    assert_same_features(network, path, name, family, size=(96, 64))
  other = load_backbone(save(network, tmp_path / "weights.pth"), name, family)
  jax.tree.map(np.testing.assert_array_equal, load_backbone(path, name, family), other)


def test_the_place_of_the_stride_matters(tmp_path):
  path = save(random_network("resnet50", caffe=True), tmp_path / "caffe.safetensors")
  with pytest.raises(AssertionError):
    assert_same_features(random_network("resnet50", caffe=True), path, "resnet50", "torchvision")


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "module.encoder."])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_prefix_of_all_names_is_stripped(prefix, suffix, tmp_path):
  network = random_network("resnet_tiny")
  path = save(network, tmp_path / f"x{suffix}", lambda tensors: {prefix + name: x for name, x in tensors.items()})
  assert_same_features(network, path, "resnet_tiny")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype, suffix, tmp_path):
  def convert(tensors):
    return {name: x.to(dtype) if x.is_floating_point() else x for name, x in tensors.items()}

  path = save(random_network("resnet_tiny"), tmp_path / f"x{suffix}", convert)
  kernel = load_backbone(path, "resnet_tiny")["params"]["layer2_0"]["downsample_conv"]["kernel"]
  expected = random_network("resnet_tiny").layer2[0].downsample[0].weight.to(dtype).float()
  assert kernel.dtype == np.float32
  np.testing.assert_array_equal(kernel, expected.detach().numpy().transpose(2, 3, 1, 0))


def prefixed(prefix, tensors):
  return {prefix + name: tensor for name, tensor in tensors.items()}


SPARE = torch.zeros(2)
# Name -> (content of a training script's file, prefix of the encoder's names in it, what the log says was left aside).
WRAPPED = {
  "state_dict": (lambda sd: {"epoch": 3, "state_dict": sd}, "state_dict", ""),
  "model": (lambda sd: {"model": sd, "args": argparse.Namespace(lr=1.0)}, "model", ""),
  "net": (lambda sd: {"net": sd, "acc": 95.0}, "net", ""),
  "network in a list of keys": (lambda sd: {"network": {"module": sd}}, "network.module", ""),
  "moving average alone": (lambda sd: {"state_dict_ema": sd}, "state_dict_ema", ""),
  "infinite record": (lambda sd: {"model": sd, "best": torch.tensor(torch.inf)}, "model", "best (1 tensors)"),
  "torch.compile": (lambda sd: prefixed("_orig_mod.", sd), "_orig_mod", ""),
  "Lightning": (
    lambda sd: {"state_dict": prefixed("model.", sd) | {"criterion.weight": SPARE}, "loops": {"a": 1}},
    "state_dict.model",
    "state_dict.criterion (1 tensors)",
  ),
  "MoCo": (
    lambda sd: {"state_dict": prefixed("module.encoder_q.", sd | {"fc.2.weight": SPARE}) | {"module.queue": SPARE}},
    "state_dict.module.encoder_q",
    "state_dict.module.queue (1 tensors)",
  ),
  "SwAV": (lambda sd: prefixed("module.", sd | {"projection_head.0.weight": SPARE}), "module", ""),
  "torchvision's segmentation": (
    lambda sd: prefixed("backbone.", sd) | {"classifier.0.weight": SPARE, "aux_classifier.0.weight": SPARE},
    "backbone",
    "classifier, aux_classifier (2 tensors)",
  ),
  "mmsegmentation": (
    lambda sd: {
      "meta": {"CLASSES": ("a", "b")},
      "state_dict": prefixed("backbone.", sd) | {"decode_head.conv_seg.weight": SPARE},
      "optimizer": {"state": {0: {"exp_avg": SPARE}}},
    },
    "state_dict.backbone",
    "state_dict.decode_head (1 tensors)",
  ),
  "segmentation_models_pytorch": (
    lambda sd: prefixed("encoder.", sd) | {"decoder.x": SPARE, "segmentation_head.0.weight": SPARE},
    "encoder",
    "decoder, segmentation_head (2 tensors)",
  ),
}


@pytest.mark.parametrize("wrap, prefix, left_aside", WRAPPED.values(), ids=WRAPPED)
def test_the_encoder_is_taken_out_of_a_training_scripts_file(wrap, prefix, left_aside, tmp_path, caplog):
  caplog.set_level("INFO", "gcn_flax")
  network = random_network("resnet_tiny")
  torch.save(wrap(network.state_dict()), tmp_path / "x.ckpt")
  found = load_backbone(tmp_path / "x.ckpt", "resnet_tiny")
  jax.tree.map(
    np.testing.assert_array_equal, found, load_backbone(save(network, tmp_path / "plain.pth"), "resnet_tiny")
  )
  rest = f"; left aside: {left_aside}" if left_aside else ""
  assert re.search(f"x.ckpt: taking the 7. tensors of {re.escape(prefix + rest)}\\.$", caplog.messages[0])
  assert len(caplog.messages) == 1


@pytest.mark.parametrize(
  "wrap, prefixes",
  [
    (lambda one, other: {"state_dict": one, "state_dict_ema": other}, ("state_dict.", "state_dict_ema.")),
    (
      lambda one, other: {"teacher": prefixed("backbone.", one), "student": prefixed("backbone.", other)},
      ("teacher.backbone.", "student.backbone."),
    ),
    (lambda one, other: prefixed("encoder_q.", one) | prefixed("encoder_k.", other), ("encoder_q.", "encoder_k.")),
  ],
)
def test_of_two_encoders_none_is_chosen_and_the_command_in_the_error_extracts_one(wrap, prefixes, tmp_path):
  one, other = random_network("resnet_tiny").state_dict(), TorchResNet("resnet_tiny").state_dict()
  path = tmp_path / "it's both.pth"
  torch.save(wrap(one, other), path)
  with pytest.raises(ValueError, match="holds 2 encoders, {!r} and {!r}. Extract".format(*prefixes)) as error:
    load_backbone(path, "resnet_tiny")
  command = shlex.split(str(error.value).partition("for instance: ")[2])
  assert command[:2] == ["python", "-c"]
  exec(command[2])
  (extracted,) = tmp_path.glob("*.safetensors")
  expected = one["conv1.weight"].numpy().transpose(2, 3, 1, 0)
  np.testing.assert_array_equal(load_backbone(extracted, "resnet_tiny")["params"]["conv1"]["kernel"], expected)


def zipped(**entries):
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w") as archive:
    for name, content in entries.items():
      archive.writestr(name, content)
  return file.getvalue()


def saved(save, *arguments):
  file = io.BytesIO()
  save(file, *arguments)
  return file.getvalue()


FOREIGN = {
  "empty": (b"", "is empty. Download it again"),
  "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer.* git lfs pull"),
  "web page": (b"\n<!DOCTYPE html>\n<html>", "is a web page, not the file itself. Download"),
  "text": (b"Entry not found", "is a text file, not safetensors or PyTorch weights. Use a .safetensors"),
  "NumPy array": (saved(np.save, np.zeros(2)), "is a NumPy array. Save all tensors by name"),
  "NumPy archive": (saved(lambda file: np.savez(file, a=np.zeros(2))), "is a NumPy archive. Save its arrays by name"),
  "zip": (zipped(**{"resnet50.pth": b"x"}), r"is a zip archive \(resnet50.pth\), not PyTorch weights. Unpack it"),
  "ONNX": (b"\x08\x07\x12\x07pytorch\x1a\x052.0.0", "is an ONNX program, .*torch.save.network.state_dict"),
  "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(9), "is an HDF5 file, as Keras writes them. Use"),
  "gzip": (gzip.compress(b"x"), "is compressed. Unpack it"),
  "tar": (tarfile.TarInfo("x").tobuf(), "is a tar archive"),
  "bytes": (bytes(range(200, 256)), "is of no known kind, not safetensors or PyTorch weights"),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content, message", FOREIGN.values(), ids=FOREIGN)
def test_a_file_that_holds_no_weights_is_named_with_what_helps(content, message, suffix, tmp_path):
  (tmp_path / f"x{suffix}").write_bytes(content)
  with pytest.raises(ValueError, match=f"x{suffix} {message}"):
    load_backbone(tmp_path / f"x{suffix}", "resnet_tiny")


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_the_command_in_the_error_saves_the_weights_of_a_torchscript_program(tmp_path):
  torch.jit.save(torch.jit.script(torch.nn.Conv2d(3, 3, 1)), tmp_path / "x.pt")
  with pytest.raises(ValueError, match="x.pt is a TorchScript program; it was not run.") as error:
    load_backbone(tmp_path / "x.pt", "resnet_tiny")
  assert "weights_only" not in str(error.value)
  exec(shlex.split(str(error.value).partition("save its weights: ")[2])[2])
  assert set(weights_file.read(tmp_path / "x_state_dict.pth").tensors) == {"weight", "bias"}


def test_the_content_decides_not_the_name(tmp_path):
  network = random_network("resnet_tiny")
  expected = load_backbone(save(network, tmp_path / "x.safetensors"), "resnet_tiny")
  shutil.move(tmp_path / "x.safetensors", tmp_path / "x.pth")
  jax.tree.map(np.testing.assert_array_equal, load_backbone(tmp_path / "x.pth", "resnet_tiny"), expected)
  torch.save(network.state_dict(), tmp_path / "y.safetensors")
  jax.tree.map(np.testing.assert_array_equal, load_backbone(tmp_path / "y.safetensors", "resnet_tiny"), expected)


@pytest.mark.parametrize("name", ["stem.0.weight", "conv1.0.weight"])
def test_a_deep_stem_is_refused_by_name(name, tmp_path):
  def change(tensors):
    return prefixed("backbone.", tensors_without("conv1.weight")(tensors) | {name: SPARE})

  path = save(random_network("resnet_tiny"), tmp_path / "x.pth", change)
  with pytest.raises(ValueError, match=f"stem of several convolutions .backbone.{name}, .*ResNetV1c .* Use"):
    load_backbone(path, "resnet_tiny")


def test_a_network_that_is_no_resnet_is_refused_with_some_of_its_names(tmp_path):
  torch.save({"features.0.weight": SPARE, "features.0.bias": SPARE}, tmp_path / "vgg.pth")
  with pytest.raises(
    ValueError, match="no ResNet with torchvision's names, its 2 tensors are called features.0.weight"
  ):
    load_backbone(tmp_path / "vgg.pth", "resnet_tiny")


def test_a_classifier_is_ignored_or_read_if_it_fits(tmp_path):
  network = random_network("resnet_tiny", num_classes=7)
  path = save(network, tmp_path / "x.pth")
  assert "fc" not in load_backbone(path, "resnet_tiny")["params"]
  found = load_classifier(path, "resnet_tiny", 7)["params"]
  fc = found["fc"]
  assert set(found) == {"encoder", "fc"}
  np.testing.assert_array_equal(fc["kernel"], network.fc.weight.detach().numpy().T)
  np.testing.assert_array_equal(fc["bias"], network.fc.bias.detach().numpy())
  assert set(load_classifier(path, "resnet_tiny", 8)["params"]) == {"encoder"}
  del network.fc
  assert set(load_classifier(save(network, path), "resnet_tiny", 7)["params"]) == {"encoder"}


def tensors_without(*names):
  return lambda tensors: {name: x for name, x in tensors.items() if name not in names}


def tensors_with(**extra):
  return lambda tensors: {**tensors, **{name.replace("__", "."): x for name, x in extra.items()}}


CHANGES = {
  "missing": (
    tensors_without("conv1.weight", "layer3.0.bn2.running_var"),
    "2 missing: layer3.0.bn2.running_var, conv1.weight",
  ),
  "unexpected": (tensors_with(layer9__weight=torch.zeros(2)), "1 unexpected: layer9.weight"),
  "of another shape": (
    tensors_with(conv1__weight=torch.zeros(16, 4, 7, 7)),
    r"conv1.weight is \(16, 4, 7, 7\), not \(16, 3, 7, 7\)",
  ),
  "of integers": (
    tensors_with(bn1__bias=torch.zeros(16, dtype=torch.int64)),
    "1 misshapen: bn1.bias holds int64, not floats",
  ),
  "not finite": (tensors_with(bn1__bias=torch.full((16,), torch.nan)), "numbers that are not finite, in bn1.bias"),
  "of a layer that is no head": (tensors_with(ca__fc1__weight=torch.zeros(1)), "1 unexpected: ca.fc1.weight"),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("change, message", CHANGES.values(), ids=CHANGES)
def test_every_tensor_is_accounted_for(change, message, suffix, tmp_path):
  path = save(random_network("resnet_tiny"), tmp_path / f"x{suffix}", change)
  with pytest.raises(ValueError, match=message):
    load_backbone(path, "resnet_tiny")


FITS_RESNET18 = (
  "config.model.backbone='resnet34': .*x.safetensors holds the weights of a resnet18. Use "
  "--config.model.backbone=resnet18 .80 missing: "
)


def test_weights_of_another_network_are_refused_with_the_network_they_fit(tmp_path):
  path = save(random_network("resnet18"), tmp_path / "x.safetensors")
  with pytest.raises(ValueError, match=FITS_RESNET18) as caught:
    load_backbone(path, "resnet34")
  assert all(name in str(caught.value) for name in ("layer3.5.bn2.bias", "layer1.2.conv1.weight"))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(suffix, share, tmp_path):
  path = save(random_network("resnet_tiny"), tmp_path / f"x{suffix}")
  path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
  with pytest.raises(ValueError, match=f"{path} "):
    load_backbone(path, "resnet_tiny")


class Malicious:
  """A call of any function, which a pickle may hold."""

  def __init__(self, target):
    self.target = target

  def __reduce__(self):
    return pathlib.Path.touch, (self.target,)


@pytest.mark.parametrize("suffix", [".pth", ".bin", ".safetensors"])
@pytest.mark.parametrize("writer", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_code_in_a_file_is_never_run(suffix, writer, tmp_path):
  path, target = tmp_path / f"x{suffix}", tmp_path / "was_run"
  writer({"conv1.weight": torch.zeros(1), "x": Malicious(target)}, path)
  with pytest.raises(
    ValueError,
    match=f"{path} (holds more than tensors .*pathlib|is a pickle that torch.save did not write).*state_dict",
  ):
    load_backbone(path, "resnet_tiny")
  assert not target.exists()
  with open(path, "rb") as file:
    if writer is not torch.save:
      pickle.load(file)  # The file does run code if it is allowed to.
      assert target.exists()


@pytest.mark.parametrize("convolution", ["conv1", "layer2.0.conv2", "layer2.0.downsample.0"])
def test_biases_of_caffe_convolutions_are_folded_into_the_normalisation(convolution, tmp_path):
  network = random_network("resnet50", caffe=True)
  module = network.get_submodule(convolution)
  module.bias = torch.nn.Parameter(torch.randn(module.out_channels))
  path = save(network, tmp_path / "x.pth")
  bias, tree = module.bias.detach().numpy(), load_backbone(path, "resnet50", "caffe")["batch_stats"]
  block = tree["layer2_0"] if "layer" in convolution else tree
  name = {"conv1": "bn1", "layer2.0.conv2": "bn2", "layer2.0.downsample.0": "downsample_bn"}[convolution]
  tensors = network.state_dict()
  mean = tensors[f"{convolution.replace('conv', 'bn').replace('downsample.0', 'downsample.1')}.running_mean"].numpy()
  np.testing.assert_array_equal(block[name]["mean"], mean - bias)
  if convolution == "conv1":
    assert_same_features(network, path, "resnet50", "caffe")


@pytest.mark.parametrize("version", ["1.12.0", "2.5.1+cpu"])
def test_a_torch_with_an_unsafe_loader_is_not_used(version, tmp_path, monkeypatch):
  path = save(random_network("resnet_tiny"), tmp_path / "x.pth")
  monkeypatch.setattr(torch, "__version__", version)
  with pytest.raises(ValueError, match=f"PyTorch {re.escape(version)} is not safe.*CVE-2025-32434.*Install 2.6"):
    load_backbone(path, "resnet_tiny")


STRANGE = {
  "sparse": torch.eye(3).to_sparse(),
  "without values": torch.empty(3, device="meta"),
  "complex": torch.zeros(3, dtype=torch.complex64).conj(),
}


@pytest.mark.parametrize("name", STRANGE)
def test_tensors_that_are_not_plain_arrays_are_refused(name, tmp_path):
  path = save(random_network("resnet_tiny"), tmp_path / "x.pth", tensors_with(conv1__weight=STRANGE[name]))
  with pytest.raises(ValueError, match="x.pth holds tensors that are not plain arrays"):
    load_backbone(path, "resnet_tiny")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("as_zip", [True, False])
def test_tensors_of_terabytes_in_a_small_file_are_refused(tmp_path, dtype, as_zip):
  expanded = torch.zeros(1, dtype=dtype).expand(10**12)
  torch.save({"a": expanded}, tmp_path / "x.pth", _use_new_zipfile_serialization=as_zip)
  with pytest.raises(
    ValueError, match=r"x.pth claims [\d,]+,000,000,000 bytes of tensors, but has .* tensor.clone\(\)"
  ):
    weights_file.read(tmp_path / "x.pth")


def test_a_compressed_file_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
  torch.save({"a": torch.zeros(100_000)}, tmp_path / "plain.pth")
  with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(tmp_path / "x.pth", "w", 8) as packed:
    for name in plain.namelist():
      packed.writestr(name, plain.read(name))
  monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("the file was unpacked"))
  with pytest.raises(ValueError, match="x.pth claims 400,.* bytes of tensors"):
    weights_file.read(tmp_path / "x.pth")


def test_names_that_are_not_text_and_eight_bit_floats_are_refused(tmp_path):
  torch.save({1: torch.zeros(2)}, tmp_path / "x.pth")
  with pytest.raises(ValueError, match="x.pth is not a state dict, a mapping of names"):
    load_backbone(tmp_path / "x.pth", "resnet_tiny")
  safetensors.torch.save_file(
    {"layer1.0.conv1.weight": torch.zeros(2, dtype=torch.float8_e4m3fn)}, tmp_path / "x.safetensors"
  )
  with pytest.raises(ValueError, match="x.safetensors (is not a complete safetensors file|does not fit)"):
    load_backbone(tmp_path / "x.safetensors", "resnet_tiny")


def test_metadata_of_other_packages_is_ignored(tmp_path):
  tensors = {name: x.contiguous() for name, x in random_network("resnet_tiny").state_dict().items()}
  safetensors.torch.save_file(tensors, tmp_path / "x.safetensors", {"family": "xyz", "data": "imagenet"})
  load_backbone(tmp_path / "x.safetensors", "resnet_tiny")
  assert weights_file.read_metadata(tmp_path / "x.safetensors") == {}


def test_a_pickled_network_is_refused(tmp_path):
  torch.save(random_network("resnet_tiny"), tmp_path / "x.pth")
  with pytest.raises(ValueError, match="holds more than tensors .*TorchResNet.* save its weights alone: torch.save"):
    load_backbone(tmp_path / "x.pth", "resnet_tiny")


def test_without_torch_a_pth_is_not_opened(tmp_path, monkeypatch):
  path = save(random_network("resnet_tiny"), tmp_path / "x.pth")
  monkeypatch.setitem(sys.modules, "torch", None)
  with pytest.raises(ValueError, match="is a PyTorch file, but PyTorch is not installed. Install torch, or save"):
    load_backbone(path, "resnet_tiny")


@pytest.mark.parametrize(
  "arguments, message",
  [
    (("missing.pth", "resnet_tiny"), "missing.pth' not found"),
    (("x.npz", "vgg16"), "backbone='vgg16': unknown. Use one of resnet_tiny"),
    (("x.npz", "resnet_tiny", "keras"), "family='keras': unknown. Use one of torchvision, timm, caffe"),
  ],
)
def test_other_errors(arguments, message, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  pathlib.Path("x.npz").touch()
  with pytest.raises(ValueError, match=message):
    load_backbone(*arguments)


def test_weights_of_another_family_are_refused(tmp_path):
  tensors = {name: x.numpy() for name, x in random_network("resnet_tiny").state_dict().items()}
  weights_file.write(tmp_path / "x.safetensors", tensors, {"family": "caffe"})
  with pytest.raises(ValueError, match="is of family 'caffe', not 'torchvision'. Use --config.model.family=caffe"):
    load_backbone(tmp_path / "x.safetensors", "resnet_tiny")
  load_backbone(tmp_path / "x.safetensors", "resnet_tiny", "caffe")


def test_the_input_normalisation_of_the_families():
  """ImageNet's statistics in torchvision's units, times 255; BGR and no division for Caffe's."""
  for name in ("torchvision", "timm"):
    np.testing.assert_allclose(FAMILIES[name].mean, 255 * np.array([0.485, 0.456, 0.406]), rtol=1e-6)
    np.testing.assert_allclose(FAMILIES[name].std, 255 * np.array([0.229, 0.224, 0.225]), rtol=1e-6)
    assert not FAMILIES[name].bgr and not FAMILIES[name].stride_in_1x1
  caffe = FAMILIES["caffe"]
  assert caffe.bgr and caffe.stride_in_1x1 and caffe.std == (1, 1, 1)
  assert caffe.rgb_mean == pytest.approx(FAMILIES["torchvision"].mean)
  assert pretrained.FAMILIES["caffe"].arrays()["mean"].dtype == jnp.float32
