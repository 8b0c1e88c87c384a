"""The training loop."""

import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections

from gcn_flax import build, evaluate, files, tasks
from gcn_flax.compile_ahead import compiled_ahead
from gcn_flax.compile_watch import compiling
from gcn_flax.config import is_classifier
from gcn_flax.input_pipeline import loader
from gcn_flax.messages import flag
from gcn_flax.preflight import preflight
from gcn_flax.run_data import RunData
from gcn_flax.training import sharding, trees
from gcn_flax.training.checkpoint import Checkpoints
from gcn_flax.training.state import TrainState
from gcn_flax.workdir.compatibility import log_schedule_change
from gcn_flax.workdir.compilation_cache import cache_compilations
from gcn_flax.workdir.crop_size import with_crop_size
from gcn_flax.workdir.init_weights import init_path, load_init_weights
from gcn_flax.workdir.lock import locked
from gcn_flax.workdir.profiler import Profiler
from gcn_flax.workdir.record import TrainingData, command, write_run_json
from gcn_flax.workdir.restore import recover_metrics, restore_or_init
from gcn_flax.workdir.run_summary import log_run_summary
from gcn_flax.workdir.samples import write_samples
from gcn_flax.workdir.stop_signal import StopSignal
from gcn_flax.workdir.training_log import TrainingLog, not_vital
from gcn_flax.workdir.wandb_writer import open_wandb
from gcn_flax.workdir.workdir import Workdir
from gcn_flax.workdir.writers import ImageIdLog, MetricWriter

_log = logging.getLogger(__name__)


def run(config: ml_collections.ConfigDict, workdir: Workdir | files.Path | str, data: RunData | None = None) -> bool:
  """Trains to `config.total_steps`, or until it stops early, resuming from the newest checkpoint of the workdir.

  Args:
    config: config of the run.
    workdir: workdir of the run.
    data: data sets of the run; opened if not given.

  Returns:
    True at the end of the run, False if a signal stopped it before.

  Raises:
    ValueError: for settings that do not fit each other, the data or the workdir.
    FloatingPointError: if loss, gradient or weights stop being finite.
  """
  workdir, data = Workdir(workdir), data or RunData(config)
  config = with_crop_size(config, workdir, data)
  data = data.with_config(config)
  preflight(config, workdir, training=True, split=config.data.eval_split, data=data)
  config = fit_intervals(config)
  _log.info("%d %s devices, workdir %s", jax.device_count(), jax.devices()[0].device_kind, workdir)
  setup = build.build(config, data.label_set.num_classes)
  log_run_summary(config, setup, data)
  # Read before anything is written or compiled, because a file may be wrong.
  init_weights = None if workdir.is_begun else load_init_weights(config, setup, data.label_set.classes)
  with contextlib.ExitStack() as stack:
    stack.enter_context(locked(workdir))
    stop = stack.enter_context(StopSignal())
    cache_compilations(workdir)
    workdir.check_room(trees.num_bytes(setup.state_shapes))
    checkpoints = stack.enter_context(Checkpoints(workdir.checkpoints, config.keep_checkpoints))
    state, start = restore_or_init(setup, checkpoints, init_weights, config.seed, config.total_steps)
    if start < config.total_steps:
      setup = stack.enter_context(compiled_ahead(config, setup, data.eval_source(config.data.eval_split)))
    image_ids = _open_image_id_log(config, workdir, stack)
    trained_on = _begin(config, workdir, checkpoints, data, start)
    writer = stack.enter_context(contextlib.closing(MetricWriter(workdir, start, open_wandb(config, workdir))))
    profiler = stack.enter_context(contextlib.closing(Profiler(workdir, config.profile_at_step)))
    log = TrainingLog(
      writer, setup.schedule, start, total_steps=config.total_steps, every_steps=config.log_every_steps,
      eval_every_steps=config.eval_every_steps, batch_size=config.batch_size, counts_skipped=config.data.skip_corrupt,
    )  # fmt: skip
    loop = _Loop(config, workdir, setup, data, checkpoints, log, image_ids, profiler, stop, trained_on)
    return loop.run(state, start)


def _open_image_id_log(
  config: ml_collections.ConfigDict, workdir: Workdir, stack: contextlib.ExitStack
) -> ImageIdLog | None:
  if not config.log_image_ids:
    return None
  number = sharding.all_gather(len(workdir.run_record().get("starts", [])))[0]
  return stack.enter_context(contextlib.closing(ImageIdLog(workdir, number)))


def _begin(
  config: ml_collections.ConfigDict, workdir: Workdir, checkpoints: Checkpoints, data: RunData, start: int
) -> TrainingData:
  """Writes config.json and run.json, and drops the metrics of steps that will be repeated.

  Returns the record of the data of the weights.
  """
  log_schedule_change(config, workdir, start)
  recover_metrics(checkpoints, workdir, f"{config.data.eval_split}/{tasks.of(config).BEST_METRIC}", start)
  checkpoints.metrics.forget_after(start)
  if start and workdir.run_record().get("order", 1) != loader.ORDER:
    _log.warning("an older version began this run: from step %d on, examples come in the order of this version.", start)
  # Examples that the initial weights lacked stay on record, even if those weights no longer exist.
  inherited = TrainingData.read(workdir.path if workdir.is_begun else init_path(config)).partial
  record = data.record()
  partial = {**inherited, **record["partial"]}
  if jax.process_index() == 0:
    workdir.write("config.json", config.to_json(indent=2) + "\n")
    write_run_json(workdir, start, record | {"partial": partial})
    if not is_classifier(config):
      with not_vital("the samples"):
        write_samples(workdir, data.eval_source(config.data.eval_split))
  return TrainingData(partial=partial)


@dataclasses.dataclass(frozen=True)
class _Loop:
  """The loop and its collaborators."""

  config: ml_collections.ConfigDict
  workdir: Workdir
  setup: build.Setup
  data: RunData
  checkpoints: Checkpoints
  log: TrainingLog
  image_ids: ImageIdLog | None
  profiler: Profiler
  stop: StopSignal
  trained_on: TrainingData

  def run(self, state: TrainState, start: int) -> bool:
    """Evaluates, saves, and only then takes the next batch, so that a saved state and its input always agree.

    Returns True at the end of the run.
    """
    total = self.config.total_steps
    with contextlib.closing(self.data.train_batches(start)) as batches:
      for step in range(start, total + 1):
        is_evaluated = self._evaluate_if_due(state, step)
        stopping = self.stop.requested()
        self._save_if_due(state, step, stopping)
        is_over = step == total or self._stops_early(step)
        if stopping or is_over:
          break
        self.profiler.before_step(step)
        with self.log.waiting():
          batch = next(batches)
        if self.image_ids:
          self.image_ids.note(step + 1, batch["image_id"])
        state, metrics = self._train_step(state, batch, is_first=step == start)
        self.log.push(step + 1, metrics, skipped=int(batch["skipped"].sum()))
    self.checkpoints.wait()
    is_finished = is_over and is_evaluated
    if not is_finished:
      _log.warning("stopped by a signal at step %d of %d. To resume from here: %s", step, total, command())
    return is_finished

  def _train_step(self, state: TrainState, batch: Mapping[str, Any], is_first: bool) -> tuple[TrainState, Any]:
    batch = sharding.shard_batch(batch, self.setup.mesh)
    with compiling("the train step") if is_first else contextlib.nullcontext():
      return self.setup.train_step(state, batch)

  def _is_due(self, step: int, every: int) -> bool:
    return step > 0 and (step % every == 0 or step == self.config.total_steps)

  def _evaluate_if_due(self, state: TrainState, step: int) -> bool:
    """Evaluates the state if that is due and was not done before a restart; returns False if a signal broke it off."""
    if not self._is_due(step, self.config.eval_every_steps) or self.checkpoints.metrics.get(step) is not None:
      return True
    self.log.flush()
    split = self.config.data.eval_split
    with self.log.paused():
      started, weights = time.monotonic(), state.weights()
      metrics = evaluate.evaluate(self.config, self.setup, weights, self.data.eval_source(split), self.stop.requested)
      if metrics is None:
        return False
      self.log.evaluation(step, split, metrics, time.monotonic() - started)
      if jax.process_index() == 0:
        with not_vital("the report"):
          evaluate.write_metrics(self.workdir, self.config, self.data, split, step, metrics, self.trained_on)
      self.checkpoints.metrics.set(step, metrics.scalars[tasks.of(self.config).BEST_METRIC])
      return True

  def _stops_early(self, step: int) -> bool:
    """Returns True after an evaluation if the best one is `config.early_stop_evaluations` or more behind it."""
    patience, metrics = self.config.early_stop_evaluations, self.checkpoints.metrics
    if not patience or metrics.get(step) is None or metrics.evaluations_since_best(step) < patience:
      return False
    _log.info(
      "early stopping: the run is finished at step %d of %d, as %d evaluations brought no better %s. To train on: %s",
      step, self.config.total_steps, metrics.evaluations_since_best(step), tasks.of(self.config).BEST_METRIC,
      flag("config.early_stop_evaluations", 0),
    )  # fmt: skip
    return True

  def _save_if_due(self, state: TrainState, step: int, stopping: bool) -> None:
    is_evaluated = self.checkpoints.metrics.get(step) is not None
    is_due = self._is_due(step, self.config.checkpoint_every_steps) or is_evaluated or stopping
    if step == 0 or not is_due or step in self.checkpoints.steps():
      return
    self.log.flush()  # Nothing is saved before its loss was seen to be finite.
    with self.log.paused():
      self.checkpoints.save(step, state, json.loads(self.config.to_json()))


def fit_intervals(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Returns a copy in which no interval is longer than the run; the log names those that were shortened.

  A long warm-up is only logged here: `optimizer.make_schedule` cuts it.
  """
  config = config.copy_and_resolve_references()
  for field in ("log_every_steps", "eval_every_steps", "checkpoint_every_steps"):
    if config[field] > config.total_steps:
      _log.info("config.%s=%d is longer than the run: taken as %d.", field, config[field], config.total_steps)
      config[field] = config.total_steps
  warmup, longest = config.optimizer.warmup_steps, config.total_steps // 2
  if warmup > longest:
    _log.info("config.optimizer.warmup_steps=%d is more than half the run: taken as %d.", warmup, longest)
  return config
