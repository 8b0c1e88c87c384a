"""Measures how much padding changes the label maps of a trained network, and its mean IoU.

  python benchmarks/padding.py --config=configs/quickstart.py --workdir=runs/quickstart --json=runs/bench_padding.json

Predicts --images evenly spaced images of the validation split on several canvases: the image's own size rounded up
(the rule, `gcn_flax.input_pipeline.canvas`), 32 pixels more on each side, 512 x 512 and 1024 x 1024. Each canvas is
compared with the first one.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import numpy as np  # noqa: E402

from benchmarks import script  # noqa: E402
from gcn_flax import command_line, commands, inference  # noqa: E402
from gcn_flax.evaluation import confusion  # noqa: E402
from gcn_flax.input_pipeline.canvas import canvas_of  # noqa: E402
from gcn_flax.preflight import preflight  # noqa: E402
from gcn_flax.run_data import eval_batches  # noqa: E402
from gcn_flax.search_crf import Subset  # noqa: E402
from gcn_flax.tasks import segmentation  # noqa: E402
from gcn_flax.workdir.trained import load_trained  # noqa: E402
from gcn_flax.workdir.workdir import Workdir  # noqa: E402

MORE = 32  # Pixels.
FIXED = (512, 1024)  # Sides.


def measure(config, trained, source, canvas: tuple[int, ...]) -> tuple[list[np.ndarray], np.ndarray]:
  """Returns the label maps, in the order of the source, and their confusion matrix."""
  config = config.copy_and_resolve_references()
  config.data.eval_size = canvas
  label_maps, matrix = {}, 0
  for example, output in inference.examples(trained.setup, trained.weights, eval_batches(config, source)):
    label, prediction = (segmentation.remove_padding(array, example["size"]) for array in (example["label"], output))
    label_maps[int(example["index"])] = prediction
    matrix = matrix + confusion.confusion_matrix(label, prediction, trained.label_set.num_classes)
  return [label_maps[index] for index in range(len(source))], matrix


def run(config, workdir: Workdir, num_images: int) -> list[dict]:
  """Returns a row for each canvas: its name and size, the mean IoU and the share of changed pixels."""
  data = preflight(config, workdir, split="validation")
  trained = load_trained(config, workdir, "best", data.label_set)
  source = Subset(data.eval_source("validation"), num_images)
  (own,) = {canvas_of(size) for size in source.sizes}
  canvases = {"own size, rounded up": (), f"{MORE} more": tuple(side + MORE for side in own)}
  canvases |= {f"{side} x {side}": (side, side) for side in FIXED if side >= max(own)}
  rows, reference = [], None
  for name, canvas in canvases.items():
    label_maps, matrix = measure(config, trained, source, canvas)
    reference = reference or label_maps
    changed = sum((one != other).sum() for one, other in zip(label_maps, reference, strict=True))
    rows.append(
      {
        "canvas": name,
        "size": list(canvas or own),
        "mean_iou": confusion.mean_iou(matrix),
        "changed": float(changed / sum(label.size for label in label_maps)),
      }
    )
  return rows


if __name__ == "__main__":
  parser = script.parser(__doc__)
  parser.add_argument("--images", type=int, default=24, help="number of images (default: %(default)s)")
  args, rest = parser.parse_known_args()
  config, given = command_line.parse(["padding", "--mode=eval", *rest])
  commands.log_to_stderr()
  machine = script.machine(("jax", "flax", "numpy"))
  print(script.headline(machine))
  rows = run(config, Workdir(given.workdir), args.images)
  print("| canvas | size | mean IoU | changed pixels |\n|---|---|---|---|")
  for row in rows:
    size = " x ".join(map(str, row["size"]))
    print(f"| {row['canvas']} | {size} | {100 * row['mean_iou']:.1f} % | {100 * row['changed']:.2f} % |")
  script.write_json(args.json, {"machine": machine, "images": args.images, "rows": rows})
