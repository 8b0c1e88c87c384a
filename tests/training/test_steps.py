"""One update: the same on any mesh and in any number of micro-batches, and the arithmetic of SGD."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gcn_flax.models.gcn import GCN
from gcn_flax.training import losses, optimizer, sharding, steps
from gcn_flax.training.state import TrainState
from tests.models.comparison import quick_jit
from tests.runs import build_setup


def random_batch(size=8, height=64, width=64, classes=11, seed=0):
  rng = np.random.default_rng(seed)
  label = rng.integers(0, classes + 1, (size, height, width)).astype(np.uint8)
  label[label == classes] = 255
  label[0] = 255  # So that the devices hold unequal numbers of valid pixels.
  return {"image": rng.integers(0, 256, (size, height, width, 3)).astype(np.uint8), "label": label}


def run(config, devices, num_steps=2):
  setup = build_setup(config, devices)
  state, values = setup.init(0), []
  for seed in range(num_steps):
    state, metrics = setup.train_step(state, sharding.shard_batch(random_batch(seed=seed), setup.mesh))
    values.append(float(metrics["loss"]))
  return values, jax.device_get(state), predict(setup, state, random_batch())


def predict(setup, state, batch):
  size = np.tile(np.int32(batch["image"].shape[1:3]), (len(batch["image"]), 1))
  batch = sharding.shard_eval_batch({**batch, "size": size}, setup.mesh)
  return np.asarray(setup.eval_step(state.weights(), batch))


def assert_close(one, other, tolerance):
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
  "variant",
  ["weighted", pytest.param("plain", marks=pytest.mark.slow), pytest.param("accumulated", marks=pytest.mark.slow)],
)
def test_one_device_equals_eight(config, variant):
  """Batch statistics, loss and gradient are those of the global batch, also with gradient accumulation."""
  config.accumulate_steps = 2 if variant == "accumulated" else 1
  config.optimizer.learning_rate = 1e-3
  if variant == "weighted":
    config.loss.class_weights = tuple(range(1, 12))
    config.loss.label_smoothing = 0.1
    config.loss.ohem_fraction = 0.5
    config.loss.focal_gamma, config.loss.dice_weight = 2.0, 0.5
    config.optimizer.ema_decay = 0.9
  values, state, predictions = run(config, jax.devices()[:1])
  other_values, other_state, other_predictions = run(config, jax.devices())
  np.testing.assert_allclose(values, other_values, rtol=1e-5)
  assert_close(state.params, other_state.params, 1e-5)
  assert_close(state.batch_stats, other_state.batch_stats, 1e-5)
  assert_close(state.ema, other_state.ema, 1e-5)
  assert predictions.shape == other_predictions.shape and (predictions != other_predictions).mean() <= 0.001


# (devices that share the rows of an image, micro-batches, ops)
MESHES = [
  (1, 1, "cpu"),
  (2, 1, "cpu"),
  (4, 1, "cpu"),
  (8, 1, "cpu"),
  (2, 2, "cpu"),
  (1, 1, "tpu"),
  (2, 1, "tpu"),
  (4, 1, "tpu"),
  (8, 1, "tpu"),
  (2, 1, "gpu"),
]


@pytest.fixture(scope="module")
def one_device_results():
  """Results of `two_steps` on one device with the CPU's ops, by number of micro-batches."""
  return {}


def two_steps(config, devices, platform):
  """Returns (losses, variables) of two steps on images of 256 rows."""
  setup = build_setup(config, devices, platform)
  spatial = config.mesh.spatial or 1
  batch_shards = len(devices) // spatial
  assert dict(setup.mesh.shape) == {"data": batch_shards, "spatial": spatial}
  state, losses = setup.init(0), []
  for seed in range(2):
    batch = sharding.shard_batch(random_batch(8, 256, 64, seed=seed), setup.mesh)
    assert batch["image"].sharding.shard_shape((8, 256, 64, 3)) == (8 // batch_shards, 256 // spatial, 64, 3)
    state, metrics = setup.train_step(state, batch)
    losses.append(float(metrics["loss"]))
  return losses, jax.device_get((state.params, state.batch_stats))


@pytest.mark.slow
@pytest.mark.parametrize("spatial, accumulate_steps, platform", MESHES)
def test_splitting_rows_over_devices_changes_nothing(
  config, partitioner, one_device_results, spatial, accumulate_steps, platform
):
  """Meshes of 8 x 1, 4 x 2, 2 x 4 and 1 x 8, down to one row of the widest stride for each device.

  Without GSPMD, 4 x 2 is wrong: some gradients are four times too large.
  """
  config.optimizer.learning_rate, config.optimizer.warmup_steps = 1e-3, 0
  config.model.kernel_size, config.accumulate_steps = 15, accumulate_steps
  if accumulate_steps not in one_device_results:
    one_device_results[accumulate_steps] = two_steps(config, jax.devices()[:1], "cpu")
  config.mesh.spatial = spatial
  losses, variables = two_steps(config, jax.devices(), platform)
  expected_losses, expected_variables = one_device_results[accumulate_steps]
  np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
  assert_close(variables, expected_variables, 1e-5)


def test_devices_that_do_not_divide_are_refused():
  with pytest.raises(ValueError, match="config.mesh.spatial=3: must divide the 8 devices of a host"):
    sharding.make_mesh(spatial=3)


@pytest.mark.slow
def test_a_classifier_on_one_device_equals_eight(class_config):
  class_config.optimizer.learning_rate = 1e-3
  rng = np.random.default_rng(0)
  batch = {
    "image": rng.integers(0, 256, (16, 64, 64, 3)).astype(np.uint8),
    "label": np.concatenate([[-1, -1], rng.integers(0, 3, 14)]).astype(np.int32),
  }
  params, found = [], []
  for devices in (jax.devices()[:1], jax.devices()):
    setup = build_setup(class_config, devices)
    state, _ = setup.train_step(setup.init(0), sharding.shard_batch(batch, setup.mesh))
    params.append(jax.device_get(state.params))
    found.append(predict(setup, state, batch))
  assert_close(*params, 1e-5)
  assert found[0].shape == (16, 3) and (found[0] != found[1]).sum() <= 2


# Shared by several tests: most of their time is compilation.
WEIGHTED = dict(class_weights=tuple(range(11)), label_smoothing=0.1)
SYNC = dict(norm="sync", ema_decay=0.9)


@functools.cache
def small_step(accumulate_steps=1, norm="frozen", ema_decay=0.0, **loss_options):
  """Returns a compiled train step and a state to start from, whose moving average is that of the start."""
  network = GCN(11, "resnet_tiny", kernel_size=3, norm=norm)
  tx = optimizer.make_optimizer(lambda step: 0.1, momentum=0.9, weight_decay=0.0, clip_norm=0.0)
  loss = functools.partial(losses.segmentation_loss, **loss_options)
  weights = initial_weights()
  normalization = {"mean": np.full(3, 120, np.float32), "std": np.full(3, 60, np.float32), "bgr": np.False_}
  ema = weights if ema_decay else {}
  state = TrainState(
    jnp.int32(0), **weights, opt_state=tx.init(weights["params"]), normalization=normalization, ema=ema
  )
  return quick_jit(steps.make_train_step(network, tx, loss, accumulate_steps, ema_decay)), state


@functools.cache
def initial_weights():
  network, images = GCN(11, "resnet_tiny", kernel_size=3), jnp.zeros((1, 32, 32, 3))
  return quick_jit(lambda: network.init(jax.random.key(0, impl="rbg"), images, train=False))()


@pytest.mark.slow
def test_accumulated_micro_batches_equal_the_whole_batch():
  """Exactly, with frozen normalisation, though micro-batches have unequal numbers of valid pixels of unequal weight."""
  whole_step, state = small_step(**WEIGHTED)
  micro_batch_step, _ = small_step(accumulate_steps=4, **WEIGHTED)
  batch = random_batch()
  whole, whole_metrics = whole_step(state, batch)
  accumulated, accumulated_metrics = micro_batch_step(state, batch)
  assert_close(whole.params, accumulated.params, 1e-6)
  np.testing.assert_allclose(whole_metrics["loss"], accumulated_metrics["loss"], rtol=1e-6)
  np.testing.assert_allclose(whole_metrics["grad_norm"], accumulated_metrics["grad_norm"], rtol=1e-5)


def test_an_all_void_batch_gives_zero_loss_and_no_nan():
  step, state = small_step(**SYNC)
  batch = random_batch()
  batch["label"][:] = 255
  after, metrics = step(state, batch)
  assert float(metrics["loss"]) == 0.0 and float(metrics["grad_norm"]) == 0.0 and bool(metrics["finite"])
  assert_close(state.params, after.params, 0)


def test_a_batch_of_no_weight_changes_nothing():
  """Every pixel is of a class of weight 0, whose smoothed target still has a loss."""
  step, state = small_step(**WEIGHTED)
  batch = random_batch()
  batch["label"][:] = 0
  after, metrics = step(state, batch)
  assert float(metrics["loss"]) == 0.0 and float(metrics["grad_norm"]) == 0.0
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
  for options, moved in ((dict(), False), (SYNC, True)):
    step, state = small_step(**options)
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
  mean, std = np.float32([1, 2, 3]), np.float32([3, 6, 9])
  result = steps.normalize(pixels, {"mean": mean, "std": std, "bgr": np.False_})
  assert result.dtype == jnp.float32
  np.testing.assert_allclose(result[0, 0, 0], (3.0, 3.0, 3.0))
  result = steps.normalize(pixels, {"mean": mean, "std": std, "bgr": np.True_})
  np.testing.assert_allclose(result[0, 0, 0], (29 / 3, 18 / 6, 7 / 9), rtol=1e-6)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("decayed, factor", [("kernels", 1.0), ("all", 1.0), ("kernels", 0.1), ("all", 0.0)])
def test_optimizers_equal_pytorch(kind, decayed, factor):
  """Five steps with momentum, weight decay, clipping, a changing learning rate, and another one for the encoder.

  In float64: optax corrects Adam's bias in the dtype of the weights, which is 3e-5 off in float32.
  """
  torch = pytest.importorskip("torch")
  rng = np.random.default_rng(0)

  def numbers():
    return {part: {"kernel": rng.normal(size=(3, 4)), "bias": rng.normal(size=4)} for part in ("encoder", "head")}

  start, gradients, rates = numbers(), [numbers() for _ in range(5)], np.array([0.1, 0.2, 0.05, 0.1, 0.01])
  tx = optimizer.make_optimizer(
    lambda step: jnp.asarray(rates)[step],
    kind=kind,
    momentum=0.8,
    weight_decay=0.3,
    clip_norm=1.0,
    decayed=decayed,
    encoder_lr_factor=factor,
  )
  with jax.enable_x64(True):
    params, opt_state = start, tx.init(start)
  tensors = jax.tree.map(lambda leaf: torch.tensor(leaf, requires_grad=True), start)
  # PyTorch keeps the rate out of its momentum, as optax does.
  groups = [
    {"params": [tensor], "weight_decay": 0.3 if name == "kernel" or decayed == "all" else 0.0, "part": part}
    for part, leaves in tensors.items()
    for name, tensor in leaves.items()
  ]
  if kind == "sgd":
    theirs = torch.optim.SGD(groups, lr=0.1, momentum=0.8)
  else:
    theirs = torch.optim.AdamW(groups, betas=(0.8, 0.999))
  for gradient, rate in zip(gradients, rates, strict=True):
    with jax.enable_x64(True):
      updates, opt_state = tx.update(gradient, opt_state, params)
      params = optax.apply_updates(params, updates)
    for part, leaves in tensors.items():
      for name, tensor in leaves.items():
        tensor.grad = torch.tensor(gradient[part][name])
    torch.nn.utils.clip_grad_norm_(jax.tree.leaves(tensors), 1.0)
    for group in theirs.param_groups:
      group["lr"] = float(rate) * (factor if group["part"] == "encoder" else 1.0)
    theirs.step()
  for part, leaves in tensors.items():
    for name, tensor in leaves.items():
      np.testing.assert_allclose(params[part][name], tensor.detach().numpy(), rtol=1e-5)
      assert (params[part][name] != start[part][name]).any() == (factor > 0 or part == "head")


def test_the_moving_average_forgets_its_start():
  """Decays of 0.1, 2/11, 3/12, ... up to the given one; a step averages every weight and statistic."""
  average = {"a": jnp.array(100.0)}
  for step, value in enumerate((1.0, 2.0, 3.0)):
    decay = min(0.15, (1 + step) / (10 + step))
    expected = decay * float(average["a"]) + (1 - decay) * value
    average = optimizer.update_average(average, {"a": jnp.array(value)}, jnp.int32(step), 0.15)
    np.testing.assert_allclose(average["a"], expected, rtol=1e-6)

  step, state = small_step(**SYNC)
  after, _ = step(state, random_batch())
  start, now = ({"params": x.params, "batch_stats": x.batch_stats} for x in (state, after))
  assert_close(after.ema, jax.tree.map(lambda old, new: 0.1 * old + 0.9 * new, start, now), 1e-6)
  assert_close(after.weights()["params"], after.ema["params"], 0)
  without = jax.eval_shape(step, state.replace(ema={}), random_batch())[0]
  assert without.ema == {} and without.weights()["params"] is without.params


def test_the_gradient_is_clipped_before_weight_decay():
  tx = optimizer.make_optimizer(lambda step: 1.0, momentum=0.0, weight_decay=1.0, clip_norm=0.5)
  params = {"kernel": jnp.array([[10.0]])}
  updates, _ = tx.update({"kernel": jnp.array([[100.0]])}, tx.init(params), params)
  np.testing.assert_allclose(updates["kernel"], [[-(0.5 + 10.0)]])


def test_cosine_schedule():
  schedule = optimizer.make_schedule("cosine", 0.1, total_steps=100, warmup_steps=9, poly_power=0.9)
  np.testing.assert_allclose(schedule(0), 0.1 / 10, rtol=1e-6)
  np.testing.assert_allclose(schedule(25), 0.1 * 0.5 * (1 + np.cos(np.pi / 4)), rtol=1e-6)
  np.testing.assert_allclose(schedule(50), 0.05, rtol=1e-6)
  np.testing.assert_allclose(schedule(100), 0, atol=1e-9)


def test_poly_schedule():
  schedule = optimizer.make_schedule("poly", 0.1, total_steps=100, warmup_steps=9, poly_power=0.9)
  np.testing.assert_allclose(schedule(0), 0.1 / 10, rtol=1e-6)
  np.testing.assert_allclose(schedule(4), 0.1 * 0.5 * 0.96**0.9, rtol=1e-6)
  np.testing.assert_allclose(schedule(50), 0.1 * 0.5**0.9, rtol=1e-6)
  assert 0 < schedule(99) < 0.002
  assert schedule(100) == 0
  no_warmup = optimizer.make_schedule("poly", 0.1, total_steps=1, warmup_steps=1000, poly_power=0.9)
  np.testing.assert_allclose(no_warmup(0), 0.1, rtol=1e-6)
