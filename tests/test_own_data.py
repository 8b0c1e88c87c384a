"""docs/OWN_DATA.md, followed from the first command to the last."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.environment import jax_environment
from tests.test_main import ROOT

PAGE = (ROOT / "docs" / "OWN_DATA.md").read_text()


def blocks():
  """Yields (language, text) of each block of commands."""
  for language, text in re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
    if language == "python" or re.match(r"python3? ", text):
      yield language or "bash", text


@pytest.mark.slow
def test_the_page_can_be_followed(tmp_path):
  """With fewer steps of training."""
  for name in ("gcn_flax", "data", "configs", "docs"):
    shutil.copytree(ROOT / name, tmp_path / name)
  environment = jax_environment(1)
  environment["PATH"] = f"{os.path.dirname(sys.executable)}:{environment['PATH']}"
  for language, text in blocks():
    text = re.sub(r"--config.total_steps=\d+ --config.optimizer.warmup_steps=\d+", "--config.total_steps=2 --config.optimizer.warmup_steps=0", text)
    start = ["python", "-c"] if language == "python" else ["bash", "-ec"]
    done = subprocess.run([*start, text], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{text}\n{done.stderr}"
  for path in set(re.findall(r"runs/[\w/]+\.\w+", PAGE)) | {"runs/predictions/village_05_overlay.jpg"}:
    assert (tmp_path / path).exists(), path
