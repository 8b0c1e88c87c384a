"""The cells of the paper's Tables 1 to 6, one name for each.

  python launch/ablation.py --table=1 --data=shapes --data_dir=runs/data

trains a whole table, several seeds of each cell, and writes it beside the paper's figures. One cell alone:

  python -m gcn_flax.main --config=configs/ablation.py:table1-k15:shapes --workdir=runs/table1_k15

The second part of the argument is the data set, and with it the recipe that the cell changes:

| data | recipe | what it takes |
|---|---|---|
| voc_segmentation (as in the paper) | configs/pascal_voc.py:ablation | days on one accelerator for each cell |
| camvid | configs/camvid.py | half an hour for each cell on a laptop's CPU |
| shapes | configs/quickstart.py | two minutes for each cell on a laptop's CPU |

| cells | heads | BR |
|---|---|---|
| table1-base, table1-k3 ... table1-k15 | 1 x 1, GCN of 3 to 15 | no |
| table2-gcn-k3 ..., table2-trivial-k3 ... table2-trivial-k9 | GCN and one dense k x k convolution | no |
| table3-gcn-k3 ..., table3-stack-k3 ... table3-stack-k11 | GCN and a stack of 3 x 3 convolutions | no |
| table4-stack-full, -half, -tenth, table4-gcn | k = 7; channels inside the stack | no |
| table5-base, table5-gcn, table5-gcn-br | 1 x 1, GCN of 15, the same with BR | last |
| table6-resnet50-base, -gcn-br, table6-resnet50_gcn-base, -gcn-br | 1 x 1, GCN of 15 with BR; two encoders | GCN |

Table 4's widths are 2048, 1024 and 210 of the 2048 channels of the paper's res-5; a smaller encoder's shrink alike.
Table 6 wants encoders pretrained alike: --config.model.pretrained (docs/WEIGHTS.md).
"""

from configs import camvid, pascal_voc, quickstart

DATA = ("voc_segmentation", "camvid", "shapes")
_WIDTHS = {"full": 2048, "half": 1024, "tenth": 210}  # Of 2048; the paper's Table 4.


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
  """A cell of a table, and after a colon the data set: `table1-k15:shapes`; the paper's unless told."""
  name, _, data = argument.partition(":")
  data = data or DATA[0]
  if name not in CELLS or data not in DATA:
    raise ValueError(
      f"configs/ablation.py:{argument} is unknown; choose a cell of {', '.join(CELLS)}, and after a colon one of "
      f"{', '.join(DATA)}."
    )
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
