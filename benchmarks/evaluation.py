"""Whole-image evaluation at Cityscapes' size: images a second and peak memory, for each way of looking at an image.

  python benchmarks/evaluation.py --json=runs/bench_evaluation.json

Drawn pictures and labels of 1024 x 2048 go through `gcn_flax.evaluate.evaluate`: decoded, padded, predicted, counted.
Each case runs in a process of its own, whose peak memory is its own: that of the whole process, and on a GPU that of
the device. Rates are of the devices and of the host after one image as warm-up, one pass over --images. Beside the
rate stand the parts: the devices' step alone, and what the host does with one image.
"""

import argparse
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import time
import unittest.mock
from collections.abc import Callable, Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import cv2  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks import timing  # noqa: E402
from configs import cityscapes  # noqa: E402
from gcn_flax import build, evaluate  # noqa: E402
from gcn_flax.input_pipeline.datasets import decode_image  # noqa: E402
from gcn_flax.labels import CITYSCAPES  # noqa: E402
from gcn_flax.tasks import segmentation  # noqa: E402
from gcn_flax.training import sharding  # noqa: E402

SIZE = (1024, 2048)
CASES = {  # Fields of config.eval.
  "whole image": {},
  "four crops of 1024 x 1024 (the paper's)": {"tile": (1024, 1024), "overlap": 682},
  "whole image, mirrored": {"flip": True},
  "scales 0.75, 1, 1.25, mirrored": {"scales": (0.75, 1.0, 1.25), "flip": True},
  "the same in tiles of 768 x 768": {"scales": (0.75, 1.0, 1.25), "flip": True, "tile": (768, 768), "overlap": 256},
}


class Drawn:
  """Pictures of smooth regions, as PNG, with their labels and instance ids."""

  label_set = CITYSCAPES
  has_labels = True
  split = "validation"

  def __init__(self, count: int):
    rng = np.random.default_rng(0)
    self._pictures = [self._draw(rng) for _ in range(min(count, 3))]
    self._count = count

  def _draw(self, rng: np.random.Generator) -> tuple[bytes, np.ndarray, np.ndarray]:
    regions = cv2.resize(rng.normal(size=(12, 24, 20)), SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    label = np.argmax(regions, -1).astype(np.uint8)
    label[label == 19] = 255
    raw = np.array([*np.flatnonzero(CITYSCAPES.raw_to_train != 255), *[0] * 237])[label].astype(np.uint16)
    instances = np.where(raw >= 24, raw * 1000 + np.arange(SIZE[1], dtype=np.uint16)[None] // 300, raw)
    image = (label[..., None] * np.array([12, 7, 9]) + rng.normal(0, 2, (*SIZE, 3))).clip(0, 255).astype(np.uint8)
    return cv2.imencode(".png", image)[1].tobytes(), label, instances.astype(np.uint16)

  def __len__(self) -> int:
    return self._count

  def __getitem__(self, index: int) -> dict[str, Any]:
    image, label, _ = self._pictures[range(self._count)[index] % len(self._pictures)]
    return {"image": decode_image(image, "drawn"), "label": label, "image_id": self.image_id(index)}

  def image_id(self, index: int) -> str:
    """A name."""
    return f"drawn{index}"

  def instances(self, index: int) -> np.ndarray:
    """Instance ids."""
    return self._pictures[index % len(self._pictures)][2]


def measure(case: str, args: argparse.Namespace) -> dict[str, float]:
  """What one case costs; to be called in a process of its own."""
  config = cityscapes.get_config()
  config.model.backbone, config.model.kernel_size = args.backbone, args.kernel_size
  config.model.dtype = args.dtype
  config.data.num_threads = timing.num_cores()
  config.eval.batch_size, config.eval.num_pictures = jax.device_count(), 0
  config.eval.update(CASES[case])
  setup = build.build(config, num_classes=CITYSCAPES.num_classes)
  weights = setup.init(0).weights()
  jax.block_until_ready(weights)
  before = _resident_mb()

  def score(count: int) -> float:
    source = Drawn(count)
    with unittest.mock.patch.object(build, "open_split", lambda *_: source):
      start = time.perf_counter()
      scores = evaluate.evaluate(config, setup, weights, "validation")
      assert scores.num_images == count
      return time.perf_counter() - start

  score(jax.device_count())
  seconds = score(args.images)
  source = Drawn(1)
  example = source[0]
  size = np.array([SIZE] * jax.device_count(), np.int32)
  batch = {"image": np.stack([example["image"]] * jax.device_count()), "size": size}
  inputs = sharding.shard_eval_batch(batch, setup.mesh)
  prediction = np.roll(np.where(example["label"] == 255, 0, example["label"]), 5, 1)
  figures = {
    "images_per_second": args.images / seconds,
    "step_s_per_image": _median(lambda: jax.block_until_ready(setup.eval_step(weights, inputs))) / jax.device_count(),
    "host_s_per_image": _median(lambda: segmentation.count(source, 0, example["label"], prediction)),
    "decode_s_per_image": _median(lambda: source[0]),
    "process_before_mb": before,
    "process_peak_mb": _peak_mb(),
  }
  stats = jax.local_devices()[0].memory_stats() or {}
  if "peak_bytes_in_use" in stats:
    figures["device_peak_mb"] = stats["peak_bytes_in_use"] / 1e6
  return figures | {"device": jax.devices()[0].device_kind, "devices": jax.device_count()}


def _median(function: Callable[[], object], repeats: int = 3) -> float:
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    function()
    times.append(time.perf_counter() - start)
  return statistics.median(times)


def _resident_mb() -> float:
  pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
  return pages * resource.getpagesize() / 1e6


def _peak_mb() -> float:
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def _table(found: dict[str, dict[str, float]]) -> str:
  header = [
    "config.eval",
    "images/s",
    "step, s",
    "host, s",
    "decoding, s",
    "process: before, MB",
    "peak, MB",
    "device: peak, MB",
  ]
  rows = []
  for case, figures in found.items():
    parts = (
      figures[name] for name in ("images_per_second", "step_s_per_image", "host_s_per_image", "decode_s_per_image")
    )
    memory = [f"{figures[name]:,.0f}" for name in ("process_before_mb", "process_peak_mb")]
    device = f"{figures['device_peak_mb']:,.0f}" if "device_peak_mb" in figures else "-"
    rows.append([case, *(f"{part:.3g}" for part in parts), *memory, device])
  return timing.table(header, rows)


def main(argv: Sequence[str]) -> int:
  """Measures every case in a process of its own, prints, writes."""
  parser = argparse.ArgumentParser(prog="benchmarks/evaluation.py", description="Evaluation at 1024 x 2048.")
  parser.add_argument("--backbone", default="resnet50")
  parser.add_argument("--kernel_size", type=int, default=25)
  parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
  parser.add_argument("--images", type=int, default=4, help="that are timed, a multiple of the devices")
  parser.add_argument("--cases", default="", help="numbers of some of the cases, such as 0,1; all unless told")
  parser.add_argument("--json", default="", help="file to write the numbers to")
  parser.add_argument("--case", default="", help=argparse.SUPPRESS)
  args = parser.parse_args(argv)
  if args.case:
    print("FIGURES " + json.dumps(measure(args.case, args)))
    return 0
  numbers = [int(number) for number in args.cases.split(",")] if args.cases else range(len(CASES))
  machine = timing.machine(("jax", "opencv-python-headless", "numpy"))
  print(f"{args.backbone}, k = {args.kernel_size}, {args.dtype}, {args.images} images; {machine}", flush=True)
  found = {}
  for case in [list(CASES)[number] for number in numbers]:
    command = [sys.executable, __file__, *argv, f"--case={case}"]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found[case] = json.loads(next(line for line in output.splitlines() if line.startswith("FIGURES")).split(" ", 1)[1])
    print(f"{case}: {found[case]}", flush=True)
  print(_table(found))
  if args.json:
    pathlib.Path(args.json).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(args.json).write_text(
      json.dumps({"settings": vars(args), "cases": found, "machine": machine}, indent=2)
    )
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
