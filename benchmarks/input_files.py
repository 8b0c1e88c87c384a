"""The data sets that benchmarks/input.py reads: generated images, or photos of yours, with their masks."""

import dataclasses
import io
import itertools
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from PIL import Image

from data import pictures
from gcn_flax.input_pipeline.examples import decode_image
from gcn_flax.labels import IGNORE

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
Pair = tuple[np.ndarray, np.ndarray]  # RGB uint8 [H, W, 3], label uint8 [H, W].


@dataclasses.dataclass(frozen=True)
class Case:
  """A data set to read.

  Attributes:
    title: row of the table.
    size: (height, width) of the images in pixels.
    suffix: file type of the images.
    crop: side of the training crops in pixels.
    count: number of training images.
    cells, classes, texture, noise: set so that generated files are about as large as those of the real data set.
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


def write(name: str, photos: str, root: pathlib.Path) -> dict[str, float]:
  """Writes the files of a case below `root`, prepares them in `root`/prepared, and returns sizes and JPEG losses.

  Args:
    name: key of CASES.
    photos: folder to take photos from; '' generates images.
    root: folder to write to.
  """
  case = CASES[name]
  examples = _photos(photos, case) if photos else _generate(case)
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
  image_bytes, label_bytes = (float(np.mean([path.stat().st_size for path in paths])) for paths in train_files(root))
  facts = {"image_bytes": image_bytes, "label_bytes": label_bytes}
  return facts | (_jpeg_loss(examples) if name == "cityscapes_jpeg" else {})


def train_files(root: pathlib.Path) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
  """Returns (images, masks) of the training split, in the same order."""
  return sorted(root.glob("images/train/*")), sorted(root.glob("masks/train/*"))


def find_photos(folder: str) -> list[tuple[pathlib.Path, pathlib.Path]]:
  """Returns the (image, mask) files of images/train/*.jpg that have a mask masks/train/*.png."""
  images = sorted(pathlib.Path(folder).expanduser().glob("images/train/*.jpg"))
  pairs = [(path, path.parents[2] / "masks" / "train" / f"{path.stem}.png") for path in images]
  return [(image, mask) for image, mask in pairs if mask.is_file()]


def _photos(folder: str, case: Case) -> Iterator[Pair]:
  """Yields photos from all over the folder and their labels, resized."""
  pairs, size = find_photos(folder), case.size[::-1]
  for index in itertools.count():
    image, mask = (path.read_bytes() for path in pairs[index * max(1, len(pairs) // (case.count + 1)) % len(pairs)])
    image = cv2.resize(pictures.decode_rgb(image, ""), size, interpolation=cv2.INTER_CUBIC)
    image[:8, :8] = index  # Makes repeated photos differ, even as JPEG.
    yield image, cv2.resize(pictures.decode_mask(mask, ""), size, interpolation=cv2.INTER_NEAREST_EXACT)


def _generate(case: Case) -> Iterator[Pair]:
  """Yields images of smooth regions, one class each, with texture of all wavelengths and noise."""
  rng, (height, width) = np.random.default_rng(0), case.size

  def smooth(cells, deviation):
    grid = rng.normal(0, deviation, (cells, 2 * cells)).astype(np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)

  while True:
    regions = np.clip(smooth(case.cells, 2) + 8, 0, 15).astype(np.uint8)
    image = rng.uniform(20, 220, (16, 3)).astype(np.float32)[regions]
    for octave in range(2, (height - 1).bit_length()):
      image += smooth(2**octave, case.texture)[..., None]
    image = cv2.GaussianBlur(image, (3, 3), 0)
    for channels in (1, 3):
      image += case.noise / channels * rng.standard_normal((height, width, channels), np.float32)
    label = rng.permutation(case.classes)[regions].astype(np.uint8)
    yield np.clip(image, 0, 255).astype(np.uint8), label


def _encode_png(image: np.ndarray) -> bytes:
  """Returns a well compressed PNG, as data sets are published; OpenCV's encoder favours speed."""
  file = io.BytesIO()
  Image.fromarray(image).save(file, "PNG")
  return file.getvalue()


def _jpeg_loss(examples: Sequence[Pair]) -> dict[str, float]:
  """Returns the bytes as PNG, and the difference of the JPEG's pixels over all images and channels."""
  decoded = [decode_image(pictures.encode_jpeg(image), "") for image, _ in examples]
  errors = [np.abs(jpeg.astype(np.int32) - image) for jpeg, (image, _) in zip(decoded, examples, strict=True)]
  return {
    "png_bytes": float(np.mean([len(_encode_png(image)) for image, _ in examples])),
    "psnr_db": float(10 * np.log10(255**2 / np.mean([np.square(error).mean() for error in errors]))),
    "mean_difference": float(np.mean([error.mean() for error in errors])),
    "largest_difference": int(max(error.max() for error in errors)),
  }
