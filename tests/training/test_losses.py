import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gcn_flax.models.layout import FeatureMap, Layout
from gcn_flax.training import sharding
from gcn_flax.training.losses import (
  cross_entropy,
  cross_entropy_of_probabilities,
  dice_loss,
  evaluation_loss,
  hardest,
  segmentation_loss,
)
from tests.models.comparison import assert_close, quick_jit, random_array, random_labels

CLASSES = 6


def example(void_share: float = 0.3, scale: float = 5.0):
  """Returns random logits, and uint8 labels with some void."""
  return scale * random_array(2, 7, 9, CLASSES), random_labels(2, 7, 9, num_classes=CLASSES, void=void_share)


def torch_loss(logits, labels, ignore=255):
  logits = torch.tensor(np.asarray(logits, np.float32).transpose(0, 3, 1, 2), requires_grad=True)
  target = torch.from_numpy(labels.astype(np.int64))
  loss = F.cross_entropy(logits, target, ignore_index=ignore, reduction="sum")
  loss.backward()
  return loss.item(), logits.grad.numpy().transpose(0, 2, 3, 1)


def cross_entropy_sum(logits, labels, **options):
  return cross_entropy(logits, labels, **options)[0]


@pytest.mark.parametrize("scale", [1.0, 5.0, 200.0])
def test_loss_and_gradient_equal_torch(scale):
  """The largest scale overflows an exponential that is not stabilised."""
  logits, labels = example(scale=scale)
  loss, gradient = jax.value_and_grad(cross_entropy_sum)(logits, labels)
  expected_loss, expected_gradient = torch_loss(logits, labels)
  np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
  np.testing.assert_allclose(gradient, expected_gradient, atol=1e-5)


def test_another_ignore_label():
  logits, labels = example(void_share=0)
  np.testing.assert_allclose(cross_entropy_sum(logits, labels, ignore=2), torch_loss(logits, labels, 2)[0], rtol=1e-5)


@pytest.mark.parametrize("block", [(1, 1), (2, 2)])
def test_the_loss_of_an_evaluation_sums_all_strips(block):
  logits, labels = random_array(2, 96, 64, CLASSES), random_labels(2, 96, 64, num_classes=CLASSES, void=0.3)
  found = evaluation_loss(FeatureMap.of(logits).to(Layout(CLASSES, block, width=40)), labels)
  np.testing.assert_allclose(found, (torch_loss(logits, labels)[0], (labels != 255).sum()), rtol=1e-5)


def test_the_loss_of_probabilities_is_that_of_their_logits():
  logits, labels = example()
  found = cross_entropy_of_probabilities(jax.nn.softmax(logits), labels)
  np.testing.assert_allclose(found, cross_entropy(logits, labels), rtol=1e-5)
  impossible = jnp.zeros((1, 1, 1, CLASSES)), np.zeros((1, 1, 1), np.uint8)
  np.testing.assert_allclose(cross_entropy_of_probabilities(*impossible), (87.3, 1), atol=0.1)


def test_bfloat16_logits_are_summed_in_float32():
  logits, labels = example()
  logits = jnp.asarray(logits, jnp.bfloat16)
  loss = cross_entropy_sum(logits, labels)
  assert loss.dtype == jnp.float32
  np.testing.assert_allclose(loss, torch_loss(logits, labels)[0], rtol=1e-5)


def test_void_pixels_are_inert():
  logits, labels = example()
  void = labels == 255
  changed = np.where(void[..., None], 1000 * logits[..., ::-1] + 7, logits)
  loss, gradient = jax.value_and_grad(cross_entropy_sum)(logits, labels)
  changed_loss, changed_gradient = jax.value_and_grad(cross_entropy_sum)(changed, labels)
  assert void.any() and loss == changed_loss
  np.testing.assert_array_equal(gradient, changed_gradient)
  assert np.all(gradient[void] == 0) and np.all(np.any(gradient[~void] != 0, -1))


def test_all_void_gives_zero_and_no_gradient():
  logits, labels = example(void_share=1)
  loss, gradient = jax.value_and_grad(cross_entropy_sum)(logits, labels)
  assert loss == 0
  np.testing.assert_array_equal(gradient, np.zeros_like(logits))


@pytest.mark.parametrize("void_share", [0, 0.3, 1])
def test_the_weight_counts_pixels_that_are_not_void(void_share):
  logits, labels = example(void_share)
  weight = cross_entropy(logits, jnp.asarray(labels))[1]
  assert weight == sum(label != 255 for label in labels.ravel()) and weight.dtype == jnp.float32


WEIGHTS = (0.5, 2.0, 0.0, 1.0, 3.0, 1.5)


@pytest.mark.parametrize("weights", [(), WEIGHTS], ids=["equal weights", "class weights"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_and_smoothing_equal_torch(weights, smoothing):
  """The weighted mean as in PyTorch, and its gradient."""
  logits, labels = example()

  def mean(logits):
    total, weight = cross_entropy(logits, labels, class_weights=weights, label_smoothing=smoothing)
    return total / weight

  loss, gradient = jax.value_and_grad(mean)(logits)
  tensor = torch.tensor(logits.transpose(0, 3, 1, 2), requires_grad=True)
  expected = F.cross_entropy(
    tensor,
    torch.from_numpy(labels.astype(np.int64)),
    weight=torch.tensor(weights) if weights else None,
    ignore_index=255,
    label_smoothing=smoothing,
  )
  expected.backward()
  np.testing.assert_allclose(loss, expected.item(), rtol=1e-5)
  np.testing.assert_allclose(gradient, tensor.grad.numpy().transpose(0, 2, 3, 1), atol=1e-6)


def test_pixels_of_weight_0_are_never_the_hardest():
  logits, labels = example(scale=1.0)
  zero = labels == 2
  logits[zero, 2] -= 50.0  # They would be the hardest if they counted.
  total, weight = cross_entropy(logits, labels, class_weights=(1, 1, 0, 1, 1, 1), ohem_fraction=0.25)
  assert zero.any() and weight == np.ceil(0.25 * ((labels != 255) & ~zero).sum())
  expected, _ = cross_entropy(logits, np.where(zero, 255, labels).astype(np.uint8), ohem_fraction=0.25)
  np.testing.assert_allclose(total, expected, rtol=1e-6)


def test_whole_images_have_a_label_each():
  logits, _ = example()
  logits, labels = logits[0, 0], np.array([0, -1, 5, 2, 2, -1, 1, 0, 3], np.int32)
  loss = cross_entropy_sum(logits, labels, ignore=-1)
  target = torch.from_numpy(labels).long()
  expected = F.cross_entropy(torch.from_numpy(logits), target, ignore_index=-1, reduction="sum")
  np.testing.assert_allclose(loss, expected.item(), rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("weights", [(), WEIGHTS], ids=["equal weights", "class weights"])
def test_focal_loss_and_gradient_equal_torch(gamma, weights):
  logits, labels = example()
  loss, gradient = jax.value_and_grad(cross_entropy_sum)(logits, labels, focal_gamma=gamma, class_weights=weights)
  tensor, target, valid = torch_example(logits, labels)
  true = tensor.softmax(1).gather(1, target[:, None])[:, 0]
  each = -torch.log(true) * (1 - true) ** gamma * torch.tensor(weights or [1.0] * CLASSES).double()[target]
  expected = each[valid].sum()
  expected.backward()
  np.testing.assert_allclose(loss, expected.item(), rtol=1e-5)
  np.testing.assert_allclose(gradient, tensor.grad.numpy().transpose(0, 2, 3, 1), atol=1e-5)


def torch_example(logits, labels):
  """Returns logits `[B, C, H, W]` in float64 that take a gradient, classes (0 for void), and the valid pixels."""
  tensor = torch.tensor(np.float64(logits).transpose(0, 3, 1, 2), requires_grad=True)
  labels = torch.from_numpy(labels.astype(np.int64))
  return tensor, torch.where(labels == 255, 0, labels), labels != 255


def test_dice_loss_and_gradient_equal_torch():
  """Class 4 does not occur, and does not count."""
  logits, labels = example()
  labels[labels == 4] = 255
  loss, gradient = jax.value_and_grad(dice_loss)(logits, labels)
  tensor, target, valid = torch_example(logits, labels)
  probabilities, dice = tensor.softmax(1), []
  for index in (0, 1, 2, 3, 5):
    p, y = probabilities[:, index][valid], (target == index)[valid].double()
    dice.append(2 * (p * y).sum() / (p.sum() + y.sum()))
  expected = 1 - torch.stack(dice).mean()
  expected.backward()
  np.testing.assert_allclose(loss, expected.item(), rtol=1e-5)
  np.testing.assert_allclose(gradient, tensor.grad.numpy().transpose(0, 2, 3, 1), atol=1e-6)
  assert (gradient[labels != 255] != 0).any() and not np.asarray(gradient)[labels == 255].any()


def test_dice_loss_of_a_perfect_and_of_a_wrong_prediction():
  labels = random_labels(2, 7, 9, num_classes=CLASSES)
  right = 100.0 * (labels[..., None] == np.arange(CLASSES)).astype(np.float32)
  np.testing.assert_allclose(dice_loss(right, labels), 0, atol=1e-6)
  np.testing.assert_allclose(dice_loss(np.roll(right, 1, -1), labels), 1, atol=1e-6)


@pytest.mark.parametrize("layout", [Layout(3), Layout(3, (2, 2))], ids=["plain", "blocks"])
@pytest.mark.parametrize("label", [0, 2, 255])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("options", [dict(dice_weight=1.0), dict(focal_gamma=0.5), dict(focal_gamma=2.0)], ids=str)
def test_dice_and_focal_loss_are_finite_at_extremes(layout, label, scale, options):
  """One class only, or void only; logits that are equal, or as far apart as the prediction can be sure."""
  array = FeatureMap.of(scale * np.tile(np.float32([0, -1, 1]), (1, 4, 4, 1))).to(layout).array
  labels = np.full((1, 4, 4), label, np.uint8)

  def loss(array):
    return segmentation_loss(FeatureMap(array, layout), labels, **options)

  (total, weight), gradient = jax.value_and_grad(loss, has_aux=True)(array)
  assert np.isfinite(total) and np.isfinite(gradient).all()
  if label == 255:
    assert total == weight == 0 and not np.asarray(gradient).any()


def test_dice_loss_is_added_by_weight():
  """Micro-batches: the sum over the weight is the mean of their Dice losses, weighted by their valid pixels."""
  logits, labels = example()
  parts = [segmentation_loss(FeatureMap.of(logits[i : i + 1]), labels[i : i + 1], dice_weight=3.0) for i in range(2)]
  counts = (labels != 255).sum((1, 2))
  dice = sum(n * dice_loss(logits[i : i + 1], labels[i : i + 1]) for i, n in enumerate(counts)) / counts.sum()
  expected = cross_entropy_sum(logits, labels) / counts.sum() + 3.0 * dice
  np.testing.assert_allclose(sum(part[0] for part in parts) / sum(part[1] for part in parts), expected, rtol=1e-5)


class TestHardest:
  def setup_method(self):
    rng = np.random.default_rng(1)
    self.losses = rng.gamma(0.3, 2.0, (4, 30, 20)).astype(np.float32)
    self.valid = rng.random(self.losses.shape) < 0.7

  def expected(self, fraction, threshold=0.0):
    sorted_losses = np.sort(self.losses[self.valid])[::-1]
    least = sorted_losses[int(np.ceil(fraction * self.valid.sum())) - 1]
    return self.valid & ((self.losses >= least) | (np.exp(-self.losses.astype(np.float64)) < threshold))

  @pytest.mark.parametrize("fraction", [0.001, 0.1, 0.25, 0.999])
  def test_a_fraction_is_the_same_as_by_sorting(self, fraction):
    kept = jax.jit(hardest, static_argnums=(2, 3))(self.losses, self.valid, fraction, 0.0)
    np.testing.assert_array_equal(kept, self.expected(fraction))
    assert kept.sum() == np.ceil(fraction * self.valid.sum())

  @pytest.mark.parametrize("threshold", [0.3, 0.7, 0.95])
  def test_a_threshold_keeps_more(self, threshold):
    kept = hardest(self.losses, self.valid, 0.1, threshold)
    np.testing.assert_array_equal(kept, self.expected(0.1, threshold))
    assert kept.sum() > np.ceil(0.1 * self.valid.sum())

  def test_all_of_equal_losses_are_kept(self):
    kept = hardest(jnp.zeros((10,)), jnp.arange(10) < 6, 0.5, 0.0)
    np.testing.assert_array_equal(kept, np.arange(10) < 6)

  def test_nothing_is_kept_if_all_is_void(self):
    assert not hardest(self.losses, np.zeros_like(self.valid), 0.5, 0.7).any()

  def test_eight_devices_select_the_same(self):
    mesh = sharding.make_mesh()
    losses, valid = (jax.device_put(np.concatenate([x, x]), sharding.batched(mesh)) for x in (self.losses, self.valid))
    kept = jax.jit(hardest, static_argnums=(2, 3))(losses, valid, 0.1, 0.3)
    np.testing.assert_array_equal(kept, np.concatenate([self.expected(0.1, 0.3)] * 2))


def test_the_mined_loss_is_the_mean_of_the_hardest():
  logits, labels = example(scale=1.0)
  total, weight = cross_entropy(logits, labels, ohem_fraction=0.2)
  losses = F.cross_entropy(
    torch.from_numpy(logits.transpose(0, 3, 1, 2)), torch.from_numpy(labels).long(), ignore_index=255, reduction="none"
  ).numpy()
  count = int(np.ceil(0.2 * (labels != 255).sum()))
  hard = np.sort(losses[labels != 255])[::-1][:count]
  assert weight == count
  np.testing.assert_allclose(total, hard.sum(), rtol=1e-5)
  gradient = jax.grad(lambda logits: cross_entropy(logits, labels, ohem_fraction=0.2)[0])(logits)
  np.testing.assert_array_equal(np.any(gradient != 0, -1), (losses >= hard[-1]) & (labels != 255))


BLOCKS = Layout(CLASSES, (2, 2), 30)  # Six channels of padding.


@pytest.mark.parametrize(
  "options",
  [
    pytest.param(dict(), id="no options"),
    pytest.param(dict(class_weights=WEIGHTS), id="class weights"),
    pytest.param(dict(label_smoothing=0.1, class_weights=WEIGHTS), id="smoothing"),
    pytest.param(dict(ohem_fraction=0.3, ohem_threshold=0.05), id="hardest"),
    pytest.param(dict(focal_gamma=2.0, class_weights=WEIGHTS), id="focal"),
    pytest.param(dict(dice_weight=2.0, ohem_fraction=0.3), id="dice"),
  ],
)
def test_segmentation_loss_of_blocks_equals_that_of_the_plain_layout(options):
  logits, labels = 4 * random_array(2, 8, 12, CLASSES), random_labels(2, 8, 12, num_classes=CLASSES)

  def plain_loss(logits):
    return segmentation_loss(FeatureMap.of(logits), labels, **options)

  def blocks_loss(array):
    return segmentation_loss(FeatureMap(array, BLOCKS), labels, **options)

  (total, weight), gradient = quick_jit(jax.value_and_grad(blocks_loss, has_aux=True))(
    FeatureMap.of(logits).to(BLOCKS).array
  )
  (expected, expected_weight), expected_gradient = quick_jit(jax.value_and_grad(plain_loss, has_aux=True))(logits)
  np.testing.assert_allclose(total, expected, rtol=1e-6)
  assert weight == expected_weight > 0
  assert_close(FeatureMap(gradient, BLOCKS).plain(), expected_gradient)
  assert not np.asarray(gradient[..., BLOCKS.used :]).any()


def test_segmentation_loss_ignores_channel_padding():
  logits, labels = example()
  padded = FeatureMap.of(logits).to(Layout(CLASSES, width=8))
  assert segmentation_loss(padded, labels)[0] == cross_entropy_sum(logits, labels)


def test_segmentation_loss_of_blocks_is_stable_for_extreme_logits():
  """Logits far apart, also within a block, neither overflow nor vanish."""
  logits = np.float32([[[-1e4, 0, 1e4], [-3e4, -3e4, -3e4]], [[-200, 200, 0], [0, 0, 0]]])[None]
  labels = np.uint8([[[1, 2], [0, 255]]])
  total, _ = segmentation_loss(FeatureMap.of(logits).to(Layout(3, (2, 2))), labels)
  np.testing.assert_allclose(total, 1e4 + np.log(3) + 400, rtol=1e-6)


def test_the_gradient_of_bfloat16_blocks_is_bfloat16():
  array, labels = FeatureMap.of(jnp.bfloat16(random_array(2, 8, 12, CLASSES))).to(BLOCKS).array, np.zeros((2, 8, 12))
  gradient = jax.grad(lambda array: segmentation_loss(FeatureMap(array, BLOCKS), labels)[0])(array)
  assert gradient.dtype == jnp.bfloat16
