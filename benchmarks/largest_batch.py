"""Finds the largest batches that fit GPUs of 24, 40 and 80 GB: planned, and measured where there is a GPU.

    python benchmarks/largest_batch.py --json=runs/largest_batch.json

For ResNet-50 and -152 with k = 15, 21 classes, bfloat16, at 512 x 512 and 800 x 800, in the share of the memory that
JAX takes. Planned: as `--mode=plan --batch=auto` does, from the jaxpr. Measured: by `benchmarks/step.py`, a process for
each batch tried, from the largest planned one on.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # This process only asks for the name of the GPU.

import jax  # noqa: E402

from benchmarks import script, timing  # noqa: E402
from configs import pascal_voc  # noqa: E402
from gcn_flax import distributed  # noqa: E402
from gcn_flax.planning import plan  # noqa: E402

CARDS = {"24 GB (rtx4090)": "rtx4090:1", "40 GB (a100)": "a100:1", "80 GB (h100)": "h100:1"}
ENCODERS = ("resnet50", "resnet152")
SIZES = (512, 800)
_SHARE = 1.1  # Step of the search upwards.


def planned(backbone: str, size: int, topology: str) -> int:
  """Returns the largest batch that fits by the plan; 0 if not even one example does."""
  config = pascal_voc.get_config("ablation")
  config.data.crop_size, config.model.backbone, config.model.dtype = (size, size), backbone, "bfloat16"
  with tempfile.TemporaryDirectory() as workdir:
    found = plan.run(config, workdir, topology, batch="auto")
  return found["batch_per_group"] if found["fits"] else 0


def measured(fits: Callable[[int], bool], start: int) -> int:
  """Returns the largest batch that fits, to a tenth: searched upwards from `start`, downwards if that does not fit."""
  batch = max(1, start)
  while batch and not fits(batch):
    batch = int(batch / _SHARE)
  while batch and fits(larger := max(batch + 1, int(batch * _SHARE))):
    batch = larger
  return batch


def step_fits(backbone: str, size: int, batch: int) -> bool:
  """Returns whether a train step runs on the GPU of this machine."""
  command = [
    sys.executable, str(ROOT / "benchmarks" / "step.py"), "--rivals=ours", "--kinds=train", "--repeats=1",
    f"--backbone={backbone}", f"--size={size}", f"--batch={batch}", "--dtype=bfloat16",
  ]  # fmt: skip
  environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "true"}  # Takes the share that training takes.
  return not subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL).returncode


def main() -> None:
  """Prints the Markdown table and writes the JSON file."""
  distributed.skip_libtpu()
  args = script.parser("Finds the largest batches that fit GPUs.").parse_args()
  machine = script.machine(("jax", "jaxlib", "flax"))
  print(script.headline(machine), flush=True)
  device = jax.devices()[0]
  rows = {}
  for backbone in ENCODERS:
    for size in SIZES:
      row = {name: planned(backbone, size, topology) for name, topology in CARDS.items()}
      if device.platform == "gpu":
        row[f"measured: {device.device_kind}"] = measured(
          lambda batch, setting=(backbone, size): step_fits(*setting, batch), max(row.values())
        )
      rows[f"{backbone}, {size} x {size}"] = row
      print(f"{backbone}, {size} x {size}: {row}", flush=True)
      script.write_json(args.json, {"machine": machine, "largest_batch": rows})
  header = ("images on a GPU of", *next(iter(rows.values())))
  print(timing.table(header, [(name, *map(str, row.values())) for name, row in rows.items()]))


if __name__ == "__main__":
  main()
