"""The training loop."""

import contextlib
import dataclasses
import json
import logging
import pathlib

import jax
import ml_collections

from gcn_flax import build, evaluate, writers
from gcn_flax import config as config_lib
from gcn_flax.input_pipeline import sources
from gcn_flax.progress import Log, StopSignal, Tracer
from gcn_flax.training import partition
from gcn_flax.training.checkpoint import Checkpoints, open_checkpoints
from gcn_flax.training.state import TrainState

_log = logging.getLogger(__name__)


def train(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Trains to `config.total_steps`, going on where the workdir stands.

  Raises:
    ValueError: for settings that do not fit each other, the data or the workdir.
    FloatingPointError: where loss, gradient or weights stop being finite.
  """
  config_lib.validate(config, jax.device_count())
  config = fit_intervals(config)
  source = build.open_split(config, config.data.train_split)
  build.open_split(config, config.data.eval_split)  # So that it is missed now and not at the first evaluation.
  begin(config, workdir)
  setup = build.build(config)
  with contextlib.ExitStack() as stack:
    checkpoints = stack.enter_context(Checkpoints(workdir / "checkpoints", config.keep_checkpoints))
    state, start = first_state(config, setup, checkpoints)
    writers.write_run_json(workdir, start, sources.split_sizes(config.data.dataset, config.data.data_dir))
    writer = stack.enter_context(contextlib.closing(writers.Writer(workdir, start)))
    tracer = stack.enter_context(contextlib.closing(Tracer(workdir, config.profile_at_step)))
    stop = stack.enter_context(StopSignal())
    log = Log(config, setup.schedule, writer, start)
    _Loop(config, workdir, setup, checkpoints, log, tracer, stop).run(state, start, source)


@dataclasses.dataclass(frozen=True)
class _Loop:
  """The loop and what it works with."""

  config: ml_collections.ConfigDict
  workdir: pathlib.Path
  setup: build.Setup
  checkpoints: Checkpoints
  log: Log
  tracer: Tracer
  stop: StopSignal

  def run(self, state: TrainState, start: int, source: sources.Source) -> None:
    """Evaluates, saves, and only then takes the next batch: so a saved state and its input always agree."""
    total = self.config.total_steps
    batches = build.train_batches(self.config, source, start)
    for step in range(start, total + 1):
      stopping = self.stop.requested
      score = None if stopping else self._evaluate_if_due(state, step)
      self._save_if_due(state, step, score, stopping)
      if stopping or step == total:
        break
      self.tracer.before_step(step)
      with self.log.waiting():
        batch = next(batches)
      state, metrics = self.setup.train_step(state, partition.to_device(batch, self.setup.mesh))
      self.log.push(step + 1, metrics)
    self.checkpoints.wait()
    if stopping:
      _log.info("stopped by a signal at step %d of %d; the same command goes on from here.", step, total)

  def _is_due(self, step: int, every: int) -> bool:
    return step > 0 and (step % every == 0 or step == self.config.total_steps)

  def _evaluate_if_due(self, state: TrainState, step: int) -> float | None:
    """The mean IoU, unless none is due or it was taken before a restart."""
    if not self._is_due(step, self.config.eval_every_steps) or self.log.has_score(step):
      return None
    self.log.flush()
    split = self.config.data.eval_split
    with self.log.paused():
      scores = evaluate.evaluate(self.config, self.setup, state, split)
      if jax.process_index() == 0:
        evaluate.write_scores(self.workdir, self.config, split, step, scores)
      self.log.scores(step, split, scores)
    return scores.mean_iou

  def _save_if_due(self, state: TrainState, step: int, score: float | None, stopping: bool) -> None:
    is_due = self._is_due(step, self.config.checkpoint_every_steps) or (stopping and step > 0)
    if score is None and (not is_due or step in self.checkpoints.steps()):
      return
    self.log.flush()  # Nothing is saved before its loss was seen to be finite.
    with self.log.paused():
      self.checkpoints.save(step, state, score)


def fit_intervals(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """A copy in which no interval is longer than the run; the log says what was shortened."""
  config = config.copy_and_resolve_references()
  for field in ("log_every_steps", "eval_every_steps", "checkpoint_every_steps"):
    if config[field] > config.total_steps:
      _log.info("config.%s=%d is longer than the run: taken as %d.", field, config[field], config.total_steps)
      config[field] = config.total_steps
  warmup, longest = config.optimizer.warmup_steps, config.total_steps // 2
  if warmup > longest:
    _log.info("config.optimizer.warmup_steps=%d is more than half the run: taken as %d.", warmup, longest)
  return config


def begin(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Writes `config.json` into a new workdir; compares it with the one of a workdir already begun.

  Raises ValueError where a setting differs that may not.
  """
  path = workdir / "config.json"
  settings = json.loads(config.to_json())
  if path.exists():
    config_lib.check_unchanged(json.loads(path.read_text()), settings)
  if jax.process_index() == 0:
    workdir.mkdir(parents=True, exist_ok=True)
    writers.write_text(path, json.dumps(settings, indent=2) + "\n")


def first_state(
  config: ml_collections.ConfigDict, setup: build.Setup, checkpoints: Checkpoints
) -> tuple[TrainState, int]:
  """The state to go on from, and its step: 1. the workdir's own checkpoint, 2. `init_from`, 3. random weights.

  Raises ValueError where a checkpoint is of another network or past the run's end.
  """
  latest = checkpoints.latest()
  if latest is not None:
    if latest > config.total_steps:
      raise ValueError(
        f"the workdir stands at step {latest}, past config.total_steps={config.total_steps}: raise it or take another."
      )
    _log.info("going on from step %d of %d.", latest, config.total_steps)
    return checkpoints.restore(latest, setup.state_shapes), latest
  state = setup.init(config.seed)
  if config.init_from:
    with open_checkpoints(config.init_from) as others:
      best = others.best()
      params, batch_stats = others.restore_weights(best, setup.state_shapes)
    state = state.replace(params=params, batch_stats=batch_stats)
    _log.info("weights of %s, step %d.", config.init_from, best)
  return state, 0
