"""Writes data sets, and is the only thing that does.

  python -m data.prepare --dataset=shapes --data_dir=runs/data
  python -m data.prepare --dataset=voc_segmentation --manual_dir=DOWNLOADS --data_dir=DATA
  python -m data.prepare --dataset=folder --manual_dir=MY_DATA --data_dir=DATA

What to download, where to put it and which counts to expect: data/README.md. Every picture
and mask is read before anything is written, and all that is bad is listed. A data set that is
there already is left as it is.
"""

import argparse
import contextlib
import fcntl
import importlib
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Sequence

from absl import logging as absl_logging

from data.faults import one_line
from gcn_flax import labels

# Data set -> module in this folder and configuration of its builder.
_BUILDERS = {name: (name, None) for name in labels.DATASETS} | {
  "cityscapes": ("cityscapes", "fine"),
  "cityscapes_coarse": ("cityscapes", "coarse"),
}
IMAGE_FORMATS = ("original", "jpeg")


def main(argv: Sequence[str]) -> int:
  """Prepares one data set; returns the exit status, 1 with a line on stderr for each thing that is wrong."""
  parser = argparse.ArgumentParser(prog="python -m data.prepare", description="Writes a data set for training.")
  parser.add_argument("--dataset", required=True, help=", ".join(labels.DATASETS))
  parser.add_argument("--manual_dir", default="", help="where the downloaded archives or your folders are")
  parser.add_argument("--data_dir", default="~/tensorflow_datasets", help="where the data set goes, a local path")
  parser.add_argument("--partial", action="store_true", help="take counts that differ from the published ones")
  parser.add_argument(
    "--image_format",
    default=IMAGE_FORMATS[0],
    choices=IMAGE_FORMATS,
    help="jpeg: store PNG pictures as JPEG of quality 95, read four times as fast, see docs/PERFORMANCE.md",
  )
  args = parser.parse_args(argv)
  try:
    prepare(args.dataset, args.manual_dir, args.data_dir, args.partial, args.image_format)
  except (ValueError, OSError, ImportError) as error:
    for line in str(error).splitlines():
      print(f"error: {line}", file=sys.stderr)
    return 1
  return 0


def prepare(
  dataset: str, manual_dir: str, data_dir: str, partial: bool = False, image_format: str = IMAGE_FORMATS[0]
) -> None:
  """Checks what is in `manual_dir` and writes the data set as array_record into `data_dir`.

  Args:
    dataset: one of `gcn_flax.labels.DATASETS`.
    manual_dir: where the downloaded archives or the user's folders are.
    data_dir: a local path.
    partial: whether to take counts that differ from the published ones; the data set records it.
    image_format: `original`, or `jpeg` to store PNG pictures as JPEG.

  Raises:
    ValueError: for an unknown data set; for missing or faulty files, listing all, one a line;
      and, unless `partial`, for counts that are not the published ones.
    OSError: where the disk is full. Nothing is left half-written in either case.
  """
  labels.check_dataset(dataset)
  if "://" in data_dir:
    raise ValueError(f"--data_dir={data_dir!r} must be a local path: records are read at random from local files only.")
  builder = _builder(dataset, os.path.abspath(os.path.expanduser(data_dir)))
  if builder.is_prepared():
    _check_as_asked(builder, manual_dir, image_format)
    print(f"{dataset} is there already: {builder.data_path}")
  else:
    plan = builder.plan(_root(dataset, manual_dir))
    for note in plan.notes:
      print(f"note: {note}", flush=True)
    different = labels.differences(plan.counts, plan.published)
    if different and not partial:
      raise ValueError(
        f"{dataset} has other counts than published: {', '.join(different)}. To take it so, add --partial."
      )
    metadata = {
      "classes": list(plan.label_set.classes),
      "palette": [list(colour) for colour in plan.label_set.palette],
      "unlabelled": list(plan.unlabelled),
      "digest": builder.digest(_root(dataset, manual_dir)),
      "largest": builder.check(plan),
      "image_format": image_format,
      "counts": plan.counts,
      "published": plan.published,
      "partial": different,
    }
    _write(builder, plan, metadata)
    print(f"wrote {builder.data_path}")
  _print_counts(json.loads((pathlib.Path(builder.data_path) / "metadata.json").read_text()))


def _builder(dataset: str, data_dir: str):
  # TensorFlow takes seconds to import and would take every GPU: not before it is needed, and without them.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
  absl_logging.set_verbosity(absl_logging.ERROR)
  os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
  module, config = _BUILDERS[dataset]
  builder = importlib.import_module(f"data.{module}.{module}_dataset_builder").Builder
  return builder(data_dir=data_dir, config=config, file_format="array_record")


def _root(dataset: str, manual_dir: str) -> pathlib.Path:
  root = pathlib.Path(manual_dir).expanduser()
  if dataset != "shapes" and (not manual_dir or not root.is_dir()):
    raise ValueError(f"--manual_dir={manual_dir!r} is no folder: it must hold {dataset}, see data/README.md.")
  return root


def _check_as_asked(builder, manual_dir: str, image_format: str) -> None:
  metadata = builder.info.metadata
  if metadata["image_format"] != image_format:
    raise ValueError(
      f"{builder.data_path} was prepared with --image_format={metadata['image_format']}, not {image_format}: "
      "remove it first."
    )
  root = pathlib.Path(manual_dir).expanduser()
  if manual_dir and root.is_dir() and metadata["digest"] != builder.digest(root):
    raise ValueError(
      f"{builder.data_path} was prepared from other files than are in {manual_dir} now: remove it, or take another "
      "--data_dir."
    )


def _write(builder, plan, metadata: dict) -> None:
  folder = pathlib.Path(builder.data_path).parent
  folder.mkdir(parents=True, exist_ok=True)
  with _only_writer(folder):
    for remains in folder.glob("incomplete.*"):
      print(f"removing {remains}, left by a preparation that was broken off", flush=True)
      shutil.rmtree(remains)
    _write_records(builder, plan, metadata)


@contextlib.contextmanager
def _only_writer(folder: pathlib.Path):
  """Holds a lock on a folder. Raises ValueError where another process holds it."""
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise ValueError(f"another data.prepare is writing {folder} at this moment.") from error
    except OSError:  # Some network file systems have no locks.
      pass
    yield
  finally:
    os.close(descriptor)


def _write_records(builder, plan, metadata: dict) -> None:
  try:
    builder.write(plan, metadata)
  except Exception as error:  # TensorFlow's and array_record's writers raise errors of their own for a full disk.
    if isinstance(error, ValueError):
      raise
    free = shutil.disk_usage(pathlib.Path(builder.data_path).parent).free
    raise OSError(
      f"{builder.data_path} could not be written ({one_line(error)}); {free / 1e9:.1f} GB are free, "
      "about twice the archives' size is needed. Nothing was kept."
    ) from error


def _print_counts(metadata: dict) -> None:
  for name, count in metadata["counts"].items():
    published = metadata["published"].get(name, count)
    note = "" if count == published else f"   PARTIAL: published are {published:,}"
    print(f"  {name:<20} {count:>8,}{note}")


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
