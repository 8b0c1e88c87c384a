"""docs/OWN_DATA.md, followed from the first command to the last."""

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request

import pytest

from tests.environment import jax_environment
from tests.test_main import ROOT

PAGE = (ROOT / "docs" / "OWN_DATA.md").read_text()


def blocks():
  """Yields the program and the text of each block of commands."""
  for language, text in re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
    if language == "python":
      yield ["python", "-c"], text
    elif text.startswith("python "):
      yield ["bash", "-ec"], text


def check_serving(command, cwd, environment):
  """Starts a server, opens the page that it announces, and stops it with Ctrl-C."""
  with subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True) as process:
    try:
      address = next(found[0] for line in process.stdout if (found := re.search(r"http://\S+/", line)))
      assert b"<html" in urllib.request.urlopen(address, timeout=30).read()
      process.send_signal(signal.SIGINT)
      assert process.wait(timeout=30) == 0
    finally:
      process.kill()


@pytest.mark.slow
def test_the_page_can_be_followed(tmp_path):
  """With fewer steps of training."""
  for name in ("gcn_flax", "data", "configs", "docs"):
    shutil.copytree(ROOT / name, tmp_path / name)
  environment = jax_environment(1)
  environment["PATH"] = f"{os.path.dirname(sys.executable)}:{environment['PATH']}"
  for start, text in blocks():
    text = re.sub(r"total_steps=\d+ (\S+=)\d+", r"total_steps=2 \g<1>0", text)  # And no warm-up.
    if "--mode=serve" in text:
      check_serving([*start, f"exec {text.strip()} --port=0"], tmp_path, environment)
      continue
    done = subprocess.run([*start, text], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{text}\n{done.stderr}"
  for path in re.findall(r"`(runs/[\w/.]+)`", PAGE):
    assert (tmp_path / path).exists(), path
