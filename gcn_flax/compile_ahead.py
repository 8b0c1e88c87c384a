"""Compiles the steps of a training in threads, while the run opens its data and its writers."""

import concurrent.futures
import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh

from gcn_flax import build, tasks
from gcn_flax.config import is_classifier
from gcn_flax.input_pipeline.canvas import batches_by_canvas
from gcn_flax.training import sharding


@contextlib.contextmanager
def compiled_ahead(
  config: ml_collections.ConfigDict, setup: build.Setup, eval_source: Sequence[Any]
) -> Iterator[build.Setup]:
  """Starts to compile, and yields a setup whose steps first wait for that, and then find the compiled program.

  An error of the compiler is raised by the step that waits for it. If a step is called with arrays of other shapes, it
  compiles as any jitted function. The context ends when nothing is being compiled any more.

  The evaluation step is compiled too, for the largest images, which come first; except on CPUs, where its compilation
  would take cores from that of the train step, and then from the training. On GPUs, too, it must begin before the
  training: XLA times kernels there while it compiles.

  Args:
    config: config of the run.
    setup: setup of the run.
    eval_source: split that the training evaluates.
  """
  steps = {"train_step": lambda: (setup.state_shapes, build.train_batch_shapes(config, setup.mesh, config.batch_size))}
  if _has_free_cores(setup.mesh):
    steps["eval_step"] = lambda: (setup.state_shapes.weights(), _eval_batch_shapes(config, setup, eval_source))
  with concurrent.futures.ThreadPoolExecutor(len(steps)) as pool:
    awaited = {
      name: _Awaited(getattr(setup, name), pool.submit(_compile, getattr(setup, name), shapes))
      for name, shapes in steps.items()
    }
    yield dataclasses.replace(setup, **awaited)


def _has_free_cores(mesh: Mesh) -> bool:
  return mesh.devices.flat[0].platform != "cpu"


def _compile(step: Callable, shapes: Callable[[], tuple]) -> None:
  step.lower(*shapes()).compile()  # The jitted function keeps the program.


@dataclasses.dataclass(frozen=True)
class _Awaited:
  """A jitted function that is called once its compilation is over."""

  step: Callable
  compilation: concurrent.futures.Future

  def __call__(self, *args: Any) -> Any:
    self.compilation.result()
    return self.step(*args)


def _eval_batch_shapes(
  config: ml_collections.ConfigDict, setup: build.Setup, source: Sequence[Any]
) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of the first batch of an evaluation, as from `sharding.shard_eval_batch`."""
  canvases = tasks.of(config).canvases(config, source)
  indices = batches_by_canvas(canvases, config.eval.batch_size, jax.device_count())[0]
  size = canvases[indices[0]]
  label = ((), jnp.int32) if is_classifier(config) else (size, jnp.uint8)
  arrays = {"image": ((*size, 3), jnp.uint8), "size": ((2,), jnp.int32), "label": label}
  return {
    name: jax.ShapeDtypeStruct((len(indices), *shape), dtype, sharding=sharding.by_example(setup.mesh))
    for name, (shape, dtype) in arrays.items()
  }
