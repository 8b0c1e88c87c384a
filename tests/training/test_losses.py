import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gcn_flax.training.losses import count_valid, cross_entropy_sum

CLASSES = 6


def example(void_share: float = 0.3, scale: float = 5.0):
  """Random logits and uint8 labels with some void."""
  rng = np.random.default_rng(0)
  logits = (scale * rng.normal(size=(2, 7, 9, CLASSES))).astype(np.float32)
  labels = rng.integers(0, CLASSES, logits.shape[:3])
  return logits, np.where(rng.random(labels.shape) < void_share, 255, labels).astype(np.uint8)


def torch_loss(logits, labels, ignore=255):
  logits = torch.tensor(np.asarray(logits, np.float32).transpose(0, 3, 1, 2), requires_grad=True)
  target = torch.from_numpy(labels.astype(np.int64))
  loss = F.cross_entropy(logits, target, ignore_index=ignore, reduction="sum")
  loss.backward()
  return loss.item(), logits.grad.numpy().transpose(0, 2, 3, 1)


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
  np.testing.assert_allclose(cross_entropy_sum(logits, labels, 2), torch_loss(logits, labels, 2)[0], rtol=1e-5)


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
def test_count_valid(void_share):
  _, labels = example(void_share)
  count = count_valid(jnp.asarray(labels))
  assert count == sum(label != 255 for label in labels.ravel()) and count.dtype == jnp.int32
