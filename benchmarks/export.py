"""Compares the exported files of a network with the network: equal labels on many sizes, and images a second.

  python -m gcn_flax --mode=export --workdir=runs/quickstart
  python benchmarks/export.py --workdir=runs/quickstart --json=runs/bench_export.json

Labels are compared on --pictures cuts of different sizes of the run's own pictures (`WORKDIR/samples`). Speed is for
one picture of --size at a time, from uint8 pixels to the label map and the probabilities in NumPy.
"""

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import numpy as np  # noqa: E402

import gcn_flax  # noqa: E402
from benchmarks import script, timing  # noqa: E402
from gcn_flax.exporting import agreement  # noqa: E402
from gcn_flax.input_pipeline import pictures  # noqa: E402
from gcn_flax.segmenter import Segmenter  # noqa: E402
from gcn_flax.workdir.samples import sample_pictures  # noqa: E402
from gcn_flax.workdir.workdir import Workdir  # noqa: E402

MIN_SIDE = 40  # Pixels, of a cut.
ONE_VIEW = {"eval.scales": (1.0,), "eval.flip": False, "eval.tile": (), "eval.crf.iterations": 0}


def open_runtimes(folder: pathlib.Path) -> dict[str, agreement.Runtime]:
  """Returns the runtime of each exported file; those whose library is missing are left out."""
  found = {
    "StableHLO, JAX": agreement.stablehlo_runtime((folder / "network.stablehlo").read_bytes()),
    "ONNX, ONNX Runtime": agreement.onnx_runtime((folder / "network.onnx").read_bytes()),
    "PyTorch file": agreement.torch_runtime(folder),
  }
  return {name: runtime for name, runtime in found.items() if runtime}


def cut(images: list[np.ndarray], count: int) -> list[np.ndarray]:
  """Returns cuts of random sizes, at random places, of the pictures in turn."""
  rng, cuts = np.random.default_rng(0), []
  for index in range(count):
    image = images[index % len(images)]
    height, width = (int(rng.integers(MIN_SIDE, side + 1)) for side in image.shape[:2])
    top, left = (
      int(rng.integers(side - length + 1)) for side, length in zip(image.shape, (height, width), strict=False)
    )
    cuts.append(np.ascontiguousarray(image[top : top + height, left : left + width]))
  return cuts


def rivals(model: Segmenter, runtimes: dict[str, agreement.Runtime], size: int) -> dict:
  """Returns functions that predict one picture, by name."""
  image = np.random.default_rng(0).integers(0, 256, (size, size, 3)).astype(np.uint8)

  def of_file(runtime):
    return lambda: runtime(image[None])

  return {"gcn_flax": lambda: model.probabilities(image)} | {name: of_file(each) for name, each in runtimes.items()}


def run(args: argparse.Namespace) -> list[dict]:
  """Returns a row for the network and for each file: agreement and images a second."""
  workdir = Workdir(args.workdir)
  model, runtimes = gcn_flax.load(workdir.path, overrides=ONE_VIEW), open_runtimes(workdir / "export")
  cuts = cut(list(map(pictures.read_picture, sample_pictures(workdir))), args.pictures)
  times = timing.summarize(timing.interleave(rivals(model, runtimes, args.size), args.repeats))
  found = agreement.compare(runtimes, ((model.pad(image), model.probabilities(image)) for image in cuts))
  rows = [{"name": "gcn_flax", "images_per_second": 1 / times["gcn_flax_s"]}]
  for name in runtimes:
    rows.append({"name": name, "images_per_second": 1 / times[f"{name}_s"], **vars(found[name])})
  return rows


def table(rows: list[dict]) -> str:
  """Returns the rows as a Markdown table."""
  lines = []
  for row in rows:
    equal = f"{100 * row['equal_labels']:.4f} %" if "equal_labels" in row else ""
    largest = f"{row['largest_difference']:.1e}" if "equal_labels" in row else ""
    lines.append((row["name"], f"{row['images_per_second']:.2f}", equal, largest))
  return timing.table(("", "images/s", "equal labels", "largest difference of a probability"), lines)


if __name__ == "__main__":
  parser = script.parser(__doc__)
  parser.add_argument("--workdir", required=True, help="workdir with an export and samples")
  parser.add_argument("--pictures", type=int, default=20, help="pictures to compare on (default: %(default)s)")
  parser.add_argument("--size", type=int, default=512, help="side of the picture that is timed (default: %(default)s)")
  parser.add_argument("--repeats", type=int, default=7, help="rounds of timing (default: %(default)s)")
  args = parser.parse_args()
  machine = script.machine(("jax", "onnxruntime", "torch", "numpy"))
  print(script.headline(machine))
  rows = run(args)
  print(table(rows))
  script.write_json(args.json, {"machine": machine, "rows": rows})
