"""Eight CPU devices and small prepared data sets for all tests."""

from tests.environment import initialize_jax

initialize_jax(devices=8)

import logging  # noqa: E402
import os  # noqa: E402
import pathlib  # noqa: E402
import shutil  # noqa: E402
from importlib import metadata  # noqa: E402

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

flags.FLAGS.mark_as_parsed()  # Grain's worker processes read flags.


def pytest_report_header():
  return ", ".join(f"{name} {metadata.version(name)}" for name in ("jax", "flax", "numpy"))


def write_street(root: pathlib.Path, split: str, count: int, seed: int, sizes=((64, 96),)) -> None:
  """Writes images and masks in CamVid's layout, with all classes and void, one colour per class, of the sizes in turn.

  Sizes are at most 64 x 96.
  """
  rng = np.random.default_rng(seed)
  for kind in ("images", "masks"):
    (root / kind / split).mkdir(parents=True, exist_ok=True)
  for index in range(count):
    mask = np.kron(rng.integers(0, 12, (4, 6)), np.ones((16, 16))).astype(np.uint8)
    mask[mask == 11] = 255
    height, width = sizes[index % len(sizes)]
    mask = mask[:height, :width]
    image = np.stack([mask * 20, 255 - mask, mask], -1) + rng.integers(0, 5, (height, width, 3))
    cv2.imwrite(str(root / "images" / split / f"{split}{index}.png"), image.astype(np.uint8))
    cv2.imwrite(str(root / "masks" / split / f"{split}{index}.png"), mask)


@pytest.fixture(scope="session")
def street(tmp_path_factory) -> pathlib.Path:
  """A tiny data set in CamVid's layout: 12 images for training, 5 for validation."""
  root = tmp_path_factory.mktemp("street")
  write_street(root, "train", 12, seed=1)
  write_street(root, "val", 5, seed=2)
  return root


@pytest.fixture(scope="session")
def data_dir(street, tmp_path_factory) -> str:
  """The data_dir of the tiny data set, prepared as `camvid`."""
  from data.prepare import prepare

  target = str(tmp_path_factory.mktemp("data"))
  prepare("camvid", str(street), target, partial=True)
  return target


@pytest.fixture(scope="session")
def mixed_data_dir(tmp_path_factory) -> str:
  """The data_dir of a data set like `data_dir`'s, whose images have three sizes that need two canvases."""
  from data.prepare import prepare

  root, target = tmp_path_factory.mktemp("mixed"), str(tmp_path_factory.mktemp("mixed_data"))
  for split, count in (("train", 12), ("val", 5)):
    write_street(root, split, count, seed=count, sizes=((64, 96), (50, 70), (33, 60)))
  prepare("camvid", str(root), target, partial=True)
  return target


@pytest.fixture(scope="session")
def class_data_dir(tmp_path_factory) -> str:
  """The data_dir of a tiny `class_folder`: 3 classes of different colour, 8 images to train on and 3 to validate."""
  from data.prepare import prepare

  root, target = tmp_path_factory.mktemp("classes"), str(tmp_path_factory.mktemp("class_data"))
  rng = np.random.default_rng(3)
  for split, count in (("train", 8), ("val", 3)):
    for channel, name in enumerate(("blue", "green", "red")):
      (root / split / name).mkdir(parents=True)
      for index in range(count):
        image = rng.integers(0, 120, (70, 80, 3))
        image[..., channel] += 120
        cv2.imwrite(str(root / split / name / f"{index}.png"), image.astype(np.uint8))
  prepare("class_folder", str(root), target)
  return target


@pytest.fixture
def class_config(class_data_dir):
  """A config that trains a tiny classifier for 2 steps."""
  from configs import silhouettes

  config = silhouettes.get_config()
  config.total_steps = 2
  config.batch_size = 8
  config.log_every_steps = config.eval_every_steps = config.checkpoint_every_steps = 2
  config.data.data_dir = class_data_dir
  config.eval.batch_size = 8
  config.eval.num_pictures = 5
  return config


@pytest.fixture
def config(data_dir):
  """A config that trains on the tiny data set for 4 steps."""
  return tiny_config(data_dir)


def tiny_config(data_dir: str):
  """Returns a config that trains on the tiny data set for 4 steps."""
  from configs import camvid

  config = camvid.get_config()
  config.total_steps = 4
  config.batch_size = 8
  config.log_every_steps = 1
  config.eval_every_steps = 4
  config.checkpoint_every_steps = 2
  config.data.data_dir = data_dir
  config.data.crop_size = (64, 64)
  config.data.num_threads = 2
  config.model.backbone = "resnet_tiny"
  config.model.kernel_size = 3
  config.data.scales, config.loss.class_weights = (0.5, 2.0), ()  # Tests put other classes in the place of CamVid's.
  config.optimizer.kind, config.optimizer.learning_rate, config.optimizer.weight_decay = "sgd", 0.05, 5e-4
  config.optimizer.warmup_steps = 1
  return config


@pytest.fixture(scope="session")
def _trained_run(data_dir, tmp_path_factory) -> pathlib.Path:
  from gcn_flax import train

  config, workdir = tiny_config(data_dir), tmp_path_factory.mktemp("trained") / "run"
  config.total_steps = 2
  train.run(config, workdir)
  return workdir


@pytest.fixture
def trained_run(_trained_run, config, tmp_path) -> pathlib.Path:
  """A workdir of its own in which `config`, shortened to 2 steps, was trained to the end."""
  config.total_steps = 2
  return shutil.copytree(_trained_run, tmp_path / "trained")


@pytest.fixture(autouse=True)
def _shared_setups(request, monkeypatch):
  """Lets runs with the same network, loss and optimizer share the steps that they trace and compile.

  Not for tests marked `compiles`.
  """
  from gcn_flax import build

  if request.node.get_closest_marker("compiles"):
    return

  original = build.build

  def build_once(config, *args, **kwargs):
    parts = [getattr(config, name).to_json(sort_keys=True) for name in ("loss", "optimizer", "mesh", "eval")]
    model = {name: value for name, value in config.model.items() if name != "pretrained"}
    key = str((parts, model, config.total_steps, config.accumulate_steps, config.data.dataset, args, kwargs))
    if key not in _SETUPS:
      while len(_SETUPS) >= _MAX_SETUPS:
        _SETUPS.pop(next(iter(_SETUPS)))
      _SETUPS[key] = original(config, *args, **kwargs)
    return _SETUPS[key]

  monkeypatch.setattr(build, "build", build_once)


_SETUPS, _MAX_SETUPS = {}, 12


@pytest.fixture
def fast_runs(monkeypatch):
  """Makes runs faster: no reports are drawn."""
  from gcn_flax.reporting import report

  monkeypatch.setattr(report, "write", lambda *_: None)


@pytest.fixture(autouse=True)
def _logger_of_the_command_line():
  """Undoes what commands do to the logger: it would go on writing to the captured stderr of an earlier test."""
  yield
  logger = logging.getLogger("gcn_flax")
  logger.propagate, logger.level, logger.handlers = True, logging.NOTSET, []


@pytest.fixture(scope="module")  # While it lives, no other event loop can run in this thread.
def browser():
  """Chromium: the installed one, or the one that `playwright install chromium` downloaded."""
  from playwright.sync_api import sync_playwright

  names = ("chromium", "chromium-browser", "google-chrome")
  installed = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
  with sync_playwright() as playwright:
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    started = playwright.chromium.launch(executable_path=installed, args=options)
    yield started
    started.close()


@pytest.fixture
def partitioner():
  """Restores the partitioner, which a mesh with spatial sharding changes for the whole process."""
  import jax

  before = jax.config.jax_use_shardy_partitioner
  yield
  jax.config.update("jax_use_shardy_partitioner", before)
