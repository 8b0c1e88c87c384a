"""Planted label errors are found, ranked, written and shown."""

import json
import pathlib

import cv2
import numpy as np
import pytest

from data.prepare import prepare
from gcn_flax import main, train
from tests.conftest import tiny_config

CLASSES = ("background", "red", "blue")
COLOURS = ((120, 120, 120), (200, 60, 50), (60, 90, 210))
SWAPPED, REMOVED, SHIFTED = "01", "04", "06"  # Images of the validation split.
SHIFT = 12  # Pixels.


def write_bars(root: pathlib.Path, split: str, count: int, seed: int) -> None:
  """Writes images with one red or blue bar each, void along its outline, and their masks."""
  rng = np.random.default_rng(seed)
  for kind in ("images", "masks"):
    (root / kind / split).mkdir(parents=True)
  for index in range(count):
    height, width = rng.integers(20, 32), rng.integers(40, 60)
    top, left = rng.integers(4, 60 - height), rng.integers(4, 92 - width)
    label = np.zeros((64, 96), np.uint8)
    label[top : top + height, left : left + width] = 1 + index % 2
    image = np.array(COLOURS)[label] + rng.normal(0, 12, (64, 96, 3))
    edge = cv2.morphologyEx(label, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    label[edge] = 255
    cv2.imwrite(str(root / f"images/{split}/{index:02}.png"), np.clip(image, 0, 255).astype(np.uint8)[..., ::-1])
    cv2.imwrite(str(root / f"masks/{split}/{index:02}.png"), label)


def plant_errors(root: pathlib.Path) -> None:
  """Swaps the class of one bar of the validation split, removes one, and shifts one."""
  for name, change in {
    SWAPPED: lambda label: np.where((label == 1) | (label == 2), 3 - label, label),
    REMOVED: lambda label: label * 0,
    SHIFTED: lambda label: np.roll(label, SHIFT, 1),
  }.items():
    path = str(root / f"masks/val/{name}.png")
    cv2.imwrite(path, change(cv2.imread(path, cv2.IMREAD_UNCHANGED)).astype(np.uint8))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
  """A run whose network knows the bars, on data with three wrong masks."""
  root = tmp_path_factory.mktemp("bars")
  write_bars(root, "train", 24, seed=1)
  write_bars(root, "val", 8, seed=2)
  plant_errors(root)
  (root / "classes.txt").write_text("\n".join(CLASSES))
  prepare("folder", str(root), str(root / "data"))
  config = tiny_config(str(root / "data"))
  config.data.dataset, config.data.train_mix = "folder", (("folder", "train", "all once"),)
  config.total_steps = config.eval_every_steps = config.checkpoint_every_steps = 40
  config.data.random_crop = config.data.random_scale = False
  config.data.crop_size = (64, 96)
  config.model.head, config.model.boundary_refine = "pointwise", False
  config.optimizer.learning_rate, config.optimizer.clip_norm = 0.05, 1.0
  train.run(config, root / "run")
  return root / "run"


def test_planted_errors_are_among_the_first_five(run, capsys):
  assert main.main(["gcn_flax", "--mode=label_errors", f"--workdir={run}", "--split=validation"]) == 0
  print(capsys.readouterr().out)
  result = json.loads((run / "label_errors_validation.json").read_text())
  found = {each["image_id"] for each in result["regions"][:5]}
  assert found >= {SWAPPED, REMOVED, SHIFTED}
