"""One update: the same on any mesh and in any number of parts, and the arithmetic of SGD."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gcn_flax import build
from gcn_flax.models.gcn import GCN
from gcn_flax.training import optimizer, partition, steps
from gcn_flax.training.state import TrainState


def random_batch(size=16, height=64, width=64, classes=11, seed=0):
  rng = np.random.default_rng(seed)
  label = rng.integers(0, classes + 1, (size, height, width)).astype(np.uint8)
  label[label == classes] = 255
  label[0] = 255  # So that the devices hold unequal numbers of valid pixels.
  return {"image": rng.integers(0, 256, (size, height, width, 3)).astype(np.uint8), "label": label}


def run(config, devices, num_steps=2):
  setup = build.build(config, devices)
  state, losses = setup.init(0), []
  for seed in range(num_steps):
    state, metrics = setup.train_step(state, partition.to_device(random_batch(seed=seed), setup.mesh))
    losses.append(float(metrics["loss"]))
  confusion, predictions = setup.eval_step(
    state.params, state.batch_stats, partition.to_device(random_batch(), setup.mesh)
  )
  return losses, jax.device_get(state), np.asarray(confusion), np.asarray(predictions)


def assert_close(one, other, tolerance):
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("accumulate_steps", [1, 2])
def test_one_device_equals_eight(config, accumulate_steps):
  """Batch statistics, loss and gradient are those of the global batch, also where it is worked off in parts."""
  config.accumulate_steps = accumulate_steps
  config.optimizer.learning_rate = 1e-3
  losses, state, confusion, _ = run(config, jax.devices()[:1])
  other_losses, other_state, other_confusion, _ = run(config, jax.devices())
  np.testing.assert_allclose(losses, other_losses, rtol=1e-5)
  assert_close(state.params, other_state.params, 1e-5)
  assert_close(state.batch_stats, other_state.batch_stats, 1e-5)
  assert np.abs(confusion - other_confusion).sum() <= 0.001 * confusion.sum()
  assert confusion.sum() == other_confusion.sum()


def make_state(network, descent, size=64):
  init = jax.jit(lambda: network.init(jax.random.key(0, impl="rbg"), jnp.zeros((1, size, size, 3)), train=False))
  variables = init()
  return TrainState(jnp.int32(0), variables["params"], variables["batch_stats"], descent.init(variables["params"]))


def small_step(accumulate_steps=1, norm="frozen", weight_decay=0.0):
  network = GCN(11, "resnet_tiny", kernel_size=3, norm=norm)
  descent = optimizer.sgd(lambda step: 0.1, momentum=0.9, weight_decay=weight_decay, clip_norm=0.0)
  preprocess = functools.partial(steps.normalize, mean=(120, 120, 120), std=(60, 60, 60))
  options = {"xla_backend_optimization_level": 0}  # Compiles in a fraction of the time.
  step = jax.jit(steps.make_train_step(network, descent, preprocess, accumulate_steps), compiler_options=options)
  return step, make_state(network, descent)


def test_accumulated_parts_equal_the_whole_batch():
  """With frozen normalisation exactly so, though the parts hold unequal numbers of valid pixels."""
  whole_step, state = small_step()
  parts_step, _ = small_step(accumulate_steps=4)
  batch = random_batch()
  whole, whole_metrics = whole_step(state, batch)
  parts, parts_metrics = parts_step(state, batch)
  assert_close(whole.params, parts.params, 1e-6)
  np.testing.assert_allclose(whole_metrics["loss"], parts_metrics["loss"], rtol=1e-6)
  np.testing.assert_allclose(whole_metrics["grad_norm"], parts_metrics["grad_norm"], rtol=1e-5)


def test_an_all_void_batch_gives_zero_loss_and_no_nan():
  step, state = small_step(norm="sync")
  batch = random_batch()
  batch["label"][:] = 255
  after, metrics = step(state, batch)
  assert float(metrics["loss"]) == 0.0 and float(metrics["grad_norm"]) == 0.0 and bool(metrics["finite"])
  assert_close(state.params, after.params, 0)


def test_pixels_of_void_images_change_nothing():
  """Two batches that differ only where labels are void give the same loss and weights (frozen normalisation)."""
  step, state = small_step()
  batch, other = random_batch(), random_batch()
  other["image"][0] = 7
  assert (batch["image"][0] != other["image"][0]).any()
  (after, metrics), (other_after, other_metrics) = step(state, batch), step(state, other)
  np.testing.assert_allclose(metrics["loss"], other_metrics["loss"], rtol=1e-6)
  assert_close(after.params, other_after.params, 1e-6)


def test_frozen_normalisation_keeps_its_statistics_and_sync_moves_them():
  for norm, moved in (("frozen", False), ("sync", True)):
    step, state = small_step(norm=norm)
    after, _ = step(state, random_batch())
    changed = [
      bool((a != b).any()) for a, b in zip(*map(jax.tree.leaves, (state.batch_stats, after.batch_stats)), strict=True)
    ]
    assert all(changed) if moved else not any(changed)


def test_finite_is_false_where_the_new_weights_are_not():
  step, state = small_step()
  huge = jax.tree.map(lambda leaf: leaf * np.inf, state.opt_state)
  _, metrics = step(state.replace(opt_state=huge), random_batch())
  assert np.isfinite(metrics["loss"]) and not bool(metrics["finite"])


def test_normalize_is_by_channel_in_float32():
  pixels = np.array([[[[10, 20, 30]]]], np.uint8)
  result = steps.normalize(pixels, (1.0, 2.0, 3.0), (3.0, 6.0, 9.0))
  assert result.dtype == jnp.float32
  np.testing.assert_allclose(result[0, 0, 0], (3.0, 3.0, 3.0))


def test_sgd_equals_pytorch():
  """Three steps with momentum, weight decay on kernels alone, and a rate that changes."""
  torch = pytest.importorskip("torch")
  rng = np.random.default_rng(0)
  start = {"kernel": rng.normal(size=(3, 4)).astype(np.float32), "bias": rng.normal(size=4).astype(np.float32)}
  gradients = [jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), start) for _ in range(3)]
  rates = np.array([0.1, 0.2, 0.05])

  descent = optimizer.sgd(lambda step: jnp.asarray(rates)[step], momentum=0.9, weight_decay=0.3, clip_norm=0.0)
  params, opt_state = start, descent.init(start)
  tensors = {name: torch.tensor(value, requires_grad=True) for name, value in start.items()}
  groups = [{"params": [tensors["kernel"]], "weight_decay": 0.3}, {"params": [tensors["bias"]], "weight_decay": 0.0}]
  # PyTorch keeps the rate out of its momentum, as optax does.
  theirs = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
  for gradient, rate in zip(gradients, rates, strict=True):
    updates, opt_state = descent.update(gradient, opt_state, params)
    params = optax.apply_updates(params, updates)
    for name, tensor in tensors.items():
      tensor.grad = torch.tensor(gradient[name])
    for group in theirs.param_groups:
      group["lr"] = float(rate)
    theirs.step()
  for name, tensor in tensors.items():
    np.testing.assert_allclose(params[name], tensor.detach().numpy(), rtol=1e-5)


def test_the_gradient_is_clipped_before_weight_decay():
  descent = optimizer.sgd(lambda step: 1.0, momentum=0.0, weight_decay=1.0, clip_norm=0.5)
  params = {"kernel": jnp.array([[10.0]])}
  updates, _ = descent.update({"kernel": jnp.array([[100.0]])}, descent.init(params), params)
  np.testing.assert_allclose(updates["kernel"], [[-(0.5 + 10.0)]])


def test_poly_schedule():
  schedule = optimizer.poly_schedule(0.1, total_steps=100, warmup_steps=9, power=0.9)
  np.testing.assert_allclose(schedule(0), 0.1 / 10, rtol=1e-6)
  np.testing.assert_allclose(schedule(4), 0.1 * 0.5 * 0.96**0.9, rtol=1e-6)
  np.testing.assert_allclose(schedule(50), 0.1 * 0.5**0.9, rtol=1e-6)
  assert 0 < schedule(99) < 0.002
  assert schedule(100) == 0
  no_warmup = optimizer.poly_schedule(0.1, total_steps=1, warmup_steps=1000, power=0.9)
  np.testing.assert_allclose(no_warmup(0), 0.1, rtol=1e-6)
