"""The notebook runs from top to bottom in a clone."""

import pathlib

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
  """In a folder that looks like a clone, so that its data and runs end with the test."""
  for name in ("configs", "data", "gcn_flax"):
    (tmp_path / name).symlink_to(ROOT / name)
  (tmp_path / "docs").mkdir()
  notebook = nbformat.read(ROOT / "docs" / "quickstart.ipynb", as_version=4)
  NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path / "docs")}}).execute()
  outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
  assert sum("image/jpeg" in output.get("data", {}) for output in outputs) == 4
  printed = "".join(output["text"] for output in outputs if output.get("name") == "stdout")
  assert "gcn        mIoU" in printed and "every pixel alike" in printed
