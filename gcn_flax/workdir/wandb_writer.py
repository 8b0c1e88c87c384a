"""Writes a run's scalars and pictures to Weights & Biases (W&B), which is optional: pip install wandb."""

import importlib.util
import json
import logging
import pathlib
import secrets
import tempfile
from collections.abc import Mapping

import jax
import ml_collections
import numpy as np

from gcn_flax import json_files
from gcn_flax.messages import flag
from gcn_flax.printable import one_line
from gcn_flax.workdir.workdir import Workdir

_log = logging.getLogger(__name__)
_ID_FILE = "wandb.json"  # {"id": id of the W&B run}


def check_installed(project: str) -> None:
  """Raises ValueError if a project is given and wandb is not installed."""
  spec = importlib.util.find_spec("wandb") if project else None
  if project and (spec is None or spec.origin is None):  # A folder wandb/, as W&B writes it, has no origin.
    raise ValueError(
      f"config.wandb_project={project!r}: wandb is not installed. Run pip install wandb, or use "
      f"{flag('config.wandb_project', '')}."
    )


def open_wandb(config: ml_collections.ConfigDict, workdir: Workdir) -> "WandbWriter | None":
  """Opens the W&B run of a workdir on the first host; None on others, and if `config.wandb_project` is empty.

  Raises ValueError if W&B refuses the run, for instance without a login, or if the stored id is damaged.
  """
  return WandbWriter(config, workdir) if config.wandb_project and jax.process_index() == 0 else None


class WandbWriter:
  """A W&B run. Its id is kept in `wandb.json` of the workdir, so that a restart continues the same run.

  Local files are in the folder `wandb` of the workdir, or in a temporary folder if the workdir is in a bucket. Steps
  that are repeated after a restart appear twice.
  """

  def __init__(self, config: ml_collections.ConfigDict, workdir: Workdir):
    import wandb

    self._image = wandb.Image
    project, folder = config.wandb_project, tempfile.mkdtemp(prefix="wandb") if workdir.is_remote else str(workdir)
    try:
      self._run = wandb.init(
        project=project,
        id=_run_id(workdir),
        name=pathlib.PurePath(str(workdir)).name,
        resume="allow",
        dir=folder,
        config=json.loads(config.to_json()),
        settings=wandb.Settings(console="off", silent=True),
      )
    except (wandb.Error, ValueError) as error:
      raise ValueError(
        f"config.wandb_project={project!r}: W&B reports: {one_line(error)} Log in with wandb login, set "
        f"WANDB_MODE=offline, or use {flag('config.wandb_project', '')}."
      ) from error
    # W&B's own step may not go back, as it does when a run resumes from an earlier checkpoint.
    self._run.define_metric("step")
    self._run.define_metric("*", step_metric="step")
    where = (
      f"offline; to upload it: wandb sync {pathlib.Path(self._run.dir).parent}" if self._run.offline else self._run.url
    )
    _log.info("W&B: %s", where)

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """Logs numbers at a step."""
    self._run.log({"step": step, **{name: float(value) for name, value in scalars.items()}})

  def write_images(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
    """Logs RGB uint8 pictures `[1, H, W, 3]` at a step."""
    self._run.log({"step": step, **{name: self._image(picture[0]) for name, picture in pictures.items()}})

  def close(self) -> None:
    """Waits until everything is sent, and closes the run."""
    self._run.finish()


def _run_id(workdir: Workdir) -> str:
  """Returns the id that the workdir keeps, a new one at the first start. Raises ValueError if it is damaged."""
  try:
    return json_files.read(workdir / _ID_FILE, {"id": str}, "Remove it: a new W&B run is begun then.")["id"]
  except FileNotFoundError:
    workdir.write_json(_ID_FILE, {"id": secrets.token_hex(8)})
    return _run_id(workdir)
