"""Measures training examples per second and core: our loader against PyTorch's, with the same files and crops.

    python benchmarks/input.py --json=FILE
    python benchmarks/input.py --photos=FOLDER  # Uses FOLDER/images/train/*.jpg, FOLDER/masks/train/*.png.
    python benchmarks/input.py --cases= --soak_minutes=60 --soak_rate=2

An example is an image and its mask: decoded, scaled by 0.5 to 2, flipped, cropped or padded, and batched. Each rival
has all cores to itself, one thread or process per core, and its files are in memory. Rates are examples per second of
wall-clock time, divided by the number of cores:

* ours: `RunData.train_batches` on array_record files, with threads; uint8, because the device normalizes.
* torch: `torch.utils.data.DataLoader` with Pillow, with processes; transforms of torchvision's references/segmentation
  for training; normalized float32 images, int64 labels.
* torch_uint8: the same without conversion and normalization, uint8.
* decode_image, decode: OpenCV decodes images, or images and masks, and nothing else: an upper limit for ours.

Prints Markdown tables; `--json` also writes `{"cases": {CASE: {...}}, "soak": {...}, "machine": {...}}` with medians
(`ours_per_s`) and extremes (`ours_min_per_s`, `ours_max_per_s`).
"""

import argparse
import concurrent.futures
import functools
import itertools
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402

from benchmarks import input_files, script, timing, torch_loader  # noqa: E402
from benchmarks.input_files import CASES, Case  # noqa: E402
from gcn_flax import config as config_lib  # noqa: E402
from gcn_flax.input_pipeline.examples import Source, decode_image, decode_label  # noqa: E402
from gcn_flax.labels import IGNORE  # noqa: E402
from gcn_flax.run_data import RunData  # noqa: E402

PACKAGES = ("opencv-python-headless", "pillow", "torch", "torchvision", "numpy", "grain", "jax")
RIVALS = ("ours", "torch", "torch_uint8", "decode_image", "decode")
TITLES = ("ours", "torch", "torch, uint8", "OpenCV decodes image", "image and label")
SCALES = (0.5, 2.0)  # Random scale of both sides, relative to the stored image.
VOID_BATCHES = 16
EPOCH = 3000
SOAK_SAMPLES = 1000


def main() -> None:
  """Measures all cases, prints the tables and writes the JSON file."""
  args = _arguments()
  machine = script.machine(PACKAGES)
  print(
    f"{'Photos' if args.photos else 'Generated images'}, scaled by {SCALES[0]} to {SCALES[1]}, batches of "
    f"{args.batch}; {args.rounds} rounds of {args.seconds:g} s.\n{script.headline(machine)}",
    flush=True,
  )
  cases, soak = {}, {}
  with tempfile.TemporaryDirectory() as folder:
    if args.soak_minutes:
      root = pathlib.Path(folder, "soak")
      input_files.write("voc", args.photos, root)
      soak = _soak(args, _ours(args, CASES["voc"], root))
    for name in args.cases:
      root = pathlib.Path(folder, name)
      cases[name] = input_files.write(name, args.photos, root) | _measure(args, CASES[name], root)
      print(_files_line(CASES[name].title, cases[name]), flush=True)
  if cases:
    print(_table(cases))
  script.write_json(args.json, {"settings": vars(args), "cases": cases, "soak": soak, "machine": machine})


def _arguments() -> argparse.Namespace:
  parser = script.parser("Measures our loader against PyTorch's, on the CPU.")
  parser.add_argument("--cases", default=",".join(CASES), help="cases to measure, '' for none (default: %(default)s)")
  parser.add_argument(
    "--photos", default="", help="folder with images/train and masks/train (default: generated images)"
  )
  parser.add_argument("--batch", type=int, default=8, help="examples in a batch")
  parser.add_argument("--rounds", type=int, default=5, help="number of rounds; each measures every rival once")
  parser.add_argument("--seconds", type=float, default=5.0, help="shortest measurement")
  parser.add_argument(
    "--soak_minutes", type=float, default=0.0, help="first watch memory on voc this long (default: 0)"
  )
  parser.add_argument("--soak_rate", type=float, default=0.0, help="limit of batches per second; 0 for no limit")
  args = parser.parse_args()
  args.cases = [name for name in args.cases.split(",") if name]
  if not set(args.cases) <= set(CASES):
    parser.error(f"--cases={','.join(args.cases)}: unknown case. Choose from {','.join(CASES)}")
  for name, valid in (
    ("batch", args.batch >= 1),
    ("rounds", args.rounds >= 1),
    ("seconds", args.seconds > 0),
    ("soak_minutes", args.soak_minutes >= 0),
    ("soak_rate", args.soak_rate >= 0),
  ):
    if not valid:
      parser.error(f"--{name}={getattr(args, name)}: too small. Omit it for the default, {parser.get_default(name)}")
  if args.photos and not input_files.find_photos(args.photos):
    parser.error(f"--photos={args.photos}: no images/train/*.jpg with a masks/train/*.png of the same name")
  return args


class RepeatedData(RunData):
  """Data whose sources are repeated."""

  def __init__(self, config, repeats: int):
    super().__init__(config)
    self._repeats = repeats

  def train_sources(self) -> list[Source]:
    return super().train_sources() * self._repeats


def _ours(args: argparse.Namespace, case: Case, root: pathlib.Path) -> Iterator[dict[str, np.ndarray]]:
  """Yields the training batches of gcn_flax without end."""
  config = config_lib.get_config()
  config.batch_size, config.total_steps = args.batch, 2**31
  config.data.dataset, config.data.data_dir = "folder", str(root / "prepared")
  config.data.train_mix = (("folder", "train", "all once"),)
  config.data.crop_size, config.data.random_scale, config.data.scales = (case.crop, case.crop), True, SCALES
  config.data.num_threads = script.num_cores()
  # As many examples as a real data set has: Grain's shuffle takes 0.02 ms per example of 3000, but 1 ms of 16.
  return RepeatedData(config, EPOCH // case.count).train_batches(first_step=0)


def _measure(args: argparse.Namespace, case: Case, root: pathlib.Path) -> dict[str, Any]:
  """Returns the rates of all rivals, and their shares of void pixels, which are close if the work is the same."""
  ours = _ours(args, case, root)
  torch_batches, torch_uint8 = (
    torch_loader.batches(torch_loader.Examples(root, case.crop, SCALES, normalized), args.batch)
    for normalized in (True, False)
  )
  void = {
    "torch": _void(label.numpy() for _, label in torch_batches),
    "torch_uint8": _void(label.numpy() for _, label in torch_uint8),
    "ours": _void(batch["label"] for batch in ours),  # Last, so that PyTorch's workers have filled their queues.
  }
  encoded = [
    (image.read_bytes(), mask.read_bytes()) for image, mask in zip(*input_files.train_files(root), strict=True)
  ]
  cores = script.num_cores()
  prefetched = torch_loader.PREFETCH * cores
  measures = {
    "ours": functools.partial(_rate, args, ours, cores + 1),
    "torch": functools.partial(_rate, args, torch_batches, prefetched),
    "torch_uint8": functools.partial(_rate, args, torch_uint8, prefetched),
    "decode_image": functools.partial(_decode_rate, args.seconds, [(image,) for image, _ in encoded]),
    "decode": functools.partial(_decode_rate, args.seconds, encoded),
  }
  rates = timing.in_rounds(measures, args.rounds)
  return timing.summarize(rates, "per_s") | {"rounds_per_s": rates, "void_share": void}


def _void(labels: Iterable[np.ndarray]) -> float:
  return float(np.mean([np.mean(label == IGNORE) for label in itertools.islice(labels, VOID_BATCHES)]))


def _rate(args: argparse.Namespace, batches: Iterator[Any], prefetched: int) -> float:
  """Returns examples per second and core, measured after the `prefetched` batches and some more are used up."""
  for _ in range(prefetched + script.num_cores()):
    next(batches)
  count, passed, start = 0, 0.0, time.perf_counter()
  while passed < args.seconds:
    next(batches)
    count, passed = count + 1, time.perf_counter() - start
  time.sleep(1.2 * prefetched * passed / count)  # Until the queues are full again and the cores idle.
  return count * args.batch / passed / script.num_cores()


def _decode_rate(seconds: float, files: Sequence[tuple[bytes, ...]]) -> float:
  """Returns the images, with masks if `files` has them, that OpenCV decodes per second and core, using all cores."""

  def decode(_):
    count, passed, start = 0, 0.0, time.perf_counter()
    while passed < seconds:
      for data, decoder in zip(files[count % len(files)], (decode_image, decode_label), strict=False):
        decoder(data, "")
      count, passed = count + 1, time.perf_counter() - start
    return count / passed

  with concurrent.futures.ThreadPoolExecutor(script.num_cores()) as pool:
    return float(np.mean(list(pool.map(decode, range(script.num_cores())))))


def _soak(args: argparse.Namespace, batches: Iterator[Any]) -> dict[str, Any]:
  """Returns this process's resident memory while it makes batches, with the slope of a line over the second half."""
  next(batches)
  total, count, samples, start = 60 * args.soak_minutes, 0, [], time.perf_counter()
  print("| minutes | batches | resident MB |\n| ---: | ---: | ---: |")
  for number in range(SOAK_SAMPLES + 1):
    while time.perf_counter() - start < number * total / SOAK_SAMPLES:
      next(batches)
      count += 1
      time.sleep(max(0.0, start + count / args.soak_rate - time.perf_counter()) if args.soak_rate else 0.0)
    samples.append((time.perf_counter() - start, timing.resident_mb()))
    if number % (SOAK_SAMPLES // 20) == 0:
      print(f"| {samples[-1][0] / 60:.1f} | {count} | {samples[-1][1]:.1f} |", flush=True)
  peak = max(megabytes for _, megabytes in samples)
  growth = float(3600 * np.polyfit(*zip(*samples[SOAK_SAMPLES // 2 :], strict=True), 1)[0])
  print(f"\nPeak {peak:.1f} MB; growth over the second half {growth:+.2f} MB per hour.\n", flush=True)
  return {
    "batches": count,
    "peak_mb": peak,
    "growth_mb_per_hour": growth,
    "samples_s_mb": samples[:: SOAK_SAMPLES // 20],
  }


def _files_line(title: str, facts: dict) -> str:
  line = f"{title}: {facts['image_bytes'] / 1e3:.0f} kB per image, {facts['label_bytes'] / 1e3:.0f} kB per mask"
  if "png_bytes" in facts:
    line += (
      f"; as PNG {facts['png_bytes'] / 1e3:.0f} kB; JPEG differs by {facts['mean_difference']:.2f} of 255 on average, "
      f"by at most {facts['largest_difference']}, PSNR {facts['psnr_db']:.1f} dB"
    )
  void = ", ".join(f"{name} {share:.1%}" for name, share in facts["void_share"].items())
  return f"{line}. Void pixels in {VOID_BATCHES} batches: {void}.\n"


def _table(cases: dict[str, dict]) -> str:
  header = ("examples/s per core: median (min - max)", *TITLES, *(f"ours / {name}" for name in RIVALS[1:]))
  rows = []
  for name, rates in cases.items():
    numbers = {key: f"{value:.3g}" for key, value in rates.items() if key.endswith("per_s") and key != "rounds_per_s"}
    cells = [
      f"{numbers[f'{rival}_per_s']} ({numbers[f'{rival}_min_per_s']} - {numbers[f'{rival}_max_per_s']})"
      for rival in RIVALS
    ]
    ratios = [f"{rates['ours_per_s'] / rates[f'{rival}_per_s']:.2f}" for rival in RIVALS[1:]]
    rows.append((f"{CASES[name].title}, {CASES[name].crop} x {CASES[name].crop}", *cells, *ratios))
  return timing.table(header, rows)


if __name__ == "__main__":
  main()
