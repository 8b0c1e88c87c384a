"""Paths of networks: of a workdir, an exported file, a released folder or an https address; needs no JAX."""

from gcn_flax import files
from gcn_flax.download import download, is_address
from gcn_flax.workdir.workdir import Workdir

NETWORK_FILE = "network.safetensors"


def find_network(name: files.Path | str) -> files.Path:
  """Returns the path of a workdir or of an exported file, which it downloads if it is at an https address.

  Args:
    name: a workdir, local or `gs://BUCKET/RUN`; a `network.safetensors`; a folder without checkpoints that has one; or
      `https://HOST/PATH#sha256=DIGEST`.

  Raises ValueError as `download`, and for other addresses. There may be nothing at the path.
  """
  if is_address(name):
    return download(str(name))
  path = files.path(name)
  exported = path / NETWORK_FILE
  is_release = not files.is_remote(path) and exported.is_file() and not Workdir(path).is_begun
  return exported if is_release else path
