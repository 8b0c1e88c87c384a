"""Prepares a data set for training: checks the downloaded files and writes them as records.

  python -m data.prepare --dataset=shapes --data_dir=runs/data
  python -m data.prepare --dataset=voc_segmentation --manual_dir=DOWNLOADS --data_dir=DATA
  python -m data.prepare --dataset=folder --manual_dir=MY_DATA --data_dir=DATA

data/README.md lists what to download, where to put it and the expected counts. Every image and mask is checked before
anything is written, and every bad file is listed. A data set that has been prepared before is not changed.
"""

import contextlib
import importlib
import os
import pathlib
import shutil
import sys
from collections.abc import Sequence
from typing import Any

from absl import logging as absl_logging

from data.arguments import ArgumentParser
from data.class_counts import ClassCounts, class_table
from gcn_flax import file_locks, json_files, labels
from gcn_flax.interrupts import interruptible
from gcn_flax.printable import one_line, printable

# Data set -> (module in this folder, TFDS config of its builder).
_BUILDERS = {name: (name, None) for name in labels.DATASETS} | {
  "cityscapes": ("cityscapes", "fine"),
  "cityscapes_coarse": ("cityscapes", "coarse"),
}
# metadata.json, as far as it is read here.
_METADATA = {
  "classes": [str],
  "image_format": str,
  "digest": str,
  "counts": {str: int},
  "published": {str: int},
  "class_counts?": {"pixels": {str: [int]}, "images": {str: [int]}},
  "warnings?": [str],
  "val_fraction?": float,
}
IMAGE_FORMATS = ("original", "jpeg")


@interruptible
def main(argv: Sequence[str]) -> int:
  """Prepares one data set; returns the exit status, 1 with one line per error on stderr, 130 after Ctrl-C."""
  parser = ArgumentParser("data.prepare", __doc__)
  parser.add_argument("--dataset", required=True, metavar="NAME", help=f"one of {', '.join(labels.DATASETS)}")
  parser.add_argument(
    "--manual_dir", default="", metavar="DIR", help="folder of the downloaded archives or of your own images"
  )
  parser.add_argument(
    "--data_dir",
    default="~/tensorflow_datasets",
    metavar="DIR",
    help="folder for prepared data sets, a local path (default: %(default)s)",
  )
  parser.add_argument(
    "--val_fraction",
    type=float,
    metavar="F",
    help="folder: share of the images of train, above 0 and below 1, to keep for validation if there is no folder val; "
    "chosen by their names, the same ones every time",
  )
  parser.add_argument("--partial", action="store_true", help="accept counts that differ from the published ones")
  parser.add_argument(
    "--image_format",
    default=IMAGE_FORMATS[0],
    choices=IMAGE_FORMATS,
    help="original: store images as they are; jpeg: store PNG images as JPEG of quality 95, which are read 4 times as "
    "fast, see docs/PERFORMANCE.md (default: %(default)s)",
  )
  args = parser.parse_args(argv)
  try:
    file_locks.check_system()
    prepare(args.dataset, args.manual_dir, args.data_dir, args.partial, args.image_format, args.val_fraction)
  except (ValueError, OSError, ImportError) as error:
    for line in str(error).splitlines():
      print(f"error: {printable(line)}", file=sys.stderr)
    return 1
  return 0


def prepare(
  dataset: str,
  manual_dir: str,
  data_dir: str,
  partial: bool = False,
  image_format: str = IMAGE_FORMATS[0],
  val_fraction: float | None = None,
) -> None:
  """Checks the files in `manual_dir` and writes the data set to `data_dir` in array_record format.

  Args:
    dataset: one of `gcn_flax.labels.DATASETS`.
    manual_dir: folder of the downloaded archives or of the user's own images.
    data_dir: folder for prepared data sets, a local path.
    partial: accept counts that differ from the published ones; the data set records the difference.
    image_format: `original`, or `jpeg` to store PNG images as JPEG.
    val_fraction: share of the training images to keep for validation, above 0 and below 1; None if the files have that
      split.

  Raises:
    ValueError: for an unknown data set; for missing or faulty files, one per line; for counts that differ from the
      published ones, unless `partial`.
    OSError: if the disk is full. No partial data set is left behind in any case.
  """
  labels.check_dataset(dataset)
  if "://" in data_dir:
    raise ValueError(
      f"--data_dir={data_dir!r}: must be a local path, records are not read from buckets. Use a local folder; "
      "copy it to a bucket afterwards for launch/data.sh to mount."
    )
  data_dir = os.path.abspath(os.path.expanduser(data_dir))
  if any(character in "*?[" or "\ud800" <= character <= "\udfff" for character in data_dir):
    # TFDS takes it for a pattern, and a data set in a folder that matches it for this one.
    raise ValueError(f"--data_dir={data_dir!r}: may not contain * ? [ and must be UTF-8. Use another folder.")
  if val_fraction is not None and not 0 < val_fraction < 1:
    raise ValueError(f"--val_fraction={val_fraction}: must be above 0 and below 1. Use for instance 0.2.")
  builder = _builder(dataset, data_dir)
  if val_fraction is not None and not builder.takes_val_fraction:
    raise ValueError(f"--val_fraction={val_fraction}: {dataset} has splits of its own. Leave it out.")
  if builder.is_prepared():
    _check_same(builder, manual_dir, image_format, val_fraction)
    print(f"{dataset} is already prepared: {printable(builder.data_path)}")
  else:
    builder.val_fraction = val_fraction
    plan = builder.plan(_root(dataset, manual_dir))
    for note in plan.notes:
      print(f"note: {printable(note)}", flush=True)
    different = labels.differences(plan.counts, plan.published)
    if different and not partial:
      raise ValueError(
        f"{dataset}: the counts differ from the published ones: {', '.join(different)}. "
        "Complete the download, or add --partial to accept them."
      )
    builder.info.metadata["image_format"] = image_format
    metadata = {
      "classes": list(plan.label_set.classes),
      "palette": [list(colour) for colour in plan.label_set.palette],
      "unlabelled": list(plan.unlabelled),
      "digest": builder.digest(_root(dataset, manual_dir)),
      **builder.check(plan),
      "counts": plan.counts,
      "published": plan.published,
      "partial": different,
      **({"val_fraction": val_fraction} if val_fraction else {}),
    }
    _write(builder, plan, metadata)
    print(f"wrote {printable(builder.data_path)}")
  _store_sizes(dataset, data_dir)
  _print_counts(dataset, _read_metadata(builder))


def _builder(dataset: str, data_dir: str):
  # TensorFlow takes seconds to import and would reserve every GPU: import it late, and hide the GPUs.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
  absl_logging.set_verbosity(absl_logging.ERROR)
  os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
  module, config = _BUILDERS[dataset]
  builder = importlib.import_module(f"data.{module}.{module}_dataset_builder").Builder
  try:
    return builder(data_dir=data_dir, config=config, file_format="array_record")
  except (OSError, ImportError):
    raise
  except Exception as error:  # TFDS raises many kinds for a description of a prepared data set that is damaged.
    raise ValueError(
      f"--data_dir={data_dir!r}: the {dataset} in it is damaged ({one_line(error)}). Remove its folder and repeat the "
      "same command, or use another --data_dir."
    ) from error


def _read_metadata(builder) -> dict[str, Any]:
  """Returns the metadata of a prepared data set. Raises ValueError if it is damaged, or not written by this program."""
  path = pathlib.Path(builder.data_path) / "metadata.json"
  fix = f"Remove {builder.data_path} and repeat the same command, or use another --data_dir."
  try:
    return json_files.read(path, _METADATA, fix)
  except FileNotFoundError as error:
    raise ValueError(f"{path}: missing. {fix}") from error


def _root(dataset: str, manual_dir: str) -> pathlib.Path:
  root = pathlib.Path(manual_dir).expanduser()
  if dataset != "shapes" and (not manual_dir or not root.is_dir()):
    raise ValueError(f"--manual_dir={manual_dir!r}: not a folder. Use the folder with {dataset}, see data/README.md.")
  return root


def _check_same(builder, manual_dir: str, image_format: str, val_fraction: float | None) -> None:
  """Raises ValueError if the data set was prepared from other files, in another format, or split in another way."""
  metadata = _read_metadata(builder)
  if metadata["image_format"] != image_format:
    raise ValueError(
      f"--image_format={image_format}: {builder.data_path} was prepared with {metadata['image_format']}. "
      "Remove that folder, or use another --data_dir."
    )
  if val_fraction not in (None, metadata.get("val_fraction")):
    raise ValueError(
      f"--val_fraction={val_fraction}: {builder.data_path} was prepared with {metadata.get('val_fraction', 'none')}. "
      "Remove that folder, or use another --data_dir."
    )
  root = pathlib.Path(manual_dir).expanduser()
  if manual_dir and root.is_dir() and metadata["digest"] != builder.digest(root):
    raise ValueError(
      f"--manual_dir={manual_dir!r}: {builder.data_path} was prepared from other files. "
      "Remove that folder, or use another --data_dir."
    )


def _write(builder, plan, metadata: dict) -> None:
  folder = pathlib.Path(builder.data_path).parent
  folder.mkdir(parents=True, exist_ok=True)
  with _only_writer(folder):
    for remains in folder.glob("incomplete.*"):
      print(f"removing {printable(remains)}, left over from an interrupted preparation", flush=True)
      shutil.rmtree(remains)
    _write_records(builder, plan, metadata)


@contextlib.contextmanager
def _only_writer(folder: pathlib.Path):
  """Holds a lock on a folder. Raises ValueError if another process holds it."""
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    try:
      file_locks.lock(descriptor)
    except BlockingIOError as error:
      raise ValueError(f"{folder}: another data.prepare is writing to it. Wait until it has finished.") from error
    except OSError:  # Some network file systems do not support locks.
      pass
    yield
  finally:
    os.close(descriptor)


def _write_records(builder, plan, metadata: dict) -> None:
  try:
    builder.write(plan, metadata)
  except Exception as error:  # TensorFlow and array_record raise their own errors for a full disk.
    if isinstance(error, ValueError):
      raise
    free = shutil.disk_usage(pathlib.Path(builder.data_path).parent).free
    raise OSError(
      f"{builder.data_path} could not be written ({one_line(error)}). {free / 1e9:.1f} GB are free, about twice "
      "the size of the archives is needed. Nothing was kept."
    ) from error


def _store_sizes(dataset: str, data_dir: str) -> None:
  from gcn_flax.input_pipeline.datasets import Dataset  # Imported late, as the builders are.

  try:
    Dataset(dataset, data_dir).store_sizes()
  except OSError as error:  # A read-only disk that holds a data set of an older version.
    print(f"note: image sizes are not stored ({error}), so each evaluation reads them from the records", flush=True)


def _print_counts(dataset: str, metadata: dict) -> None:
  """Prints the number of examples and the table of classes, and last the warnings."""
  for name, count in metadata["counts"].items():
    published = metadata["published"].get(name, count)
    note = "" if count == published else f"   PARTIAL: {published:,} published"
    print(f"  {name:<20} {count:>8,}{note}")
  counts = ClassCounts.from_metadata(metadata)
  if dataset in labels.CLASSIFICATION:
    for split, images in counts.images.items():
      print(f"{split}\n{class_table(counts.classes, images[:-1])}")
  elif counts.pixels:
    print(counts.table())
  for warning in metadata.get("warnings", ()):
    print(warning)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
