"""Evaluation on two hosts equals evaluation on one."""

import json
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests.environment import jax_environment
from tests.runs import build_setup, evaluate_split

ROOT = pathlib.Path(__file__).parent.parent

HOST = """
import json, sys
import jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
import numpy as np
import pytest
from absl import flags
flags.FLAGS.mark_as_parsed()
from configs import camvid
from tests.runs import build_setup, evaluate_split
config = camvid.get_config()
config.update_from_flattened_dict(json.loads(sys.argv[3]))
setup = build_setup(config)
scores = evaluate_split(config, setup, setup.init(3).weights(), "train")
counts = {name: value.tolist() for name, value in scores.counts.items()}
rows = [[row.image_id for row in rows] for rows in (scores.sample, scores.best, scores.worst)]
print("RESULT", json.dumps({"counts": counts, "images": scores.image_metrics.tolist(), "rows": rows}))
"""


@pytest.mark.slow
def test_two_hosts_evaluate_as_one(config, mixed_data_dir):
  """12 images on two canvases, 8 and 4 of them, for 8 devices."""
  config.data.data_dir = mixed_data_dir
  config.eval.flip, config.eval.num_pictures = True, 3
  fields = {
    "data.data_dir": config.data.data_dir, "data.num_threads": 2, "eval.flip": True,
    "eval.num_pictures": 3, "model.kernel_size": 3,
  }  # fmt: skip
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  hosts = [
    subprocess.Popen(
      [sys.executable, "-c", HOST, address, str(index), json.dumps(fields)],
      cwd=ROOT, env=jax_environment(devices=4), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    for index in range(2)
  ]  # fmt: skip
  setup = build_setup(config)
  assert jax.device_count() == 8
  scores = evaluate_split(config, setup, setup.init(3).weights(), "train")
  for host in hosts:
    output, errors = host.communicate(timeout=200)
    assert host.returncode == 0, errors
    found = json.loads(next(line for line in output.splitlines() if line.startswith("RESULT")).removeprefix("RESULT"))
    for name, counts in scores.counts.items():
      np.testing.assert_array_equal(found["counts"][name], counts)
    np.testing.assert_array_equal(found["images"], scores.image_metrics)
    rows = [[row.image_id for row in rows] for rows in (scores.sample, scores.best, scores.worst)]
    assert found["rows"] == rows and [len(part) for part in rows] == [3, 3, 3]
