"""Likely causes of a class that never occurs in the masks of train, and their cures."""

from data.class_counts import ClassCounts
from data.folder.classes import Classes
from gcn_flax.labels import IGNORE

_MAX_LINES = 4  # Lists of more classes are not written out.


def likely_cause(classes: Classes, train_id: int, counts: ClassCounts) -> str:
  """Returns why a class may never occur in train, and what to write in `classes.txt`."""
  name, keys = classes.label_set.classes[train_id], classes.describe(train_id)
  elsewhere = [split for split, images in counts.images.items() if images[train_id]]
  if elsewhere:
    return f"It occurs in {' and '.join(elsewhere)}: move some of these images, with their masks, to train."
  if counts.images["train"][-1] and [value for value, to in classes.values.items() if to == IGNORE] == [IGNORE]:
    return (
      f"The value 255 occurs in {counts.images['train'][-1]} masks of train and is void. If it stands for {name}, "
      + "write "
      + _lines(classes, {train_id: IGNORE})
    )
  kind = "colour" if classes.colours else "value"
  if classes.listed == "names" and train_id == 0:
    shifted = {index: index + 1 for index in range(len(classes.label_set.classes))}
    return "No mask of train contains the value 0. If numbering starts at 1, write " + _lines(classes, shifted)
  return f"No mask of train contains the {kind} {keys}. If another one stands for {name}, write it in classes.txt" + (
    f", as {name} = VALUE, and the values of all other classes." if classes.listed == "names" else "."
  )


def _lines(classes: Classes, changed: dict[int, int]) -> str:
  """Returns the lines of a `classes.txt` in which some classes have other values."""
  lines = [
    f"{name} = {changed.get(index, classes.describe(index))}" for index, name in enumerate(classes.label_set.classes)
  ]
  if len(lines) <= _MAX_LINES:
    return f"in classes.txt: {', '.join(lines)} (each on a line of its own)."
  return f"{lines[min(changed)]} in classes.txt, and the values of all other classes."
