"""Tells files of weights from other files by their content, and says what to do with the others."""

import pathlib
import re
import zipfile

from gcn_flax.messages import python_command

SAFETENSORS, TORCH = "safetensors", "torch"

_SAVE_STATE_DICT = (
  "Where the network comes from, save its weights alone: torch.save(network.state_dict(), 'state_dict.pth')"
)
_START_OF_LEGACY_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # PyTorch's magic number as a pickle.
# First bytes of a file -> what it is, and what helps.
_OTHERS = {
  rb"$": ("is empty", "Download it again"),
  rb"version https://git-lfs": ("is a Git LFS pointer, not the file itself", "Run git lfs pull where it was cloned"),
  rb"(?i)\s*(<!doctype|<html|<\?xml|<head)": (
    "is a web page, not the file itself",
    "Download the file behind the page's download button",
  ),
  rb"\x80[\x02-\x05]": ("is a pickle that torch.save did not write; it was not opened", _SAVE_STATE_DICT),
  rb"\x93NUMPY": ("is a NumPy array", "Save all tensors by name with safetensors.numpy.save_file"),
  rb"\x89HDF": ("is an HDF5 file, as Keras writes them", "Use weights in PyTorch's layout"),
  rb"\x08[\x01-\x20]\x12": ("is an ONNX program, not a file of weights", _SAVE_STATE_DICT),
  rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!": ("is compressed", "Unpack it, and name the file inside"),
  rb"(?s).{257}ustar": ("is a tar archive", "Unpack it, and name the file inside"),
}


def kind_of(path: pathlib.Path) -> str:
  """Returns `SAFETENSORS` or `TORCH`. Raises ValueError for any other file, saying what it is and what helps."""
  with path.open("rb") as file:
    start = file.read(512)
  if start[8:9] == b"{":
    return SAFETENSORS
  if start.startswith(b"PK"):
    _check_archive(path)
    return TORCH
  if start.startswith(_START_OF_LEGACY_TORCH):
    return TORCH
  problem, fix = next((text for pattern, text in _OTHERS.items() if re.match(pattern, start)), _unknown(start))
  raise ValueError(f"{path} {problem}. {fix}.")


def whole_pickle_problem(names: list[str]) -> str:
  """Returns the problem and the fix for a PyTorch file that also pickles objects of these classes."""
  objects = f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ", or is damaged"
  return f"holds more than tensors{objects}; no code in it was run. {_SAVE_STATE_DICT}."


def _unknown(start: bytes) -> tuple[str, str]:
  kind = "is a text file" if start.isascii() and b"\0" not in start else "is of no known kind"
  return f"{kind}, not safetensors or PyTorch weights", "Use a .safetensors file, or a state dict saved by torch.save"


def _check_archive(path: pathlib.Path) -> None:
  """Raises ValueError for a zip archive that torch.save did not write; PyTorch reports those that are cut short."""
  try:
    with zipfile.ZipFile(path) as archive:
      names = archive.namelist()
  except zipfile.BadZipFile:
    return
  if any(re.search(r"(^|/)(code/|constants\.pkl$)", name) for name in names):
    target = path.with_name(f"{path.stem}_state_dict.pth")
    script = f"import torch; torch.save(torch.jit.load({str(path)!r}, 'cpu').state_dict(), {str(target)!r})"
    raise ValueError(
      f"{path} is a TorchScript program; it was not run. If you trust it, save its weights: {python_command(script)}"
    )
  if any(name.endswith("data.pkl") for name in names):
    return
  if all(name.endswith(".npy") for name in names):
    raise ValueError(f"{path} is a NumPy archive. Save its arrays by name with safetensors.numpy.save_file.")
  shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
  raise ValueError(f"{path} is a zip archive ({shown}), not PyTorch weights. Unpack it, and name the file inside.")
