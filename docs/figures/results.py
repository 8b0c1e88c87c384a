"""Writes the tables of README.md and docs/RESULTS.md that are marked `results:`, and their charts, from docs/runs.

  python docs/figures/results.py

A block begins with `<!-- results: NAME -->` and ends with `<!-- end -->`; its content is that of the function `NAME` in
`BLOCKS`.
"""

import pathlib
import re
import sys
from collections.abc import Callable

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from docs.figures import results_camvid, results_chaos, results_claims, results_pretraining, results_shapes  # noqa: E402

PAGES = ("README.md", "docs/RESULTS.md")
BLOCKS: dict[str, Callable[[], str]] = {
  "claims": results_claims.claims,
  "camvid_gpu": results_camvid.gpu,
  "camvid_gpu_in_short": results_camvid.gpu_in_short,
  "camvid_cpu": results_camvid.cpu,
  "camvid_search": results_camvid.search,
  "shapes_by_seed": results_shapes.by_seed,
  "shapes_by_class": results_shapes.by_class,
  "shapes_table1": results_shapes.table1,
  "shapes_table5": results_shapes.table5,
  "shapes_scoring": results_shapes.scoring,
  "receptive_fields": results_shapes.receptive_fields,
  "pretraining_silhouettes": results_pretraining.silhouettes,
  "pretraining_camvid": results_pretraining.camvid,
  "killed": results_chaos.killed,
}
CHARTS: dict[str, Callable[[], str]] = {
  f"docs/pictures/table{number}_shapes.svg": lambda number=number: results_shapes.chart(number) for number in (1, 5)
}
BLOCK = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
  """Writes the blocks of all pages, and the charts."""
  for page in PAGES:
    path = ROOT / page
    path.write_text(refreshed(path.read_text()))
  for name, chart in CHARTS.items():
    (ROOT / name).write_text(chart())


def refreshed(text: str) -> str:
  """Returns a page with the content of its blocks written anew. Raises KeyError for a block of unknown name."""
  return BLOCK.sub(lambda match: f"{match[1]}{BLOCKS[match[2]]()}{match[3]}", text)


if __name__ == "__main__":
  main()
