"""Shows a prepared data set as training will see it, to catch wrong labels.

  python -m data.browse --dataset=voc_segmentation --split=train_aug --data_dir=DATA

Writes a contact sheet of images next to their labels, annotated with class names, and prints the number of pixels and
images of each class in the whole split. For data sets with one class per image, the class is printed below each image.
"""

import os
import pathlib
import shlex
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from tqdm import tqdm

from data.arguments import ArgumentParser
from data.class_counts import ClassCounts, by_class, class_table
from gcn_flax import labels
from gcn_flax.input_pipeline import datasets, transforms
from gcn_flax.input_pipeline.examples import Source
from gcn_flax.interrupts import interruptible
from gcn_flax.parallel import parallel_map
from gcn_flax.printable import one_line, printable
from gcn_flax.visualize import overlay, sheets

_SUFFIXES = (".png", ".jpg")


@interruptible
def main(argv: Sequence[str]) -> int:
  """Browses one split; returns the exit status, 1 with one line on stderr for an error, 130 after Ctrl-C."""
  parser = ArgumentParser("data.browse", __doc__)
  parser.add_argument("--dataset", required=True, metavar="NAME", help=f"one of {', '.join(labels.DATASETS)}")
  parser.add_argument(
    "--split", default="train", help="train, validation, or another split of the data set (default: %(default)s)"
  )
  parser.add_argument(
    "--data_dir",
    default="~/tensorflow_datasets",
    metavar="DIR",
    help="the folder given to data.prepare (default: %(default)s)",
  )
  parser.add_argument(
    "--count", type=int, default=8, help="examples on the sheet, evenly spaced over the split (default: %(default)s)"
  )
  parser.add_argument(
    "--output", default="", metavar="FILE", help="file for the sheet (default: runs/browse_DATASET_SPLIT.png)"
  )
  args = parser.parse_args(argv)
  output = pathlib.Path(args.output or f"runs/browse_{args.dataset}_{args.split}.png")
  try:
    if args.count < 1:
      raise ValueError(f"--count={args.count}: must be at least 1. The default is {parser.get_default('count')}.")
    if output.suffix not in _SUFFIXES:
      fix = (
        f"Use for instance --output={shlex.quote(str(output.with_suffix('.png')))}" if output.name else "Name a file"
      )
      raise ValueError(f"--output={args.output}: must end in {' or '.join(_SUFFIXES)}. {fix}.")
    browse(args.dataset, args.split, args.data_dir, args.count, output)
  except (ValueError, OSError) as error:
    print(f"error: {one_line(error)}", file=sys.stderr)
    return 1
  return 0


def browse(dataset: str, split: str, data_dir: str, count: int, output: pathlib.Path) -> None:
  """Writes a sheet of `count` examples to `output` and prints the counts by class.

  Raises ValueError if the split cannot be opened, OSError if the sheet cannot be written.
  """
  opened = datasets.Dataset(dataset, data_dir)
  source = opened.source(split)
  chosen = np.unique(np.linspace(0, len(source) - 1, min(count, len(source))).astype(int)).tolist()
  has_pixels = dataset not in labels.CLASSIFICATION
  picture = sheet(source, chosen) if has_pixels else class_sheet(source, chosen)
  output.parent.mkdir(parents=True, exist_ok=True)
  overlay.save(output, picture)
  print(f"{dataset} {split}: {len(source):,} examples; {len(chosen)} of them in {printable(output)}")
  for lack in opened.partial:
    print(f"  PARTIAL: {printable(lack)}")
  if not source.has_labels:
    print("  no ground truth, so there are no counts")
  elif has_pixels:
    pixels, images = (by_class(counts, source.label_set.num_classes) for counts in class_counts(source))
    print(ClassCounts(source.label_set.classes, {split: pixels}, {split: images}).table())
  else:
    print(class_table(source.label_set.classes, image_counts(source)))


def sheet(source: Source, chosen: Sequence[int]) -> np.ndarray:
  """Returns the examples at the indices `chosen` as one image, RGB uint8 `[H, W, 3]`; missing labels are void."""
  examples = [source[index] for index in chosen]
  images = [example["image"] for example in examples]
  void = (np.full(image.shape[:2], labels.IGNORE, np.uint8) for image in images)
  shown = [example.get("label", blank) for example, blank in zip(examples, void, strict=True)]
  names = [f"{example['image_id']}  {' x '.join(map(str, example['image'].shape[:2]))}" for example in examples]
  return sheets.browse_sheet(images, shown, names, source.label_set)


def class_sheet(source: Source, chosen: Sequence[int]) -> np.ndarray:
  """Returns central squares of the examples at the indices `chosen`, with their classes, RGB uint8 `[H, W, 3]`."""
  examples = [source[index] for index in chosen]
  sides = (min(example["image"].shape[:2]) for example in examples)
  squares = [transforms.center_crop(example, (side, side), side) for example, side in zip(examples, sides, strict=True)]
  captions = [source.label_set.classes[int(example["label"])] if source.has_labels else "" for example in examples]
  return sheets.class_sheet([example["image"] for example in squares], captions, title="class")


def image_counts(source: Source) -> np.ndarray:
  """Counts the images of each class in the whole split, int64 `[C]`."""
  return np.bincount([int(label) for label in _labels(source)], minlength=source.label_set.num_classes)


def _labels(source: Source) -> Iterator[np.ndarray]:
  found = parallel_map(source.label, range(len(source)), os.cpu_count() or 1)
  return tqdm(found, desc="counting", total=len(source), mininterval=1)


def class_counts(source: Source) -> tuple[np.ndarray, np.ndarray]:
  """Counts the pixels and the images of each train id 0 to 255 in the whole split, int64 `[256]` each."""
  pixels, images = np.zeros(256, np.int64), np.zeros(256, np.int64)
  for label in _labels(source):
    counts = np.bincount(label.ravel(), minlength=256)
    pixels += counts
    images += counts > 0
  return pixels, images


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
