"""Draws masks from the polygons of annotation tools, and lays out a folder for data.prepare --dataset=folder.

  python -m data.annotations --format=labelme --input=PHOTOS --output=MY_DATA
  python -m data.annotations --format=coco --input=PHOTOS --output=MY_DATA
  python -m data.annotations --format=yolo --input=PHOTOS --output=MY_DATA

PHOTOS holds the images and the annotation files, in folders or not; it is not changed. Writes copies of the images to
MY_DATA/images, a PNG for each to MY_DATA/masks, and MY_DATA/classes.txt, in which the background comes first. Folders
called train, val and test stay apart. Nothing is written unless every file can be read and drawn.
"""

import os
import pathlib
import shlex
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence

from tqdm import tqdm

from data import pictures
from data.annotation_files import coco, labelme, yolo
from data.annotation_files.annotations import AnnotatedImage, Annotations, draw_mask
from data.arguments import ArgumentParser
from data.faults import raise_all
from data.folder.classes import read_classes
from data.user_files import plain_name
from gcn_flax.interrupts import interruptible
from gcn_flax.labels import IGNORE
from gcn_flax.parallel import parallel_map
from gcn_flax.printable import printable

_READERS = {"labelme": labelme.read, "coco": coco.read, "yolo": yolo.read}
_VOID = ("ignore", "__ignore__")
_LABELME_BACKGROUND = "_background_"


@interruptible
def main(argv: Sequence[str]) -> int:
  """Converts one folder; returns the exit status, 1 with one line per error on stderr, 130 after Ctrl-C."""
  parser = ArgumentParser("data.annotations", __doc__)
  parser.add_argument(
    "--format",
    required=True,
    choices=_READERS,
    help="labelme: a JSON file for each image; coco: one JSON file with images, annotations and categories; "
    "yolo: Ultralytics' text file of polygons for each image, and data.yaml",
  )
  parser.add_argument("--input", required=True, metavar="DIR", help="folder of the images and annotations")
  parser.add_argument("--output", required=True, metavar="DIR", help="folder to write, which must be empty or new")
  parser.add_argument(
    "--background",
    default="background",
    metavar="NAME",
    help="class of the pixels in no region, the first in classes.txt; ignore: leave them out of training and "
    "evaluation (default: %(default)s)",
  )
  args = parser.parse_args(argv)
  try:
    convert(args.format, pathlib.Path(args.input), pathlib.Path(args.output), args.background)
  except (ValueError, OSError) as error:
    for line in str(error).splitlines():
      print(f"error: {printable(line)}", file=sys.stderr)
    return 1
  return 0


def convert(format_name: str, root: pathlib.Path, output: pathlib.Path, background: str = "background") -> None:
  """Writes images, masks and `classes.txt` of an annotated folder, as `data.prepare --dataset=folder` takes them.

  Args:
    format_name: labelme, coco or yolo.
    root: folder of the images and annotations.
    output: folder to write, which must be empty or new, and outside of `root`.
    background: class of the pixels in no region; `ignore` leaves them out.

  Raises:
    ValueError: listing every fault of the files. Nothing is written then.
    OSError: if the output cannot be written. Nothing is left behind.
  """
  root, output = root.expanduser().resolve(), output.expanduser().resolve()
  if not root.is_dir():
    raise ValueError(f"--input={root}: not a folder. Use the folder of the images and annotations.")
  if output.is_relative_to(root):
    raise ValueError(f"--output={output}: is in --input. Use a folder beside it, such as {root}_masks.")
  if output.exists() and (not output.is_dir() or any(output.iterdir())):
    raise ValueError(f"--output={output}: exists and is not an empty folder. Use another one, or remove it.")
  annotations = _READERS[format_name](root)
  _check_places(root, annotations)
  classes, values, unlabelled = _class_values(annotations.classes, background)
  output.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
    written = pathlib.Path(folder, "written")  # Renamed at the end; with the modes of other folders.
    written.mkdir()
    _write_classes(written / "classes.txt", classes, root)
    _write_images(written, annotations, values, unlabelled)
    written.replace(output)
  _print_summary(output, annotations, classes)


def _check_places(root: pathlib.Path, annotations: Annotations) -> None:
  """Raises ValueError if two images get the same name, or if only some are in folders of splits."""
  first, faults = {}, []
  for image in annotations.images:
    other = first.setdefault((image.split, plain_name(image.path.stem)), image)
    if other is not image:
      where = "" if other.path != image.path else f" (annotated by {other.place} and {image.place})"
      faults.append(f"{image.path} has the same name as {other.path}{where}. Rename or remove one of them.")
  splits = {image.split for image in annotations.images}
  if "" in splits and len(splits) > 1:
    loose = next(image for image in annotations.images if not image.split)
    named = ", ".join(sorted(splits - {""}))
    faults.append(f"{loose.path} is in none of the folders {named}, as others in {root} are. Move it there.")
  raise_all(faults)


def _class_values(names: Sequence[str], background: str) -> tuple[list[str], dict[str, int], int]:
  """Returns the classes as `classes.txt` lists them, the value of each annotated name, and that of other pixels."""
  unlabelled = IGNORE if background in _VOID else 0
  special = dict.fromkeys((background, _LABELME_BACKGROUND), unlabelled) | dict.fromkeys(_VOID, IGNORE)
  classes = [background] * (unlabelled == 0) + [name for name in dict.fromkeys(names) if name not in special]
  return classes, {name: index for index, name in enumerate(classes)} | special, unlabelled


def _write_classes(path: pathlib.Path, classes: Sequence[str], root: pathlib.Path) -> None:
  """Writes `classes.txt`. Raises ValueError unless it is read back as it was meant."""
  path.write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
  try:
    listed, problem = read_classes(path).label_set.classes, "they read back as others"
  except ValueError as error:
    listed, problem = (), str(error).splitlines()[0].removeprefix(str(path)).strip()
  if listed != tuple(classes):
    raise ValueError(f"{root}: its classes {', '.join(map(repr, classes))} cannot be listed in classes.txt: {problem}")


def _write_images(folder: pathlib.Path, annotations: Annotations, values: dict[str, int], unlabelled: int) -> None:
  """Writes images and masks. Raises ValueError listing every image that cannot be read, and every faulty region."""

  def write(image: AnnotatedImage) -> str:
    try:
      size = pictures.decode_rgb(image.path.read_bytes(), str(image.path)).shape[:2]  # As data.prepare will read it.
      if image.regions is not None:
        mask = draw_mask(image, size, values, unlabelled, annotations.smaller_on_top)
        (masks := folder / "masks" / image.split).mkdir(parents=True, exist_ok=True)
        (masks / f"{image.path.stem}.png").write_bytes(pictures.encode_mask(mask))
      (images := folder / "images" / image.split).mkdir(parents=True, exist_ok=True)
      shutil.copy(image.path, images)
    except ValueError as error:
      return str(error)
    return ""

  found = parallel_map(write, annotations.images, os.cpu_count() or 1)
  progress = tqdm(found, desc="drawing masks", total=len(annotations.images), mininterval=1)
  raise_all([fault for fault in progress if fault])


def _print_summary(output: pathlib.Path, annotations: Annotations, classes: Sequence[str]) -> None:
  for note in annotations.notes:
    print(f"note: {printable(note)}")
  counts = Counter(image.split for image in annotations.images)
  splits = ", ".join(f"{split} {count:,}" for split, count in sorted(counts.items()) if split)
  print(f"wrote {printable(output)}: {len(annotations.images):,} images{f' ({splits})' * bool(splits)}")
  print(f"classes: {printable(', '.join(classes))}")
  has_validation = any(split.startswith("val") for split in counts)
  print(
    f"next: python -m data.prepare --dataset=folder --manual_dir={shlex.quote(printable(output))} --data_dir=DATA"
    + ("" if has_validation else " --val_fraction=0.2")
  )


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
