"""The training loop."""

import contextlib
import dataclasses
import logging
from typing import Any

import jax
import ml_collections

from gcn_flax import build, evaluate, files, inference, tasks, validation
from gcn_flax.input_pipeline import datasets
from gcn_flax.training import sharding
from gcn_flax.training.checkpoint import Checkpoints
from gcn_flax.training.state import TrainState
from gcn_flax.workdir import writers
from gcn_flax.workdir.compatibility import check_data, check_room, check_workdir, facts, is_begun
from gcn_flax.workdir.lock import owned
from gcn_flax.workdir.progress import Log, StopSignal, Tracer
from gcn_flax.workdir.restore import init_path, load_init_weights, restore_or_init

_log = logging.getLogger(__name__)


def train(config: ml_collections.ConfigDict, workdir: files.Path) -> bool:
  """Trains to `config.total_steps`, going on where the workdir stands; False where a signal stopped it before.

  Raises:
    ValueError: for settings that do not fit each other, the data or the workdir.
    FloatingPointError: where loss, gradient or weights stop being finite.
  """
  validation.validate(config)
  config = fit_intervals(config)
  if config.log_image_ids and files.is_remote(workdir):
    raise ValueError(
      "config.log_image_ids=True writes a line for each step, which a bucket does not take: set it to False."
    )
  mix = open_training(config)
  check_workdir(config, workdir)
  check_data(config, workdir)
  validation.validate(config, jax.device_count())  # Only now are the devices woken, which takes seconds.
  keep_compiled(workdir)
  _log.info("%d %s devices, workdir %s", jax.device_count(), jax.devices()[0].device_kind, workdir)
  setup = build.build(config)
  # Read before anything is written or compiled: a file may be wrong.
  weights = None if is_begun(workdir) else load_init_weights(config, setup)
  with contextlib.ExitStack() as stack:
    stack.enter_context(owned(workdir))
    number = sharding.all_gather(len(writers.read_run_json(workdir).get("starts", [])))[0]
    check_room(workdir, setup.state_shapes)
    checkpoints = stack.enter_context(Checkpoints(workdir / "checkpoints", config.keep_checkpoints))
    state, start = restore_or_init(config, setup, checkpoints, weights)
    checkpoints.forget_scores_after(start)
    if jax.process_index() == 0:
      files.write(workdir / "config.json", config.to_json(indent=2) + "\n")
      writers.write_run_json(workdir, start, data_facts(config, workdir))
    writer = stack.enter_context(contextlib.closing(writers.Writer(workdir, start)))
    image_ids = None
    if config.log_image_ids:
      image_ids = stack.enter_context(contextlib.closing(writers.ImageIds(workdir, number)))
    tracer = stack.enter_context(contextlib.closing(Tracer(workdir, config.profile_at_step)))
    stop = stack.enter_context(StopSignal())
    log = Log(config, setup.schedule, writer, start)
    return _Loop(config, workdir, setup, checkpoints, log, image_ids, tracer, stop).run(state, start, mix)


def keep_compiled(workdir: files.Path) -> None:
  """Keeps what is compiled in the workdir, so that a run that goes on, also on another machine, begins sooner.

  Where JAX_COMPILATION_CACHE_DIR is set, it is kept there.
  """
  if not jax.config.jax_compilation_cache_dir:
    jax.config.update("jax_compilation_cache_dir", str(workdir / "compiled"))


@dataclasses.dataclass(frozen=True)
class _Loop:
  """The loop and what it works with."""

  config: ml_collections.ConfigDict
  workdir: files.Path
  setup: build.Setup
  checkpoints: Checkpoints
  log: Log
  image_ids: writers.ImageIds | None
  tracer: Tracer
  stop: StopSignal

  def run(self, state: TrainState, start: int, mix: list[datasets.Source]) -> bool:
    """Evaluates, saves, and only then takes the next batch: so a saved state and its input always agree.

    Returns whether it came to its end.
    """
    total = self.config.total_steps
    batches = build.train_batches(self.config, mix, start)
    for step in range(start, total + 1):
      self._evaluate_if_due(state, step)
      stopping = self.stop.requested()
      self._save_if_due(state, step, stopping)
      if stopping or step == total:
        break
      self.tracer.before_step(step)
      with self.log.waiting():
        batch = next(batches)
      self.log.skip(int(batch["skipped"].sum()))
      if self.image_ids:
        self.image_ids.note(step + 1, batch["image_id"])
      state, metrics = self.setup.train_step(state, sharding.shard_batch(batch, self.setup.mesh))
      self.log.push(step + 1, metrics)
    self.checkpoints.wait()
    if stopping:
      _log.warning("stopped by a signal at step %d of %d; the same command goes on from here.", step, total)
    return step == total

  def _is_due(self, step: int, every: int) -> bool:
    return step > 0 and (step % every == 0 or step == self.config.total_steps)

  def _evaluate_if_due(self, state: TrainState, step: int) -> None:
    """Scores the state, unless none is due, it was done before a restart, or the run is to stop at once."""
    if not self._is_due(step, self.config.eval_every_steps) or self.checkpoints.score(step) is not None:
      return
    self.log.flush()
    split = self.config.data.eval_split
    with self.log.paused():
      scores = evaluate.evaluate(self.config, self.setup, state.weights(), split, should_stop=self.stop.requested)
      if scores is None:
        return
      self.log.scores(step, split, scores)
      if jax.process_index() == 0:
        trained_on = facts(self.workdir).get("partial", {})
        evaluate.write_scores(self.workdir, self.config, split, step, scores, trained_on)
      self.checkpoints.set_score(step, scores.scalars[tasks.of(self.config).SCORE])

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


def open_training(config: ml_collections.ConfigDict) -> list[datasets.Source]:
  """Opens what is trained on, and looks at the split to score for what would stop the run later.

  Raises ValueError for a split that is missing, empty or without labels, for classes
  that differ, for images that are in the mix twice, and for images that do not fit.
  """
  mix = build.open_mix(config)
  dataset, split = config.data.dataset, config.data.eval_split
  build.open_split(config, dataset, split)
  tasks.of(config).check_sizes(config)
  inference.check_crf_installed(config)
  if build.trains_on_scored(config):
    _log.warning("WARNING: %s %r is trained on as well as scored: its scores say nothing.", dataset, split)
  return mix


def data_facts(config: ml_collections.ConfigDict, workdir: files.Path) -> dict[str, Any]:
  """What `run.json` keeps of the data: counts, classes, what changes with the files, what is not whole.

  What was not whole where the first weights were trained is passed on, also where they are gone by now.
  """
  origin = workdir if is_begun(workdir) else init_path(config)
  inherited = facts(origin).get("partial", {}) if origin else {}
  label_set = datasets.open_label_set(config.data.dataset, config.data.data_dir)
  return {
    "data": build.data_counts(config),
    "classes": list(label_set.classes),
    "palette": [list(colour) for colour in label_set.palette],
    "fingerprints": build.fingerprints(config),
    "partial": inherited | build.partial_data(config),
  }
