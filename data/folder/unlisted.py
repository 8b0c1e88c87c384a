"""Messages about masks with values or colours that `classes.txt` does not list, with their likely cause."""

from collections.abc import Iterable, Sequence

from data.faults import change_masks, wrong_values

Colour = tuple[int, int, int]
# A mask with more values or colours than this that nobody listed has been smoothed, or was a JPEG.
_MAX_ODD = 20


def unlisted_values(name: str, unlisted: Sequence[int], allowed: Iterable[int], listed: str) -> str:
  """Returns the message about values; `listed` is that of `Classes`."""
  if len(unlisted) > _MAX_ODD:
    return _smoothed(name, len(unlisted), "values", " ".join(map(str, unlisted[:5])))
  return wrong_values(name, unlisted, allowed) + _left_out(listed, unlisted[0])


def unlisted_colours(name: str, unlisted: Sequence[Colour], listed: Iterable[Colour]) -> str:
  """Returns the message about colours beside those listed."""
  shown = " ".join(f"{red},{green},{blue}" for red, green, blue in unlisted[:_MAX_ODD])
  if _all_grey(unlisted) and not _all_grey(listed):
    return (
      f"{name} has grey pixels that are not in classes.txt: {shown}. If they are class numbers, list values there "
      "instead of colours, for instance road = 1; if they are colours, add them, for instance to ignore."
    )
  if len(unlisted) > _MAX_ODD:
    return _smoothed(name, len(unlisted), "colours", " ".join(shown.split()[:5]))
  return (
    f"{name} contains {len(unlisted)} colours that are not in classes.txt: {shown}. Add them there, for instance to "
    "ignore."
  )


def _all_grey(colours: Iterable[Colour]) -> bool:
  return all(red == green == blue for red, green, blue in colours)


def _left_out(listed: str, value: int) -> str:
  """Says how to list a value that is not listed; '' for fixed classes."""
  if listed == "names":
    return f" For others write name = VALUE on every line of classes.txt, or ignore = {value} to leave it out."
  return f" Add others to classes.txt, for a class or as ignore = {value}." if listed else ""


def _smoothed(name: str, count: int, kind: str, shown: str) -> str:
  return (
    f"{name} contains {count} {kind} that are not in classes.txt ({shown} ...). So many come from smoothed edges, from "
    "resizing, or from a JPEG. Export the masks again as PNG, without anti-aliasing and in full size. "
    + change_masks("restore masks of 0 and 255 alone", "i.convert('L').point(lambda v: 255 * (v > 127))", name)
  )
