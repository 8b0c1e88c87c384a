"""Scores a network in several ways and measures receptive fields, on the networks of Table 1 on shapes.

  python docs/figures/shapes_studies.py --root=runs/ablation/shapes

Needs the runs of `launch/ablation.py --table=1 --data=shapes`. Writes shapes_scoring.json and receptive_field.json to
docs/runs, and quickstart.png and receptive_field.jpg to docs/pictures. A few minutes on 2 cores.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import gcn_flax  # noqa: E402
from benchmarks import script  # noqa: E402
from gcn_flax.example_pictures import find_examples  # noqa: E402
from gcn_flax.visualize import overlay, sheets  # noqa: E402
from gcn_flax.workdir.workdir import Workdir  # noqa: E402

RUNS = ROOT / "docs" / "runs"
PICTURES = ROOT / "docs" / "pictures"
SEEDS = range(3)
SCORED = "gcn-k15"
EXPLAINED = ("pointwise", "gcn-k3", "gcn-k7", "gcn-k15")
_FLIP, _SCALES, _CRF = (
  "--config.eval.flip=True", "--config.eval.scales=(0.75,1.0,1.25)", "--config.eval.crf.iterations=10"
)  # fmt: skip
WAYS = {  # The plain one is last: its results stay in the workdir.
  "flip": (_FLIP,),
  "flip, three scales": (_FLIP, _SCALES),
  "CRF, the default parameters": (_CRF,),
  "flip, three scales, CRF": (_FLIP, _SCALES, _CRF),
  "none": (),
}
_METRICS = ("mean_iou", "boundary_accuracy", "boundary_iou")
_NUM_SCENES = 4
_NEAR_A_CORNER = "24,24"


def main(argv: Sequence[str] | None = None) -> None:
  """Runs both studies."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--root", type=pathlib.Path, required=True, metavar="DIR", help="folder of the workdirs")
  root = parser.parse_args(argv).root.resolve()
  script.write_json(RUNS / "shapes_scoring.json", scoring(root))
  script.write_json(RUNS / "receptive_field.json", receptive_fields(root))
  picture = cv2.imread(str(root / EXPLAINED[0] / "seed0" / "explain" / "receptive_field.png"))
  cv2.imwrite(str(PICTURES / "receptive_field.jpg"), picture)
  overlay.save(PICTURES / "quickstart.png", predictions(root))


def scoring(root: pathlib.Path) -> dict[str, Any]:
  """Returns metrics and wall time of one network, evaluated in each of `WAYS`."""
  workdir, rows = root / SCORED / "seed0", {}
  for name, flags in WAYS.items():
    started = time.monotonic()
    _run("eval", workdir, "--checkpoint=last", *flags)
    seconds = time.monotonic() - started
    found = json.loads((workdir / "eval_validation.json").read_text())
    rows[name] = {"seconds": seconds, **{metric: found[metric] for metric in _METRICS}}
  return {"machine": script.machine(("jax", "flax", "pydensecrf2")), "ways": {name: rows[name] for name in _ORDER}}


_ORDER = ("none", *(name for name in WAYS if name != "none"))


def receptive_fields(root: pathlib.Path) -> dict[str, Any]:
  """Returns the receptive fields of four networks and three seeds, at the centre and near a corner."""
  rows, uniform = [], {}
  for pixel in ("centre", _NEAR_A_CORNER):  # The picture of the second one stays.
    for seed in SEEDS:
      first, *others = (root / name / f"seed{seed}" for name in EXPLAINED)
      where = () if pixel == "centre" else (f"--pixel={pixel}",)
      _run("explain", first, "--checkpoint=last", *(f"--other={other}" for other in others), *where)
      found = json.loads((first / "explain" / "receptive_field.json").read_text())
      uniform[pixel] = found["uniform"]
      for name, each in zip(EXPLAINED, found["networks"].values(), strict=True):
        rows.append({"pixel": pixel, "run": name, "seed": seed, **each})
  return {
    "machine": script.machine(("jax", "flax")),
    "pictures": f"{found['num_pictures']} of {found['pictures']}",
    "every_pixel_alike": uniform,
    "rows": rows,
  }


def predictions(root: pathlib.Path) -> np.ndarray:
  """Returns scenes beside their labels and the predictions of 1 x 1 heads and k = 15, RGB uint8 `[H, W, 3]`."""
  workdir = root / SCORED / "seed0"
  ours, baseline = (gcn_flax.load(str(root / name / "seed0"), "last") for name in (SCORED, "pointwise"))
  found = find_examples(ours.config, Workdir(workdir), ours.classes, _NUM_SCENES)
  scenes = [found[index] for index in range(len(found))]
  images = [scene.image for scene in scenes]
  labels = {
    "truth": [scene.label for scene in scenes],
    "1 x 1 heads (the baseline)": baseline.predict(images),
    "k = 15 (GCN)": ours.predict(images),
  }
  columns = [("image", images)]
  columns += [(name, [overlay.colorize(each, ours.palette) for each in maps]) for name, maps in labels.items()]
  return sheets.panel(columns, [scene.name for scene in scenes], [], 200)


def _run(mode: str, workdir: pathlib.Path, *flags: str) -> None:
  command = [sys.executable, "-m", "gcn_flax", f"--mode={mode}", f"--workdir={workdir}", *flags]
  subprocess.run(command, check=True, cwd=ROOT)


if __name__ == "__main__":
  main()
