"""Servers in processes of their own, and how tests talk to them."""

import contextlib
import io
import json
import pathlib
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
from PIL import Image

from tests.environment import jax_environment
from tests.test_main import ROOT

# Runs the command line with a network that waits while a file exists, and then fails with what stands in another.
GATED = """
import os, sys, time
from gcn_flax.segmenter import Segmenter
gate, fault, original = *sys.argv[1:3], Segmenter.predict
def predict(self, image):
  while os.path.exists(gate):
    time.sleep(0.01)
  if os.path.exists(fault):
    raise RuntimeError(open(fault).read())
  return original(self, image)
Segmenter.predict = predict
from gcn_flax.main import main
sys.exit(main(["gcn_flax", *sys.argv[3:]]))
"""


class Server:
  """A running server: its process, address, and the folder that it was started in."""

  def __init__(self, process, folder):
    self.process, self.folder = process, folder
    line = process.stdout.readline()
    found = re.search(r"http://([\d.]+):(\d+)/", line)
    assert found, line + (folder / "log").read_text()
    self.address, self.host, self.port = found[0], found[1], int(found[2])

  @property
  def log(self):
    return (self.folder / "log").read_text()

  def ask(self, path, data=None, **headers):
    """Returns (status, headers, body) of an answer."""
    request = urllib.request.Request(
      self.address + path, data, {name.replace("_", "-"): value for name, value in headers.items()}
    )
    try:
      with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
      return error.code, error.headers, error.read()

  def health(self):
    return json.loads(self.ask("health")[2])

  def stop(self, number):
    """Sends a signal, and returns (exit status, what was printed, log)."""
    self.process.send_signal(number)
    printed = self.process.communicate(timeout=60)[0]
    return self.process.returncode, printed, self.log


@contextlib.contextmanager
def serving(workdir, folder, *flags, script=(), **variables):
  """Starts `--mode=serve` in an empty folder; its log is beside that. Variables are those of the environment."""
  (folder / "empty").mkdir()
  command = [
    sys.executable,
    *(script or ("-m", "gcn_flax")),
    "--mode=serve",
    f"--workdir={workdir}",
    "--port=0",
    *flags,
  ]
  environment = jax_environment(1) | {"PYTHONPATH": str(ROOT), "HOME": str(folder / "empty"), **variables}
  with open(folder / "log", "w") as log:
    process = subprocess.Popen(
      command, cwd=folder / "empty", env=environment, stdout=subprocess.PIPE, stderr=log, text=True
    )
  try:
    yield Server(process, folder)
  finally:
    process.kill()
    process.wait()


def until(condition, seconds=30):
  """Waits until a condition holds."""
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.02)


def png(height, width, seed=0):
  """Returns the PNG of a picture of coloured noise."""
  return encoded(Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)), "PNG")


def encoded(image, kind, **options):
  """Returns the file of a Pillow image."""
  content = io.BytesIO()
  image.save(content, kind, **options)
  return content.getvalue()


def snapshot(folder: pathlib.Path):
  """Returns path, size and time of change of all that is in a folder."""
  return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))}
