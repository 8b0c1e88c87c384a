import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gcn_flax.models.gcn import GCN, HEADS
from gcn_flax.models.layout import FeatureMap
from gcn_flax.models.ops import REFERENCE
from gcn_flax.training.losses import cross_entropy
from tests.models.comparison import assert_close, quick_jit, random_array, random_labels, random_variables
from tests.torch_reference import TorchGCN, load_flax, to_numpy, to_torch, torch_names

CLASSES = 5
IMAGES = random_array(2, 64, 96, 3)
VARIANTS = {
  "tiny": dict(backbone="resnet_tiny", kernel_size=7),
  "tiny_trivial": dict(backbone="resnet_tiny", kernel_size=5, head="trivial"),
  "tiny_stack": dict(backbone="resnet_tiny", kernel_size=5, head="stack", stack_width=6),
  "tiny_stack_of_input_width": dict(backbone="resnet_tiny", kernel_size=5, head="stack"),
  "tiny_pointwise": dict(backbone="resnet_tiny", kernel_size=7, head="pointwise"),
  "tiny_unrefined": dict(backbone="resnet_tiny", kernel_size=7, boundary_refine=False),
  "resnet18": dict(backbone="resnet18", kernel_size=7),
}
RESNET18 = pytest.param("resnet18", marks=pytest.mark.slow)
DEFAULT_VARIANTS = [variant for variant in VARIANTS if variant != "resnet18"]


@functools.cache
def network_and_variables(variant: str):
  """Returns a network and random values for all of its variables."""
  network = GCN(CLASSES, **VARIANTS[variant])
  return network, random_variables(network, IMAGES, train=False)


def torch_network(variant: str) -> TorchGCN:
  """Returns the same network with the same values."""
  return load_flax(TorchGCN(CLASSES, **VARIANTS[variant]), network_and_variables(variant)[1])


def torch_logits(variant: str) -> np.ndarray:
  with torch.no_grad():
    return to_numpy(torch_network(variant).eval()(to_torch(IMAGES)))


@pytest.mark.parametrize("variant", DEFAULT_VARIANTS + [RESNET18])
def test_logits_equal_torch(variant):
  network, variables = network_and_variables(variant)
  logits = quick_jit(lambda variables, images: network.apply(variables, images, train=False))(variables, IMAGES)
  assert logits.shape == (*IMAGES.shape[:3], CLASSES)
  assert_close(logits, torch_logits(variant), 1e-4)


@pytest.mark.parametrize("variant", ["tiny", pytest.param("tiny_stack", marks=pytest.mark.slow), RESNET18])
def test_training_equals_torch(variant):
  """Logits under batch statistics, the new running means, and the gradient of every parameter.

  In float64: in float32, values near zero sometimes fall on the other side of a ReLU, which moves gradients by
  percents in either framework.
  """
  network, variables = network_and_variables(variant)
  network = network.clone(dtype=jnp.float64)
  labels = random_labels(*IMAGES.shape[:3], num_classes=CLASSES)

  def loss(params):
    logits, updates = network.apply({**variables, "params": params}, IMAGES, train=True, mutable=["batch_stats"])
    return cross_entropy(logits, jnp.asarray(labels))[0], (logits, updates["batch_stats"])

  with jax.enable_x64(True):
    (value, (logits, statistics)), gradient = quick_jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])

  reference = torch_network(variant).double().train()
  expected_logits = reference(to_torch(IMAGES).double())
  expected = F.cross_entropy(expected_logits, torch.from_numpy(labels).long(), ignore_index=255, reduction="sum")
  expected.backward()

  np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
  assert_close(logits, to_numpy(expected_logits), 1e-5)
  for name, mean in torch_names(reference, statistics).items():
    if name.endswith("running_mean"):
      assert_close(mean, reference.get_buffer(name), 1e-5)
  gradient = torch_names(reference, gradient)
  assert set(gradient) == {name for name, _ in reference.named_parameters()}
  for name, parameter in reference.named_parameters():
    assert_close(gradient[name], parameter.grad, 1e-5)


def _names(params, pattern: str) -> list[str]:
  return [name for name in params if re.fullmatch(pattern, name)]


def test_parts_of_figure_2():
  params = network_and_variables("tiny")[1]["params"]
  assert len(_names(params, r"head\d")) == 4
  assert len(_names(params, r"refine.*")) == 9
  assert len(_names(params, r"deconv\d")) == 5
  assert len(params) == 4 + 9 + 5 + 1
  for name in _names(params, r"deconv\d"):
    assert params[name]["kernel"].shape == (4, 4, CLASSES, CLASSES)


def test_boundary_refine_off_leaves_out_the_nine_blocks_only():
  with_blocks, without = (network_and_variables(variant)[1]["params"] for variant in ("tiny", "tiny_unrefined"))
  assert set(with_blocks) - set(without) == set(_names(with_blocks, r"refine.*"))
  assert set(without) <= set(with_blocks)


def test_sizes_of_figure_2():
  network = GCN(21, "resnet152", 15)
  images = jax.ShapeDtypeStruct((1, 512, 512, 3), jnp.float32)

  def intermediates(images):
    logits, variables = network.init_with_output(
      jax.random.key(0), images, train=False, capture_intermediates=True, mutable=True
    )
    parts = {name: part for name, part in variables["intermediates"].items() if re.search(r"\w\d$", name)}
    return logits, {name: FeatureMap.of(part["__call__"][0]).plain() for name, part in parts.items()}

  logits, maps = jax.eval_shape(intermediates, images)
  expected = {"refine1": 256, "refine0": 512, "deconv1": 512}
  for level, size in {5: 16, 4: 32, 3: 64, 2: 128}.items():
    expected |= {f"head{level}": size, f"refine_head{level}": size, f"deconv{level}": 2 * size}
    if level < 5:
      expected[f"refine{level}"] = size
  assert jax.tree.map(jnp.shape, maps) == {name: (1, size, size, 21) for name, size in expected.items()}
  assert logits.shape == (1, 512, 512, 21)


def test_a_shifted_input_shifts_the_logits():
  """In rows that no border reaches: a logit depends on fewer than 320 rows to each side."""
  network = GCN(3, "resnet_tiny", 3)
  picture = random_array(1, 800, 32, 3)
  above, below = picture[:, :-32], picture[:, 32:]
  variables = random_variables(network, above, train=False)
  apply = quick_jit(lambda images: network.apply(variables, images, train=False))
  first, second = np.asarray(apply(above))[0], np.asarray(apply(below))[0]
  inner = second[320:416]
  assert inner.std(axis=(0, 1)).min() > 1e-2
  assert_close(inner, first[352:448], 1e-5)
  assert np.abs(inner - first[320:416]).max() > 0.1 * np.abs(inner).max()


@pytest.mark.parametrize("norm", ["sync", "frozen"])
def test_running_statistics_move_unless_frozen(norm):
  _, variables = network_and_variables("tiny")
  network = GCN(CLASSES, norm=norm, **VARIANTS["tiny"])
  _, updates = quick_jit(lambda: network.apply(variables, IMAGES, train=True, mutable=["batch_stats"]))()
  moved = jax.tree.map(lambda new, old: bool((new != old).any()), updates["batch_stats"], variables["batch_stats"])
  assert set(jax.tree.leaves(moved)) == {norm == "sync"}


@pytest.mark.parametrize(
  "backbone, head",
  [
    ("resnet_tiny", "gcn"),
    *(pytest.param("resnet_tiny", head, marks=pytest.mark.slow) for head in HEADS[1:]),
    pytest.param("resnet50", "gcn", marks=pytest.mark.slow),
  ],
)
def test_small_heads_begin_with_the_loss_of_a_guess(backbone, head):
  """The first loss is ln(21) within 5 %; with LeCun normal throughout, it is more than twice that."""
  labels = random_labels(*IMAGES.shape[:3], num_classes=21)

  def loss(small_heads):
    network = GCN(21, backbone, 7, head, small_heads=small_heads)
    variables = network.init(jax.random.key(0, impl="rbg"), IMAGES[:, :32, :32], train=False)
    logits, _ = network.apply(variables, IMAGES, train=True, mutable=["batch_stats"])
    return cross_entropy(logits, jnp.asarray(labels))

  total, weight = quick_jit(lambda: loss(True))()
  np.testing.assert_allclose(total / weight, np.log(21), rtol=0.05)
  if (backbone, head) == ("resnet_tiny", "gcn"):
    total, weight = quick_jit(lambda: loss(False))()
    assert total / weight > 2 * np.log(21)


class TestBfloat16:
  network = GCN(CLASSES, dtype=jnp.bfloat16, ops=REFERENCE, **VARIANTS["tiny"])

  def apply(self, variables):
    return self.network.apply(variables, IMAGES, train=False)

  def test_parameters_and_logits_are_float32(self):
    logits, variables = jax.eval_shape(lambda: self.network.init_with_output(jax.random.key(0), IMAGES, train=False))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert logits.dtype == jnp.float32

  def test_every_convolution_is_in_bfloat16(self):
    program = str(jax.make_jaxpr(self.apply)(network_and_variables("tiny")[1]))
    results = re.findall(r":(\w+)\[[\d,]*\] = conv_general_dilated\[", program)
    assert len(results) > 40 and set(results) == {"bf16"}

  def test_logits_are_close_to_those_in_float32(self):
    _, variables = network_and_variables("tiny")
    assert_close(quick_jit(self.apply)(variables), torch_logits("tiny"), 0.05)


@pytest.mark.parametrize("head", sorted(set(HEADS) - {"pointwise"}))
def test_even_kernel_size_is_refused(head):
  network = GCN(CLASSES, "resnet_tiny", 6, head)
  with pytest.raises(ValueError, match="kernel_size=6: must be odd"):
    jax.eval_shape(lambda: network.init(jax.random.key(0), IMAGES, train=False))


@pytest.mark.parametrize(
  "options, size, message",
  [
    (dict(backbone="resnet19"), (64, 64), "backbone='resnet19': unknown.*resnet18"),
    (dict(head="aspp"), (64, 64), "head='aspp': unknown.*gcn, trivial, stack, pointwise"),
    (dict(), (65, 64), "65 x 64.*Pad to 96 x 64"),
  ],
)
def test_errors_name_the_fix(options, size, message):
  network = GCN(CLASSES, **{**VARIANTS["tiny"], **options})
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, *size, 3)), train=False))
