"""Messages about files that are neither images nor masks, with the command that helps."""

import pathlib
import shlex
from collections.abc import Sequence

from gcn_flax import json_files
from gcn_flax.input_pipeline.pictures import SUFFIXES

# Annotations of other tools: no pictures, so masks are drawn from them first.
_ANNOTATIONS = (".json", ".xml")
_LOSSLESS = (".bmp", ".gif", ".tif", ".tiff", ".webp")


def nested_folders(folder: pathlib.Path, folders: Sequence[pathlib.Path]) -> str:
  """Returns the fault of a split with folders in it."""
  return (
    f"{folder} contains folders ({some(folders)}), but its files must be directly in it. Put the folders' names before "
    f'the files\': (cd {shlex.quote(str(folder))} && find */ -type f | while read -r f; do mv -n "$f" "${{f//\\//_}}"; '
    "done; find . -type d -empty -delete)"
  )


def unusable(folder: pathlib.Path, suffix: str, paths: list[pathlib.Path], suffixes: Sequence[str]) -> list[str]:
  """Returns the faults of files with a suffix that is not read."""
  count, quoted = f"{len(paths)} {suffix} files ({some(paths)})", shlex.quote(str(folder))
  of_masks = suffixes != SUFFIXES
  if suffix in _ANNOTATIONS or of_masks and suffix == ".txt":
    return [f"{folder} contains {count}, which are annotations, not masks. {_draw(folder, paths[0])}"]
  if of_masks and suffix in (".jpg", ".jpeg"):
    return [
      f"{folder} contains {count}. JPEG changes values near edges, and converting the files does not bring them back: "
      "export the masks again as PNG."
    ]
  if of_masks and suffix in _LOSSLESS:
    return [
      f"{folder} contains {count}, but masks must be PNG. Convert them: "
      'python -c "import sys, pathlib, PIL.Image as I; '
      "[I.open(p).save(pathlib.Path(p).with_suffix('.png')) for p in sys.argv[1:]]\" "
      f"{quoted}/*{paths[0].suffix} && rm {quoted}/*{paths[0].suffix}"
    ]
  return [f"{path} is not one of {' '.join(suffixes)}. Remove it." for path in paths]


def _draw(folder: pathlib.Path, path: pathlib.Path) -> str:
  """Says how to draw masks from annotations, and to move these away."""
  quoted, aside = shlex.quote(str(folder)), shlex.quote(f"{folder.parent.parent}/annotations_{folder.name}")
  move = f"Then move them away: mkdir -p {aside} && mv {quoted}/*{path.suffix} {aside}"
  try:
    is_of_labelme = path.suffix == ".json" and bool(json_files.read(path, {"shapes": object}, fix=""))
  except ValueError:
    is_of_labelme = False
  if is_of_labelme:
    return (
      "If their masks are not drawn yet, run labelme's examples/semantic_segmentation/labelme2voc.py: "
      f"python labelme2voc.py {quoted} OUTPUT --labels labels.txt, which draws them in OUTPUT/SegmentationClass. {move}"
    )
  return f"If their masks are not drawn yet, export them as PNG masks from the tool that wrote them. {move}"


def some(paths: Sequence[pathlib.Path]) -> str:
  """Returns the names of the first two files."""
  return ", ".join(path.name for path in paths[:2]) + (", ..." if len(paths) > 2 else "")
