"""Results published in the paper, "Large Kernel Matters" (Peng et al., CVPR 2017), arXiv 1703.02719.

All numbers are the paper's; none was measured here. Its networks start from a ResNet-152 trained on ImageNet, except
in Table 6. Tables 6 and 7 do not state k: 15 is assumed, as in the paper's other runs on VOC.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Figure:
  """A number printed in one of the paper's tables.

  Attributes:
    table: number of the table.
    row: description of the network and its evaluation.
    value: percent.
    cell: name of the same run in `configs/ablation.py`; "" if it is not an ablation.
    measure: key of the metric in `eval_<split>.json`.
    dataset, split: evaluation data.
    head, kernel_size, boundary_refine, stack_width, backbone: fields of `config.model`. `kernel_size` is 0 where the
      head has none, `stack_width` 0 for as many channels as the head's input.
    stage: stage of training, 1 to 3; 0 for the ablations.
    multi_scale: uses multi-scale test-time augmentation.
    crf: uses dense CRF post-processing.
  """

  table: int
  row: str
  value: float
  cell: str = ""
  measure: str = "mean_iou"
  dataset: str = "voc_segmentation"
  split: str = "validation"
  head: str = "gcn"
  kernel_size: int = 15
  boundary_refine: bool = False
  stack_width: int = 0
  backbone: str = "resnet152"
  stage: int = 0
  multi_scale: bool = False
  crf: bool = False


def _by_kernel(table: int, head: str, name: str, values: dict[int, float]) -> list[Figure]:
  return [
    Figure(table, f"{name}, k = {k}", value, f"table{table}-{head}-k{k}", head=head, kernel_size=k)
    for k, value in values.items()
  ]


_TABLE1 = {3: 70.1, 5: 71.1, 7: 72.8, 9: 73.4, 11: 73.7, 13: 74.0, 15: 74.5}
_BASE = dict(head="pointwise", kernel_size=0)
_BR = dict(boundary_refine=True)
_TABLE5 = {
  "base": ("1 x 1", _BASE, 71.3, 93.9, 69.0),
  "gcn": ("GCN, k = 15", {}, 71.5, 95.0, 74.5),
  "gcn-br": ("GCN, k = 15, with BR", _BR, 73.4, 95.1, 74.7),
}
_TABLE6 = {
  "resnet50-base": ("ResNet-50, 1 x 1", _BASE, 65.7),
  "resnet50_gcn-base": ("ResNet50-GCN, 1 x 1", _BASE, 71.2),
  "resnet50-gcn-br": ("ResNet-50, GCN with BR", _BR, 72.3),
  "resnet50_gcn-gcn-br": ("ResNet50-GCN, GCN with BR", _BR, 72.5),
}
_CITYSCAPES = dict(dataset="cityscapes", kernel_size=25, boundary_refine=True)

FIGURES = (
  Figure(1, "1 x 1", 69.0, "table1-base", **_BASE),
  *(Figure(1, f"GCN, k = {k}", value, f"table1-k{k}", kernel_size=k) for k, value in _TABLE1.items()),
  *_by_kernel(2, "gcn", "GCN", {k: _TABLE1[k] for k in (3, 5, 7, 9)}),
  *_by_kernel(2, "trivial", "k x k convolution", {3: 69.8, 5: 70.4, 7: 69.6, 9: 68.8}),
  *_by_kernel(3, "gcn", "GCN", {k: _TABLE1[k] for k in (3, 5, 7, 9, 11)}),
  *_by_kernel(3, "stack", "stack of 3 x 3", {3: 69.8, 5: 71.8, 7: 71.3, 9: 69.5, 11: 67.5}),
  *(
    Figure(
      4, f"stack of 3 x 3, k = 7, {width} channels", value, f"table4-stack-{name}", head="stack", kernel_size=7,
      stack_width=0 if name == "full" else width,
    )
    for name, width, value in (("full", 2048, 71.3), ("half", 1024, 70.4), ("tenth", 210, 68.8))
  ),
  Figure(4, "GCN, k = 7", 72.8, "table4-gcn", kernel_size=7),
  *(
    Figure(5, row, value, f"table5-{name}", measure, **network)
    for name, (row, network, *values) in _TABLE5.items()
    for measure, value in zip(("boundary_accuracy", "internal_accuracy", "mean_iou"), values, strict=True)
  ),
  *(
    Figure(6, row, value, f"table6-{name}", backbone=name.partition("-")[0], **network)
    for name, (row, network, value) in _TABLE6.items()
  ),
  *(  # The paper prints the error, 7.7 and 7.9.
    Figure(
      6, f"{row}, ImageNet, centre crop of 224", value, measure="top5", dataset="imagenet2012", head="classifier",
      kernel_size=0, backbone=backbone,
    )
    for row, backbone, value in (("ResNet-50", "resnet50", 92.3), ("ResNet50-GCN", "resnet50_gcn", 92.1))
  ),
  *(
    Figure(7, f"{name}, stage {stage}", value, stage=stage, **network)
    for name, network, values in (
      ("1 x 1", _BASE, (69.6, 72.4, 74.0)), ("GCN", {}, (74.1, 77.6, 78.7)), ("GCN with BR", _BR, (75.0, 78.6, 80.3)),
    )
    for stage, value in enumerate(values, 1)
  ),
  Figure(7, "GCN with BR, stage 3, multi-scale", 80.4, stage=3, multi_scale=True, **_BR),
  Figure(7, "GCN with BR, stage 3, multi-scale, dense CRF", 81.0, stage=3, multi_scale=True, crf=True, **_BR),
  Figure(9, "GCN with BR, stage 1", 73.0, stage=1, **_CITYSCAPES),
  Figure(9, "GCN with BR, stage 2", 76.9, stage=2, **_CITYSCAPES),
  Figure(9, "GCN with BR, stage 2, multi-scale", 77.2, stage=2, multi_scale=True, **_CITYSCAPES),
  Figure(9, "GCN with BR, stage 2, multi-scale, dense CRF", 77.4, stage=2, multi_scale=True, crf=True, **_CITYSCAPES),
)  # fmt: skip


def matches(figure: Figure, settings: Mapping[str, Any]) -> bool:
  """Returns True if a run has the encoder, heads, training stage, scales and CRF of a figure.

  Number of steps, learning rates and initial weights are not compared: the paper does not state most of them.

  Args:
    figure: figure of the paper.
    settings: settings of the run, nested as its config.
  """
  model, evaluation = settings["model"], settings["eval"]
  return (
    (figure.head, figure.backbone) == (model["head"], model["backbone"])
    and (figure.head == "classifier" or figure.boundary_refine == model["boundary_refine"])
    and figure.kernel_size in (0, model["kernel_size"])
    and (figure.head != "stack" or figure.stack_width == model["stack_width"])
    and figure.stage == stage_of(settings)
    and (figure.multi_scale, figure.crf) == (len(evaluation["scales"]) > 1, evaluation["crf"]["iterations"] > 0)
  )


def stage_of(settings: Mapping[str, Any]) -> int | None:
  """Returns the paper's training stage for a run's training data and initial weights: 1 to 3, 0 for the ablations.

  None if the paper has no such training.
  """
  data = {f"{dataset} {split}" for dataset, split, _ in settings["data"]["train_mix"]}
  continued = bool(settings["init_from"])
  if any(name.startswith(("coco_voc", "cityscapes_coarse")) for name in data):
    return 1
  stages = {
    ("voc_segmentation train_aug", False): 0,
    ("voc_segmentation train_aug", True): 2,
    ("voc_segmentation train", True): 3,
    ("cityscapes train", True): 2,
    ("imagenet2012 train", False): 0,
  }
  return stages.get((" ".join(sorted(data)), continued))
