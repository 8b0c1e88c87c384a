"""Training examples a second and core: our loader beside PyTorch's, with the same files, crops and scales.

    python benchmarks/input.py --json=FILE
    python benchmarks/input.py --photos=FOLDER  # Takes FOLDER/images/train/*.jpg, FOLDER/masks/train/*.png.
    python benchmarks/input.py --cases= --soak_minutes=60 --soak_rate=2

An example is a picture and its mask, decoded, scaled by 0.5 to 2, flipped, cropped or padded, put into a batch.
Every rival has all cores to itself, a thread or process for each, and its files in memory; its rate is
wall-clock, divided by the number of cores:

* ours: `gcn_flax.build.train_batches` from array_record, threads; uint8 out, for the device normalises.
* torch: `torch.utils.data.DataLoader` and Pillow, processes; transforms as torchvision's references/segmentation
  has them for training; normalised float32 out, labels int64.
* torch_uint8: the same, but uint8 out, without conversion and normalisation.
* decode_image, decode: OpenCV decodes pictures, or pictures and masks, and does nothing else: what ours cannot pass.

Prints Markdown tables; `--json` also writes `{"cases": {CASE: {...}}, "soak": {...}, "machine": {...}}` with
medians (`ours_per_s`) and extremes (`ours_min_per_s`, `ours_max_per_s`).
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import io
import itertools
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))  # For a run as a script.

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

try:
  import torchvision  # noqa: F401
except RuntimeError:  # PyPI's wheel, for CUDA, beside PyTorch for the CPU: it misses operators that no transform needs.
  for operator in ("nms", "qnms"):
    torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from torchvision.transforms import InterpolationMode, RandomCrop  # noqa: E402
from torchvision.transforms import functional as F  # noqa: E402

from benchmarks import timing  # noqa: E402
from data import pictures  # noqa: E402
from gcn_flax import build  # noqa: E402
from gcn_flax import config as settings  # noqa: E402
from gcn_flax.input_pipeline import datasets  # noqa: E402
from gcn_flax.labels import IGNORE  # noqa: E402

PACKAGES = ("opencv-python-headless", "pillow", "torch", "torchvision", "numpy", "grain", "jax")
RIVALS = ("ours", "torch", "torch_uint8", "decode_image", "decode")
TITLES = ("ours", "torch", "torch, uint8", "OpenCV decodes image", "image and label")
SCALES = (0.5, 2.0)  # Of the stored picture, on both sides.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's.
TORCH_AHEAD = 2  # Batches a worker makes ahead; PyTorch's default.
VOID_BATCHES = 16
EPOCH = 3000
SOAK_SAMPLES = 1000

Pair = tuple[np.ndarray, np.ndarray]  # RGB uint8 [H, W, 3], label uint8 [H, W].


@dataclasses.dataclass(frozen=True)
class Case:
  """What is read: its title, (height, width) and file type; side of the crop; number of pictures.

  `cells`, `classes`, `texture` and `noise` make drawn pictures and masks whose files are about as large as real ones.
  """

  title: str
  size: tuple[int, int]
  suffix: str
  crop: int
  count: int
  cells: int
  classes: int
  texture: float
  noise: float


CITYSCAPES = Case("Cityscapes, PNG", (1024, 2048), ".png", 800, 16, 4, 34, 3.0, 0.6)
CASES = {
  "voc": Case("VOC, JPEG", (375, 500), ".jpg", 480, 64, 3, 21, 8.0, 4.5),
  "cityscapes_png": CITYSCAPES,
  "cityscapes_jpeg": dataclasses.replace(CITYSCAPES, title="Cityscapes, PNG made JPEG", suffix=".jpg"),
}


def main() -> None:
  """Measures, prints, writes."""
  args = _arguments()
  machine = timing.machine(PACKAGES)
  print(_introduction(args, machine), flush=True)
  cases, soak = {}, {}
  with tempfile.TemporaryDirectory() as folder:
    if args.soak_minutes:
      root, _ = _write("voc", args.photos, pathlib.Path(folder, "soak"))
      soak = _soak(args, _ours(args, CASES["voc"], root))
    for name in args.cases:
      root, facts = _write(name, args.photos, pathlib.Path(folder, name))
      cases[name] = facts | _measure(args, CASES[name], root)
      print(_files_line(CASES[name].title, cases[name]), flush=True)
  if cases:
    print(_table(cases))
  if args.json:
    result = {"settings": vars(args), "cases": cases, "soak": soak, "machine": machine}
    pathlib.Path(args.json).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(args.json).write_text(json.dumps(result, indent=2) + "\n")


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description="Times our loader against PyTorch's, on the CPU.")
  parser.add_argument("--cases", default=",".join(CASES), help="some of them, or '' for none")
  parser.add_argument("--photos", default="", help="folder with images/train and masks/train; '' draws pictures")
  parser.add_argument("--batch", type=int, default=8, help="examples in a batch")
  parser.add_argument("--rounds", type=int, default=5, help="each measures every rival once")
  parser.add_argument("--seconds", type=float, default=5.0, help="of one measurement, at least")
  parser.add_argument("--soak_minutes", type=float, default=0.0, help="first watch memory so long, on voc; 0 = not")
  parser.add_argument("--soak_rate", type=float, default=0.0, help="batches a second at most; 0 = no limit")
  parser.add_argument("--json", default="", help="file to write the numbers to")
  args = parser.parse_args()
  args.cases = [name for name in args.cases.split(",") if name]
  if not set(args.cases) <= set(CASES):
    parser.error(f"--cases={','.join(args.cases)} must be some of {', '.join(CASES)}")
  if min(args.batch, args.rounds) < 1 or args.seconds <= 0 or min(args.soak_minutes, args.soak_rate) < 0:
    parser.error("--batch and --rounds must be at least 1, --seconds above 0, --soak_minutes and --soak_rate not below")
  if args.photos and not _photos(args.photos):
    parser.error(f"--photos={args.photos!r} holds no images/train/*.jpg with masks/train/*.png of the same names")
  return args


# Pictures.


def _photos(folder: str) -> list[tuple[pathlib.Path, pathlib.Path]]:
  images = sorted(pathlib.Path(folder).expanduser().glob("images/train/*.jpg"))
  pairs = [(path, path.parents[2] / "masks" / "train" / f"{path.stem}.png") for path in images]
  return [(image, mask) for image, mask in pairs if mask.is_file()]


def _photographed(folder: str, case: Case) -> Iterator[Pair]:
  """Photos from all over the folder, and their labels, resized."""
  pairs, size = _photos(folder), case.size[::-1]
  for index in itertools.count():
    image, mask = (path.read_bytes() for path in pairs[index * max(1, len(pairs) // (case.count + 1)) % len(pairs)])
    image = cv2.resize(pictures.decode_rgb(image, ""), size, interpolation=cv2.INTER_CUBIC)
    image[:8, :8] = index  # So that none is the same where a few photos come again, not even as JPEG.
    yield image, cv2.resize(pictures.decode_mask(mask, ""), size, interpolation=cv2.INTER_NEAREST_EXACT)


def _drawn(case: Case) -> Iterator[Pair]:
  """Plain areas with smooth outlines, each of one class, under texture of all wavelengths and noise."""
  rng, (height, width) = np.random.default_rng(0), case.size

  def smooth(cells, deviation):
    grid = rng.normal(0, deviation, (cells, 2 * cells)).astype(np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)

  while True:
    areas = np.clip(smooth(case.cells, 2) + 8, 0, 15).astype(np.uint8)
    image = rng.uniform(20, 220, (16, 3)).astype(np.float32)[areas]
    for octave in range(2, (height - 1).bit_length()):
      image += smooth(2**octave, case.texture)[..., None]
    image = cv2.GaussianBlur(image, (3, 3), 0)
    for channels in (1, 3):
      image += case.noise / channels * rng.standard_normal((height, width, channels), np.float32)
    yield (
      np.clip(image, 0, 255).astype(np.uint8),
      rng.permutation(case.classes)[areas].astype(np.uint8),
    )


def _encode_png(image: np.ndarray) -> bytes:
  """As data sets are published: compressed well, where OpenCV is quick."""
  file = io.BytesIO()
  Image.fromarray(image).save(file, "PNG")
  return file.getvalue()


def _write(name: str, photos: str, root: pathlib.Path) -> tuple[pathlib.Path, dict[str, float]]:
  """Writes a case's files below `root` and the data set `folder` of them into `root`/prepared: (root, facts)."""
  case = CASES[name]
  examples = _photographed(photos, case) if photos else _drawn(case)
  examples = list(itertools.islice(examples, case.count + 1))
  for index, (image, label) in enumerate(examples):
    split = "train" if index < case.count else "val"  # A data set must have both.
    encoded = pictures.encode_jpeg(image) if case.suffix == ".jpg" else _encode_png(image)
    for kind, suffix, data in (("images", case.suffix, encoded), ("masks", ".png", pictures.encode_mask(label))):
      path = root / kind / split / f"{index}{suffix}"
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(data)
  (root / "classes.txt").write_text("\n".join(f"class {index}" for index in range(IGNORE)))
  command = [sys.executable, "-m", "data.prepare", "--dataset=folder", f"--manual_dir={root}"]
  done = subprocess.run([*command, f"--data_dir={root}/prepared"], cwd=REPOSITORY, capture_output=True, text=True)
  if done.returncode:
    sys.exit(f"error: data.prepare failed:\n{done.stderr}")
  image_bytes, label_bytes = (float(np.mean([path.stat().st_size for path in paths])) for paths in _files(root))
  facts = {"image_bytes": image_bytes, "label_bytes": label_bytes}
  return root, facts | (_jpeg_loss(examples) if name == "cityscapes_jpeg" else {})


def _files(root: pathlib.Path) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
  """Pictures and masks of train."""
  return sorted(root.glob("images/train/*")), sorted(root.glob("masks/train/*"))


def _jpeg_loss(examples: Sequence[Pair]) -> dict[str, float]:
  """Bytes as PNG, and how the pixels of the JPEG differ, over all pictures and channels."""
  decoded = [datasets.decode_image(pictures.encode_jpeg(image), "") for image, _ in examples]
  errors = [np.abs(jpeg.astype(np.int32) - image) for jpeg, (image, _) in zip(decoded, examples, strict=True)]
  return {
    "png_bytes": float(np.mean([len(_encode_png(image)) for image, _ in examples])),
    "psnr_db": float(10 * np.log10(255**2 / np.mean([np.square(error).mean() for error in errors]))),
    "mean_difference": float(np.mean([error.mean() for error in errors])),
    "largest_difference": int(max(error.max() for error in errors)),
  }


# Rivals.


def _ours(args: argparse.Namespace, case: Case, root: pathlib.Path) -> Iterator[dict[str, np.ndarray]]:
  """The product's batches, endless."""
  config = settings.get_config()
  config.batch_size, config.total_steps = args.batch, 2**31
  config.data.dataset, config.data.data_dir = "folder", str(root / "prepared")
  config.data.train_mix = (("folder", "train", "all once"),)
  config.data.crop_size, config.data.random_scale, config.data.scales = (case.crop, case.crop), True, SCALES
  config.data.num_threads = timing.num_cores()
  # As many examples as a real data set has: Grain's shuffle takes 0.02 ms for one of 3000, but 1 ms for one of 16.
  return build.train_batches(config, build.open_mix(config) * (EPOCH // case.count), first_step=0)


class TorchExamples(torch.utils.data.Dataset):
  """Files below `root`, decoded and augmented as torchvision's references do with Pillow, `crop` x `crop` pixels.

  `normalized` gives float32 and int64 as they do, otherwise all is uint8.
  """

  def __init__(self, root: pathlib.Path, crop: int, normalized: bool):
    self.images, self.masks = _files(root)
    self.crop, self.normalized = crop, normalized

  def __len__(self) -> int:
    return len(self.images)

  def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    image, label = Image.open(self.images[index]).convert("RGB"), Image.open(self.masks[index])
    short = random.randint(*(int(scale * min(image.size)) for scale in SCALES))
    image, label = F.resize(image, [short]), F.resize(label, [short], InterpolationMode.NEAREST)
    if random.random() < 0.5:
      image, label = F.hflip(image), F.hflip(label)
    image, label = self._pad(image, 0), self._pad(label, IGNORE)
    window = RandomCrop.get_params(image, (self.crop, self.crop))
    image, label = F.pil_to_tensor(F.crop(image, *window)), F.pil_to_tensor(F.crop(label, *window))[0]
    if not self.normalized:
      return image, label
    return F.normalize(F.convert_image_dtype(image, torch.float32), MEAN, STD), label.to(torch.int64)

  def _pad(self, picture: Image.Image, fill: int) -> Image.Image:
    right, below = (max(0, self.crop - side) for side in picture.size)
    return F.pad(picture, [0, 0, right, below], fill=fill) if right or below else picture


def _torch(args: argparse.Namespace, case: Case, root: pathlib.Path, normalized: bool) -> Iterator[list[torch.Tensor]]:
  """The batches of a DataLoader, endless; its workers set PyTorch to one thread themselves."""
  examples = TorchExamples(root, case.crop, normalized)
  order = torch.utils.data.RandomSampler(examples, replacement=True, num_samples=2**40)
  loader = torch.utils.data.DataLoader(
    examples,
    args.batch,
    sampler=order,
    num_workers=timing.num_cores(),
    prefetch_factor=TORCH_AHEAD,
    persistent_workers=True,
    multiprocessing_context="forkserver",  # A process with threads, as this one, must not be forked.
  )
  return iter(loader)


# Measuring.


def _measure(args: argparse.Namespace, case: Case, root: pathlib.Path) -> dict[str, Any]:
  """Rates of all rivals; also the share of void pixels with each, which is about the same where the work is."""
  ours = _ours(args, case, root)
  torch_batches, torch_uint8 = (_torch(args, case, root, normalized) for normalized in (True, False))
  void = {
    "torch": _void(label.numpy() for _, label in torch_batches),
    "torch_uint8": _void(label.numpy() for _, label in torch_uint8),
    "ours": _void(batch["label"] for batch in ours),  # Last: meanwhile the workers have made enough and are asleep.
  }
  encoded = [(image.read_bytes(), mask.read_bytes()) for image, mask in zip(*_files(root), strict=True)]
  cores = timing.num_cores()
  measures = {
    "ours": functools.partial(_rate, args, ours, cores + 1),
    "torch": functools.partial(_rate, args, torch_batches, TORCH_AHEAD * cores),
    "torch_uint8": functools.partial(_rate, args, torch_uint8, TORCH_AHEAD * cores),
    "decode_image": functools.partial(_decode_rate, args.seconds, [(image,) for image, _ in encoded]),
    "decode": functools.partial(_decode_rate, args.seconds, encoded),
  }
  rates = timing.in_rounds(measures, args.rounds)
  return timing.summarise(rates, "per_s") | {"rounds_per_s": rates, "void_share": void}


def _void(labels: Iterable[np.ndarray]) -> float:
  return float(np.mean([np.mean(label == IGNORE) for label in itertools.islice(labels, VOID_BATCHES)]))


def _rate(args: argparse.Namespace, batches: Iterator[Any], ahead: int) -> float:
  """Examples a second and core, from when the `ahead` batches that lay ready, and some more, are gone."""
  for _ in range(ahead + timing.num_cores()):
    next(batches)
  count, passed, start = 0, 0.0, time.perf_counter()
  while passed < args.seconds:
    next(batches)
    count, passed = count + 1, time.perf_counter() - start
  time.sleep(1.2 * ahead * passed / count)  # Until as many lie ready again and the cores are the next rival's.
  return count * args.batch / passed / timing.num_cores()


def _decode_rate(seconds: float, files: Sequence[tuple[bytes, ...]]) -> float:
  """Pictures, with their masks where `files` has them, that OpenCV decodes a second and core with all cores at work."""

  def decode(_):
    count, passed, start = 0, 0.0, time.perf_counter()
    while passed < seconds:
      for data, decoder in zip(files[count % len(files)], (datasets.decode_image, datasets.decode_label), strict=False):
        decoder(data, "")
      count, passed = count + 1, time.perf_counter() - start
    return count / passed

  with concurrent.futures.ThreadPoolExecutor(timing.num_cores()) as pool:
    return float(np.mean(list(pool.map(decode, range(timing.num_cores())))))


def _soak(args: argparse.Namespace, batches: Iterator[Any]) -> dict[str, Any]:
  """Resident memory of this process while batches are made and dropped; its growth by a line over the second half."""
  next(batches)
  total, count, samples, start = 60 * args.soak_minutes, 0, [], time.perf_counter()
  print("| minutes | batches | resident MB |\n| ---: | ---: | ---: |")
  for number in range(SOAK_SAMPLES + 1):
    while time.perf_counter() - start < number * total / SOAK_SAMPLES:
      next(batches)
      count += 1
      time.sleep(max(0.0, start + count / args.soak_rate - time.perf_counter()) if args.soak_rate else 0.0)
    samples.append((time.perf_counter() - start, _resident_mb()))
    if number % (SOAK_SAMPLES // 20) == 0:
      print(f"| {samples[-1][0] / 60:.1f} | {count} | {samples[-1][1]:.1f} |", flush=True)
  peak = max(megabytes for _, megabytes in samples)
  growth = float(3600 * np.polyfit(*zip(*samples[SOAK_SAMPLES // 2 :], strict=True), 1)[0])
  print(f"\nPeak {peak:.1f} MB; growth over the second half {growth:+.2f} MB an hour.\n", flush=True)
  return {
    "batches": count,
    "peak_mb": peak,
    "growth_mb_per_hour": growth,
    "samples_s_mb": samples[:: SOAK_SAMPLES // 20],
  }


def _resident_mb() -> float:
  """Of this process; Linux tells it in pages."""
  return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


# Output.


def _introduction(args: argparse.Namespace, machine: dict) -> str:
  versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
  return (
    f"{'Photos' if args.photos else 'Drawn pictures'}, scaled by {SCALES[0]} to {SCALES[1]}, batches of {args.batch}; "
    f"{args.rounds} rounds of {args.seconds:g} s.\n{machine['cpu']}, {machine['cores']} cores, as many threads or "
    f"processes; load average {machine['load_average']:.1f} at the start.\n{machine['date']}; {versions}.\n"
    f"`{machine['command']}`\n"
  )


def _files_line(title: str, facts: dict) -> str:
  line = f"{title}: {facts['image_bytes'] / 1e3:.0f} kB a picture, {facts['label_bytes'] / 1e3:.0f} kB a mask"
  if "png_bytes" in facts:
    line += (
      f"; as PNG {facts['png_bytes'] / 1e3:.0f} kB; JPEG differs by {facts['mean_difference']:.2f} of 255 in the mean, "
      f"{facts['largest_difference']} at most, PSNR {facts['psnr_db']:.1f} dB"
    )
  void = ", ".join(f"{name} {share:.1%}" for name, share in facts["void_share"].items())
  return f"{line}. Void pixels in {VOID_BATCHES} batches: {void}.\n"


def _table(cases: dict[str, dict]) -> str:
  header = ("examples a second and core: median (min - max)", *TITLES, *(f"ours / {name}" for name in RIVALS[1:]))
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
