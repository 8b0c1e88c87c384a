"""Measures images per second and peak memory of evaluation at 1024 x 2048: whole images, sliding window and TTA.

  python benchmarks/evaluation.py --json=runs/bench_evaluation.json

Generated images and labels go through `gcn_flax.evaluate.evaluate`, which decodes, pads, predicts and counts. Each case
runs in a separate process, so that its peak memory is its own: of the whole process, and of the device on a GPU. The
rate is that of one pass over --images after one image per device as warm-up, devices and host together. The time of its
parts is measured too: the compiled step alone, and the work of the host on one image.
"""

import argparse
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import cv2  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks import script, timing  # noqa: E402
from configs import cityscapes  # noqa: E402
from gcn_flax import build, distributed, evaluate  # noqa: E402
from gcn_flax.input_pipeline.examples import decode_image  # noqa: E402
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


class Generated:
  """A split of PNG images of smooth regions, with their labels and instance ids."""

  label_set = CITYSCAPES
  has_labels = True
  split = "validation"

  def __init__(self, count: int):
    rng = np.random.default_rng(0)
    self._examples = [self._generate(rng) for _ in range(min(count, 3))]
    self._count = count

  def _generate(self, rng: np.random.Generator) -> tuple[bytes, np.ndarray, np.ndarray]:
    regions = cv2.resize(rng.normal(size=(12, 24, 20)), SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    label = np.argmax(regions, -1).astype(np.uint8)
    label[label == 19] = 255
    raw = np.array([*np.flatnonzero(CITYSCAPES.raw_to_train != 255), *[0] * 237])[label].astype(np.uint16)
    instances = np.where(raw >= 24, raw * 1000 + np.arange(SIZE[1], dtype=np.uint16)[None] // 300, raw)
    image = (label[..., None] * np.array([12, 7, 9]) + rng.normal(0, 2, (*SIZE, 3))).clip(0, 255).astype(np.uint8)
    return cv2.imencode(".png", image)[1].tobytes(), label, instances.astype(np.uint16)

  def __len__(self) -> int:
    return self._count

  @property
  def sizes(self) -> np.ndarray:
    """Height and width of each image, int32 `[N, 2]`."""
    return np.full((self._count, 2), SIZE, np.int32)

  def __getitem__(self, index: int) -> dict[str, Any]:
    image, label, _ = self._examples[range(self._count)[index] % len(self._examples)]
    return {"image": decode_image(image, "generated"), "label": label, "image_id": self.image_id(index)}

  def image_id(self, index: int) -> str:
    """Returns the name of an image."""
    return f"generated{index}"

  def instances(self, index: int) -> np.ndarray:
    """Returns the instance ids of an image, uint16 `[H, W]`."""
    return self._examples[index % len(self._examples)][2]


def measure(case: str, args: argparse.Namespace) -> dict[str, float]:
  """Returns the figures of one case; call it in a separate process."""
  config = cityscapes.get_config()
  config.model.backbone, config.model.kernel_size = args.backbone, args.kernel_size
  config.model.dtype = args.dtype
  config.data.num_threads = script.num_cores()
  config.eval.batch_size, config.eval.num_pictures = jax.device_count(), 0
  config.eval.update(CASES[case])
  setup = build.build(config, num_classes=CITYSCAPES.num_classes)
  weights = setup.init(0).weights()
  jax.block_until_ready(weights)
  before = timing.resident_mb()

  def evaluate_images(count: int) -> float:
    source = Generated(count)
    start = time.perf_counter()
    result = evaluate.evaluate(config, setup, weights, source)
    assert result.num_images == count
    return time.perf_counter() - start

  evaluate_images(jax.device_count())
  seconds = evaluate_images(args.images)
  source = Generated(1)
  example = source[0]
  size = np.array([SIZE] * jax.device_count(), np.int32)
  batch = {"image": np.stack([example["image"]] * jax.device_count()), "size": size}
  batch["label"] = np.stack([example["label"]] * jax.device_count())
  inputs = sharding.shard_eval_batch(batch, setup.mesh, with_label=True)
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


def main(argv: Sequence[str]) -> None:
  """Measures every case in a separate process, prints the table and writes the JSON file."""
  distributed.skip_libtpu()
  parser = script.parser("Measures evaluation at 1024 x 2048.")
  parser.add_argument("--backbone", default="resnet50", help="encoder")
  parser.add_argument("--kernel_size", type=int, default=25, help="k of the heads, odd")
  parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of activations")
  parser.add_argument("--images", type=int, default=4, help="number of images to time, a multiple of the devices")
  parser.add_argument("--cases", default="", help="numbers of the cases to measure, for instance 0,1 (default: all)")
  parser.add_argument("--case", default="", help=argparse.SUPPRESS)
  args = parser.parse_args(argv)
  if args.case:
    print("FIGURES " + json.dumps(measure(args.case, args)))
    return
  numbers = [int(number) for number in args.cases.split(",")] if args.cases else range(len(CASES))
  machine = script.machine(("jax", "opencv-python-headless", "opencv-python", "numpy"))
  print(f"{args.backbone}, k = {args.kernel_size}, {args.dtype}, {args.images} images", flush=True)
  print(script.headline(machine), flush=True)
  found = {}
  for case in [list(CASES)[number] for number in numbers]:
    command = [sys.executable, __file__, *argv, f"--case={case}"]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found[case] = json.loads(next(line for line in output.splitlines() if line.startswith("FIGURES")).split(" ", 1)[1])
    print(f"{case}: {found[case]}", flush=True)
    script.write_json(args.json, {"settings": vars(args), "cases": found, "machine": machine})
  print(_table(found))


if __name__ == "__main__":
  main(sys.argv[1:])
