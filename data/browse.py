"""Shows what training will see of a prepared data set: the look that catches wrong labels.

  python -m data.browse --dataset=voc_segmentation --split=train_aug --data_dir=DATA

writes a sheet of images beside their labels, with the classes' names on them, and prints how many
pixels and images each class has, in the whole split. Of whole images the sheet names the class below each.
"""

import argparse
import concurrent.futures
import os
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from gcn_flax import labels
from gcn_flax.input_pipeline import datasets, transforms
from gcn_flax.visualize import overlay, sheets


def main(argv: Sequence[str]) -> int:
  """Browses one split; returns the exit status, 1 with one line on stderr for a mistake of the user."""
  parser = argparse.ArgumentParser(prog="python -m data.browse", description="Shows a prepared data set.")
  parser.add_argument("--dataset", required=True, help=", ".join(labels.DATASETS))
  parser.add_argument("--split", default="train", help="train, validation, or another that the data set has")
  parser.add_argument("--data_dir", default="~/tensorflow_datasets", help="where data.prepare wrote it")
  parser.add_argument("--count", type=int, default=8, help="examples on the sheet, evenly spaced over the split")
  parser.add_argument("--output", default="", help="of the sheet; runs/browse_<dataset>_<split>.png unless told")
  args = parser.parse_args(argv)
  output = pathlib.Path(args.output or f"runs/browse_{args.dataset}_{args.split}.png")
  try:
    if args.count < 1:
      raise ValueError(f"--count={args.count} must be at least 1.")
    browse(args.dataset, args.split, args.data_dir, args.count, output)
  except (ValueError, OSError) as error:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return 1
  return 0


def browse(dataset: str, split: str, data_dir: str, count: int, output: pathlib.Path) -> None:
  """Writes the sheet of `count` examples to `output` and prints the table by class.

  Raises ValueError where the split cannot be opened, OSError where the sheet cannot be written.
  """
  source = datasets.open_source(dataset, split, data_dir)
  output.parent.mkdir(parents=True, exist_ok=True)
  chosen = np.unique(np.linspace(0, len(source) - 1, min(count, len(source))).astype(int)).tolist()
  has_pixels = dataset not in labels.CLASSIFICATION
  overlay.save(output, sheet(source, chosen) if has_pixels else class_sheet(source, chosen))
  print(f"{dataset} {split}: {len(source):,} examples; {len(chosen)} of them in {output}")
  for lack in datasets.lacks(dataset, data_dir):
    print(f"  PARTIAL: {lack}")
  if not source.has_labels:
    print("  no true labels: nothing to count")
  elif has_pixels:
    print(table(source.label_set, *class_counts(source)))
  else:
    print(class_table(source.label_set.classes, image_counts(source)))


def sheet(source: datasets.Source, chosen: Sequence[int]) -> np.ndarray:
  """The examples with the numbers `chosen`, RGB uint8 `[H, W, 3]`; without labels, all is void."""
  examples = [source[index] for index in chosen]
  images = [example["image"] for example in examples]
  void = (np.full(image.shape[:2], labels.IGNORE, np.uint8) for image in images)
  shown = [example.get("label", blank) for example, blank in zip(examples, void, strict=True)]
  names = [f"{example['image_id']}  {' x '.join(map(str, example['image'].shape[:2]))}" for example in examples]
  return sheets.browse_sheet(images, shown, names, source.label_set)


def class_sheet(source: datasets.Source, chosen: Sequence[int]) -> np.ndarray:
  """The central squares of the examples with the numbers `chosen` and their classes, RGB uint8 `[H, W, 3]`."""
  examples = [source[index] for index in chosen]
  sides = (min(example["image"].shape[:2]) for example in examples)
  squares = [transforms.center_crop(example, (side, side), side) for example, side in zip(examples, sides, strict=True)]
  captions = [source.label_set.classes[int(example["label"])] if source.has_labels else "" for example in examples]
  return sheets.class_sheet([example["image"] for example in squares], captions, title="class")


def image_counts(source: datasets.Source) -> np.ndarray:
  """Number of images of each class in the whole split, int64 `[C]`."""
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    labels_of_all = tqdm(pool.map(source.label, range(len(source))), desc="counting", total=len(source), mininterval=1)
    return np.bincount([int(label) for label in labels_of_all], minlength=source.label_set.num_classes)


def class_table(classes: Sequence[str], images: np.ndarray, most: int = 40) -> str:
  """Images of each class, the fewest first; of more than `most` classes only the first ones."""
  width = max(map(len, classes))
  order = np.argsort(images, kind="stable")
  lines = [
    f"  {classes[index]:<{width}} {images[index]:>8,}{'' if images[index] else '   NEVER OCCURS'}" for index in order
  ]
  rest = [f"  ... and {len(lines) - most} classes of up to {images.max():,} images"] if len(lines) > most else []
  return "\n".join([f"  {'class':<{width}} {'images':>8}", *lines[:most], *rest])


def class_counts(source: datasets.Source) -> tuple[np.ndarray, np.ndarray]:
  """Number of pixels, and of images, of each train id 0 to 255 in the whole split, int64 `[256]` each."""
  pixels, images = np.zeros(256, np.int64), np.zeros(256, np.int64)
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    counted = pool.map(lambda index: np.bincount(source.label(index).ravel(), minlength=256), range(len(source)))
    for counts in tqdm(counted, desc="counting", total=len(source), mininterval=1):
      pixels += counts
      images += counts > 0
  return pixels, images


def table(label_set: labels.LabelSet, pixels: np.ndarray, images: np.ndarray) -> str:
  """Pixels in percent and images by class, and void; a class that never occurs is pointed out."""
  names = [*label_set.classes, "void"]
  ids = [*range(label_set.num_classes), labels.IGNORE]
  width = max(map(len, names))
  lines = [f"  {'class':<{width}} {'pixels %':>9} {'images':>8}"]
  for name, index in zip(names, ids, strict=True):
    note = "" if images[index] or index == labels.IGNORE else "   NEVER OCCURS"
    lines.append(f"  {name:<{width}} {100 * pixels[index] / max(1, pixels.sum()):>9.3f} {images[index]:>8,}{note}")
  return "\n".join(lines)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
