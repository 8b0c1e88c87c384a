"""Writes data sets, and is the only thing that does.

  python -m data.prepare --dataset=shapes --data_dir=runs/data
  python -m data.prepare --dataset=camvid --manual_dir=CAMVID --data_dir=DIR
  python -m data.prepare --dataset=cityscapes --manual_dir=DOWNLOADS --data_dir=DIR

What to download, where to put it and which counts to expect: data/README.md. A data
set that is there already is left as it is.
"""

import argparse
import importlib
import os
import pathlib
import re
import sys
import zipfile
from collections.abc import Sequence

from absl import logging as absl_logging

from gcn_flax import labels

_CITYSCAPES_ARCHIVES = ("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip")
_CITYSCAPES_SPLITS = {"train": "train", "val": "validation", "test": "test"}
_OWN = ("shapes", "camvid")  # Built in this folder; the rest by TFDS itself.


def main(argv: Sequence[str]) -> int:
  """Prepares one data set; returns the exit status, 1 with one line on stderr for a mistake of the user."""
  parser = argparse.ArgumentParser(prog="python -m data.prepare", description="Writes a data set for training.")
  parser.add_argument("--dataset", required=True, help=", ".join(labels.LABELS))
  parser.add_argument("--manual_dir", default="", help="where the downloaded archives or folders are")
  parser.add_argument("--data_dir", default="~/tensorflow_datasets", help="where the data set goes, a local path")
  parser.add_argument("--partial", action="store_true", help="take counts that differ from the published ones")
  args = parser.parse_args(argv)
  try:
    prepare(args.dataset, args.manual_dir, args.data_dir, args.partial)
  except (ValueError, OSError, ImportError, zipfile.BadZipFile) as error:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return 1
  return 0


def prepare(dataset: str, manual_dir: str, data_dir: str, partial: bool = False) -> None:
  """Checks what is in `manual_dir` and writes the data set as array_record into `data_dir`.

  Raises ValueError for an unknown data set, missing or faulty files, and, unless
  `partial`, counts that are not the published ones. Nothing is left half-written.
  """
  published = labels.label_set(dataset).split_sizes
  if "://" in data_dir:
    raise ValueError(f"--data_dir={data_dir!r} must be a local path: records are read at random from local files only.")
  data_dir = os.path.abspath(os.path.expanduser(data_dir))
  builder = _builder(dataset, data_dir)
  if builder.is_prepared():
    print(f"{dataset} is there already: {builder.data_path}")
  else:
    counts = _count(dataset, manual_dir)
    _check_counts(dataset, counts, published, partial)
    os.makedirs(data_dir, exist_ok=True)
    _write(builder, manual_dir)
  _print_counts({name: info.num_examples for name, info in builder.info.splits.items()}, published)


def _builder(dataset: str, data_dir: str):
  # TensorFlow takes seconds to import and would take every GPU: not before it is needed, and without them.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
  absl_logging.set_verbosity(absl_logging.ERROR)
  os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
  import tensorflow_datasets as tfds

  if dataset in _OWN:
    module = importlib.import_module(f"data.{dataset}.{dataset}_dataset_builder")
    return module.Builder(data_dir=data_dir, file_format="array_record")
  return tfds.builder("cityscapes/semantic_segmentation", data_dir=data_dir, file_format="array_record")


def _write(builder, manual_dir: str) -> None:
  import tensorflow_datasets as tfds

  config = tfds.download.DownloadConfig(manual_dir=os.path.abspath(os.path.expanduser(manual_dir or ".")))
  builder.download_and_prepare(download_config=config)


def _count(dataset: str, manual_dir: str) -> dict[str, int]:
  """Examples of each split in `manual_dir`, after a check of the files there."""
  if dataset == "shapes":
    return dict(labels.SHAPES.split_sizes)
  root = pathlib.Path(manual_dir).expanduser()
  if not manual_dir or not root.is_dir():
    raise ValueError(
      f"--manual_dir={manual_dir!r} is no folder: {dataset} must be downloaded by hand, see data/README.md."
    )
  if dataset == "camvid":
    from data.camvid.folder import check

    print("checking every image and mask ...", flush=True)
    return check(root)
  return _count_cityscapes(root)


def _count_cityscapes(root: pathlib.Path) -> dict[str, int]:
  """Counts pictures with labels in the two archives, by split, without unpacking them."""
  missing = [name for name in _CITYSCAPES_ARCHIVES if not (root / name).is_file()]
  if missing:
    raise ValueError(f"{', '.join(missing)} not found in {root}: download from https://www.cityscapes-dataset.com.")
  patterns = (
    r"leftImg8bit/(\w+)/[\w-]+/(\w[\w-]*)_leftImg8bit\.png",
    r"gtFine/(\w+)/[\w-]+/(\w[\w-]*)_gtFine_labelIds\.png",
  )
  ids = []
  for name, pattern in zip(_CITYSCAPES_ARCHIVES, patterns, strict=True):
    with zipfile.ZipFile(root / name) as archive:
      ids.append({match.groups() for path in archive.namelist() if (match := re.fullmatch(pattern, path))})
  images, masks = ids
  if images != masks:
    names = sorted(f"{split}/{name}" for split, name in images ^ masks)
    raise ValueError(f"{len(names)} Cityscapes ids have an image or labels but not both: {', '.join(names[:20])}")
  return {ours: sum(split == theirs for split, _ in images) for theirs, ours in _CITYSCAPES_SPLITS.items()}


def _check_counts(dataset: str, counts: dict[str, int], published: dict[str, int], partial: bool) -> None:
  if counts == published or partial:
    return
  differences = [f"{split} {counts.get(split, 0)} instead of {size}" for split, size in published.items()]
  raise ValueError(
    f"{dataset} has other counts than published: {', '.join(differences)}. To take it so, add --partial."
  )


def _print_counts(counts: dict[str, int], published: dict[str, int]) -> None:
  for split, size in counts.items():
    note = "" if size == published.get(split) else f"   PARTIAL: published are {published.get(split)}"
    print(f"  {split:<12} {size:>6}{note}")


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
