"""Messages about files that are neither images nor masks, with the command that helps."""

import pathlib
import re
import shlex
from collections.abc import Sequence

from data.user_files import visible_files
from gcn_flax.input_pipeline.pictures import SUFFIXES

# Annotations of other tools: no pictures, so masks are drawn from them first.
_ANNOTATIONS = (".json", ".xml")
_HEAD = 100_000  # Characters of a file that are read to recognise its format.
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
  root = folder.parent if folder.name in ("images", "masks") else folder.parent.parent
  draw = (
    draw_command(root, path)
    or "If their masks are not drawn yet, export them as PNG masks from the tool that wrote them."
  )
  return f"{draw} If they are drawn, move them away: mkdir -p {aside} && mv {quoted}/*{path.suffix} {aside}"


def draw_command(root: pathlib.Path, path: pathlib.Path | None = None) -> str:
  """Returns how to draw masks from the annotations in a folder; "" if `data.annotations` reads none of them.

  Args:
    root: the user's folder.
    path: one of the annotation files in it; looked for if not given.
  """
  if path is None:
    found = visible_files(root, (".json",)) or visible_files(root, (".txt",))
    path = next((file for file in found if _format_of(root, file)), root)
  name = _format_of(root, path)
  if not name:
    return ""
  output = shlex.quote(f"{root}_masks")
  command = f"python -m data.annotations --format={name} --input={shlex.quote(str(root))} --output={output}"
  return f"Draw masks from the annotations ({path.name}): {command}. Then use --manual_dir={output}."


def _format_of(root: pathlib.Path, path: pathlib.Path) -> str:
  """Returns the name that `data.annotations` has for the format of a file, "" if it reads no such files."""
  if path.suffix == ".txt":
    return "yolo" if "labels" in path.relative_to(root).parent.parts else ""
  if path.suffix != ".json":
    return ""
  with open(path, encoding="utf-8", errors="replace") as file:
    head = file.read(_HEAD)
  if re.search(r'"shapes"\s*:', head):
    return "labelme"
  return "coco" if re.search(r'"(images|annotations|categories)"\s*:', head) else ""


def some(paths: Sequence[pathlib.Path]) -> str:
  """Returns the names of the first two files."""
  return ", ".join(path.name for path in paths[:2]) + (", ..." if len(paths) > 2 else "")
