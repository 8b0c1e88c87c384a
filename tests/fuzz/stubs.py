"""Stand-ins for everything slow in a command: networks, compilers, other processes, the profiler."""

import concurrent.futures
import dataclasses
import functools
import math
import types

import jax
import numpy as np

from gcn_flax import build, distributed, explain, inference, search_crf, train
from gcn_flax.evaluation import crf
from gcn_flax.models.pretrained import FAMILIES
from gcn_flax.planning import cost, libtpu, planners
from gcn_flax.training import sharding
from gcn_flax.visualize import charts, receptive_fields
from gcn_flax.workdir import record

MAX_ASKED = 12  # Steps and evaluation batches after which a training is stopped as if by a signal.
_MAX_DEVICES = 1024  # Devices of a TPU slice.


def install(patch) -> None:
  """Replaces the slow parts by `patch.setattr`; all checks, files and messages stay real."""
  patch.setattr(build, "build", functools.partial(_build, build.build, {}))
  patch.setattr(build, "with_probabilities", _with_probabilities)
  patch.setattr(explain, "_gradient", lambda network: lambda image, pixel: np.ones(image.shape[:2], np.float32))
  patch.setattr(receptive_fields, "draw", lambda *_: b"")
  patch.setattr(train, "StopSignal", _StopsSoon)
  patch.setattr(record, "_commit", lambda: None)
  patch.setattr(search_crf.candidates, "__defaults__", ({"color_rgb": (3.0, 5.0)},))
  patch.setattr(inference, "crf_processes", lambda config: concurrent.futures.ThreadPoolExecutor(2))
  patch.setattr(crf, "postprocess", lambda image, probabilities, parameters: probabilities.argmax(-1).astype(np.uint8))
  patch.setattr(jax.profiler, "start_trace", lambda folder: None)
  patch.setattr(jax.profiler, "stop_trace", lambda: None)
  patch.setattr(distributed, "_initialize", _cannot_connect)
  patch.setattr(libtpu, "devices", _tpu_devices)
  patch.setattr(planners.TpuPlanner, "_estimate", _tpu_estimate)
  patch.setattr(cost, "flops", math.prod)
  patch.setattr(cost, "peak_bytes", lambda shape: 1000 * math.prod(shape))
  patch.setattr(charts, "_svg", lambda figure: "<svg></svg>")
  for name in ("confusion", "histogram", "ranges"):
    patch.setattr(charts, name, lambda *_: "<svg></svg>")


class _StopsSoon:
  """Stops a training after a few steps."""

  def __init__(self):
    self._asked = 0

  def requested(self) -> bool:
    self._asked += 1
    return self._asked > MAX_ASKED

  def __enter__(self):
    return self

  def __exit__(self, *_):
    pass


def _build(original, cache, config, num_classes, devices=None, platform=""):
  """Builds a setup whose weights are real and whose steps compute nothing, with the smallest encoder."""
  small = config.copy_and_resolve_references()
  small.model.backbone = "resnet_tiny"
  if devices and not isinstance(devices[0], jax.Device):
    devices = jax.devices()[: math.gcd(len(devices), jax.device_count())]
  parts = [getattr(small, name).to_json() for name in ("model", "optimizer", "loss", "mesh", "eval")]
  key = str((parts, small.accumulate_steps, small.data.dataset, num_classes, len(devices or ())))
  if key not in cache:
    setup = original(small, num_classes, devices, platform)
    cache[key] = dataclasses.replace(
      setup,
      init=functools.partial(_init, small, setup.state_shapes),
      train_step=_TrainStep(),
      eval_step=functools.partial(_eval_step, small, num_classes, setup.mesh),
    )
  return dataclasses.replace(cache[key], schedule=build._optimizer(small)[0])


def _init(config, shapes, seed, weights=None):
  rng = np.random.default_rng(int(seed))
  state = jax.tree.map(
    lambda leaf: jax.device_put(np.abs(rng.standard_normal(leaf.shape) / 100).astype(leaf.dtype), leaf.sharding), shapes
  )
  return state.replace(
    step=jax.device_put(np.int32(0), shapes.step.sharding),
    normalization=jax.device_put(FAMILIES[config.model.family].arrays(), shapes.step.sharding),
  )


class _TrainStep:
  """Counts a step."""

  def __call__(self, state, batch):
    step = jax.device_put(np.asarray(state.step) + np.int32(1), state.step.sharding)
    return state.replace(step=step), {"loss": np.float32(1), "grad_norm": np.float32(1), "finite": np.bool_(True)}

  def lower(self, state, batch):
    return types.SimpleNamespace(compile=lambda: None)

  def trace(self, state, batch):
    """Returns a trace whose "jaxpr" is the shape of the images."""
    return types.SimpleNamespace(jaxpr=types.SimpleNamespace(jaxpr=batch["image"].shape))


def _eval_step(config, num_classes, mesh, weights, batch):
  del weights
  images = np.asarray(batch["image"])
  if config.model.head == "classifier":
    outputs = np.tile(np.arange(5, dtype=np.int32) % num_classes, (len(images), 1))
  else:
    outputs = images[..., 0] % np.uint8(num_classes)
    if config.eval.crf.iterations:
      outputs = np.eye(num_classes, dtype=np.float32)[outputs]
  losses = np.ones((len(images), 2), np.float32)
  sharded = sharding.shard_eval_batch({"image": outputs, "size": batch["size"], "label": losses}, mesh, with_label=True)
  return (sharded["image"], sharded["label"]) if "label" in batch else sharded["image"]


def _with_probabilities(config, setup):
  config = config.copy_and_resolve_references()
  config.eval.crf.iterations = 1
  step = functools.partial(_eval_step, config, setup.network.num_classes, setup.mesh)
  return dataclasses.replace(setup, eval_step=step)


def _cannot_connect(arguments, timeout, failure):
  raise ValueError(f"{failure} (stub)")


def _tpu_devices(target, chip):
  count = math.prod(target.sides) * chip.devices_per_chip
  if count > _MAX_DEVICES:
    raise ValueError(f"--topology={target.name!r}: libtpu has no such slice (stub). Use v5e:4x8.")
  return [types.SimpleNamespace(process_index=index // 4, platform="tpu") for index in range(count)]


def _tpu_estimate(planner, traced, batch_size):
  return planners._UNKNOWN | {
    "fits": True,
    "hbm_bytes": cost.peak_bytes(traced.jaxpr.jaxpr),
    "hbm_limit_bytes": 1 << 34,
  }
