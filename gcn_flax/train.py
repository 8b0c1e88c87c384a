"""The training loop."""

import contextlib
import dataclasses
import json
import logging
import pathlib
from typing import Any

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
  config_lib.validate(config)
  config = fit_intervals(config)
  mix = open_training(config)
  check_workdir(config, workdir)
  check_data(config, workdir)
  config_lib.validate(config, jax.device_count())  # Only now are the devices woken, which takes seconds.
  _log.info("%d %s devices, workdir %s", jax.device_count(), jax.devices()[0].device_kind, workdir)
  setup = build.build(config)
  with contextlib.ExitStack() as stack:
    checkpoints = stack.enter_context(Checkpoints(workdir / "checkpoints", config.keep_checkpoints))
    state, start = first_state(config, setup, checkpoints)
    checkpoints.forget_scores_after(start)
    if jax.process_index() == 0:
      writers.write_text(workdir / "config.json", config.to_json(indent=2) + "\n")
      writers.write_run_json(workdir, start, data_facts(config))
    writer = stack.enter_context(contextlib.closing(writers.Writer(workdir, start)))
    tracer = stack.enter_context(contextlib.closing(Tracer(workdir, config.profile_at_step)))
    stop = stack.enter_context(StopSignal())
    log = Log(config, setup.schedule, writer, start)
    _Loop(config, workdir, setup, checkpoints, log, tracer, stop).run(state, start, mix)


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

  def run(self, state: TrainState, start: int, mix: list[sources.Source]) -> None:
    """Evaluates, saves, and only then takes the next batch: so a saved state and its input always agree."""
    total = self.config.total_steps
    batches = build.train_batches(self.config, mix, start)
    for step in range(start, total + 1):
      self._evaluate_if_due(state, step)
      stopping = self.stop.requested
      self._save_if_due(state, step, stopping)
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

  def _evaluate_if_due(self, state: TrainState, step: int) -> None:
    """Scores the state, unless none is due, it was done before a restart, or the run is to stop at once."""
    if not self._is_due(step, self.config.eval_every_steps) or self.checkpoints.score(step) is not None:
      return
    self.log.flush()
    split = self.config.data.eval_split
    with self.log.paused():
      scores = evaluate.evaluate(self.config, self.setup, state, split, should_stop=lambda: self.stop.requested)
      if scores is None:
        return
      if jax.process_index() == 0:
        evaluate.write_scores(self.workdir, self.config, split, step, scores)
      self.log.scores(step, split, scores)
      self.checkpoints.set_score(step, scores.mean_iou)

  def _save_if_due(self, state: TrainState, step: int, stopping: bool) -> None:
    is_scored = self.checkpoints.score(step) is not None
    is_due = self._is_due(step, self.config.checkpoint_every_steps) or is_scored or stopping
    if step == 0 or not is_due or step in self.checkpoints.steps():
      return
    self.log.flush()  # Nothing is saved before its loss was seen to be finite.
    with self.log.paused():
      self.checkpoints.save(step, state)


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


def open_training(config: ml_collections.ConfigDict) -> list[sources.Source]:
  """Opens what is trained on, and looks at the split to score for what would stop the run later.

  Raises ValueError for a split that is missing, empty or without labels, for classes
  that differ, for images that are in the mix twice, and for images that do not fit.
  """
  mix = build.open_mix(config)
  dataset, split = config.data.dataset, config.data.eval_split
  build.open_split(config, dataset, split)
  build.check_fits(config, dataset, split, "eval_size")
  if build.trains_on_scored(config):
    _log.warning("WARNING: %s %r is trained on as well as scored: its scores say nothing.", dataset, split)
  return mix


def data_facts(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """What `run.json` keeps of the data: counts, classes, what changes with the files, what is not whole.

  What was not whole where the first weights of `config.init_from` were trained is passed on.
  """
  inherited = (
    writers.read_run_json(pathlib.Path(config.init_from).expanduser()).get("partial", {}) if config.init_from else {}
  )
  classes = sources.open_label_set(config.data.dataset, config.data.data_dir).classes
  return {
    "data": build.data_counts(config),
    "classes": list(classes),
    "fingerprints": build.fingerprints(config),
    "partial": inherited | build.partial_data(config),
  }


def check_workdir(config: ml_collections.ConfigDict, workdir: pathlib.Path, only: tuple[str, ...] = ()) -> None:
  """Compares the settings with those of a workdir that holds a checkpoint already.

  Args:
    config: the settings asked for.
    workdir: of the run.
    only: names of the fields to compare; all that may not change, unless told.

  Raises ValueError where a setting differs that may not.
  """
  path = workdir / "config.json"
  if not path.exists() or not any((workdir / "checkpoints").glob("[0-9]*")):
    return
  try:
    before = json.loads(path.read_text())
  except json.JSONDecodeError as error:
    raise ValueError(f"{path} is damaged ({error}): put it back, or take a new workdir.") from error
  config_lib.check_unchanged(before, json.loads(config.to_json()), only)


def check_data(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Compares what is trained on with what a workdir was begun with, and the classes with those of first weights.

  Raises ValueError where they differ: the order of examples, or the meaning of the scores, would be another.
  """
  if any((workdir / "checkpoints").glob("[0-9]*")):
    before = writers.read_run_json(workdir).get("fingerprints", {})
    for name, now in build.fingerprints(config).items():
      changed = [key for key, value in now.items() if before.get(name, now)[key] != value]
      if changed:
        raise ValueError(
          f"{name} in {config.data.data_dir} is not what the workdir was begun with ({', '.join(changed)} differ): "
          "bring that data set back or take a new workdir."
        )
  elif config.init_from:
    check_classes(config, pathlib.Path(config.init_from).expanduser())


def check_classes(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Raises ValueError where a workdir was trained with other classes than the data set has now."""
  now = list(sources.open_label_set(config.data.dataset, config.data.data_dir).classes)
  before = writers.read_run_json(workdir).get("classes", now)
  if before != now:
    raise ValueError(
      f"{workdir} was trained with the classes {', '.join(before)}, but {config.data.dataset} in "
      f"{config.data.data_dir} has {', '.join(now)}."
    )


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
