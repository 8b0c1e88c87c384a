"""Ablations of the paper: one network for each cell of Tables 1 to 6.

  python launch/ablation.py --table=1 --data=shapes --data_dir=runs/data

trains a whole table, several seeds per cell, and writes it next to the paper's numbers. A single cell:

  python -m gcn_flax.main --config=configs/ablation.py:table1-k15:shapes --workdir=runs/table1_k15

The second part of the argument is the data set, which also decides the recipe to modify:

| data set | recipe | time per cell |
|---|---|---|
| voc_segmentation (the paper's) | configs/pascal_voc.py:ablation | days on one accelerator |
| camvid | configs/camvid.py | half an hour on 2 CPU cores |
| shapes | configs/quickstart.py | two minutes on 2 CPU cores |

| cells | heads | BR |
|---|---|---|
| table1-base, table1-k3 ... table1-k15 | 1 x 1, GCN of 3 to 15 | no |
| table2-gcn-k3 ..., table2-trivial-k3 ... table2-trivial-k9 | GCN and one dense k x k convolution | no |
| table3-gcn-k3 ..., table3-stack-k3 ... table3-stack-k11 | GCN and a stack of 3 x 3 convolutions | no |
| table4-stack-full, -half, -tenth, table4-gcn | k = 7; hidden channels of the stack | no |
| table5-base, table5-gcn, table5-gcn-br | 1 x 1, GCN of 15, the same with BR | last |
| table6-resnet50-base, -gcn-br, table6-resnet50_gcn-base, -gcn-br | 1 x 1, GCN of 15 with BR; two encoders | GCN |

BR is Boundary Refinement. The widths of Table 4 are 2048, 1024 and 210, for the 2048 channels of the paper's res-5;
they are scaled down for smaller encoders. Table 6 needs encoders that are pretrained in the same way:
--config.model.pretrained (docs/WEIGHTS.md). docs/RESULTS.md has the tables for shapes.
"""

from configs import camvid, pascal_voc, quickstart
from gcn_flax import config as config_lib

DATA = ("voc_segmentation", "camvid", "shapes")
_WIDTHS = {"full": 2048, "half": 1024, "tenth": 210}  # Hidden channels in Table 4, for 2048 input channels.


def _cell(head: str, kernel_size: int = 15, width: str = "full", boundary_refine: bool = False, backbone: str = ""):
  return dict(head=head, kernel_size=kernel_size, width=width, boundary_refine=boundary_refine, backbone=backbone)


CELLS = {
  "table1-base": _cell("pointwise"),
  **{f"table1-k{k}": _cell("gcn", k) for k in (3, 5, 7, 9, 11, 13, 15)},
  **{f"table2-{head}-k{k}": _cell(head, k) for head in ("gcn", "trivial") for k in (3, 5, 7, 9)},
  **{f"table3-{head}-k{k}": _cell(head, k) for head in ("gcn", "stack") for k in (3, 5, 7, 9, 11)},
  **{f"table4-stack-{width}": _cell("stack", 7, width) for width in _WIDTHS},
  "table4-gcn": _cell("gcn", 7),
  "table5-base": _cell("pointwise"),
  "table5-gcn": _cell("gcn"),
  "table5-gcn-br": _cell("gcn", boundary_refine=True),
  **{
    f"table6-{backbone}-{name}": _cell(head, boundary_refine=head == "gcn", backbone=backbone)
    for backbone in ("resnet50", "resnet50_gcn")
    for name, head in (("base", "pointwise"), ("gcn-br", "gcn"))
  },
}


def get_config(argument: str = "table1-k15"):
  """Returns the recipe for `CELL` on VOC, as in the paper, or `CELL:DATASET`, such as `table1-k15:shapes`."""
  name, _, data = argument.partition(":")
  data = data or DATA[0]
  config_lib.check_argument(name, CELLS)
  config_lib.check_argument(f"{name}:{data}", [f"{name}:{each}" for each in DATA])
  recipes = {"voc_segmentation": pascal_voc, "camvid": camvid, "shapes": quickstart}
  config = recipes[data].get_config()
  cell, model = CELLS[name], config.model
  model.backbone = cell["backbone"] or model.backbone
  model.head = cell["head"]
  model.kernel_size = cell["kernel_size"]
  model.boundary_refine = cell["boundary_refine"]
  if cell["width"] != "full":
    channels = 128 if model.backbone == "resnet_tiny" else 2048
    model.stack_width = round(_WIDTHS[cell["width"]] * channels / 2048)
  return config
