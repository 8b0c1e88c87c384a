"""The paper's results, and the runs they are compared with."""

import pytest

from configs import ablation, cityscapes, pascal_voc
from gcn_flax.reporting import paper, report

ABLATIONS = [figure for figure in paper.FIGURES if figure.cell]


def matched(config):
  return [(figure.table, figure.row) for figure in paper.FIGURES if paper.matches(figure, config.to_dict())]


def test_every_ablation_has_a_config():
  cells = [figure.cell for figure in paper.FIGURES if figure.table <= 6 and figure.dataset != "imagenet2012"]
  assert set(cells) == set(ablation.CELLS)


@pytest.mark.parametrize("cell", dict.fromkeys(figure.cell for figure in ABLATIONS))
def test_ablation_configs_match_their_figures(cell):
  config = ablation.get_config(cell)
  for figure in (figure for figure in ABLATIONS if figure.cell == cell):
    assert (config.model.head, config.model.boundary_refine) == (figure.head, figure.boundary_refine)
    assert figure.kernel_size in (0, config.model.kernel_size) and f"table{figure.table}-" in cell
    assert (figure.table, figure.row) in matched(config)


def test_runs_match_no_other_figures():
  assert matched(ablation.get_config("table4-stack-half")) == [(4, "stack of 3 x 3, k = 7, 1024 channels")]
  assert matched(ablation.get_config("table6-resnet50_gcn-gcn-br")) == [(6, "ResNet50-GCN, GCN with BR")]
  assert matched(ablation.get_config("table1-k15:shapes")) == []
  assert matched(pascal_voc.get_config("stage1")) == [(7, "GCN with BR, stage 1")]
  assert matched(cityscapes.get_config()) == []
  assert matched(cityscapes.get_config("stage2")) == [(9, "GCN with BR, stage 2")]


def test_scales_and_crf_select_the_figure():
  stage3 = pascal_voc.get_config("stage3")
  assert matched(stage3) == [(7, "GCN with BR, stage 3")]
  stage3.eval.scales = (0.75, 1.0)
  assert matched(stage3) == [(7, "GCN with BR, stage 3, multi-scale")]
  stage3.eval.crf.iterations = 10
  assert matched(stage3) == [(7, "GCN with BR, stage 3, multi-scale, dense CRF")]


def test_no_rows_for_data_that_the_paper_does_not_use():
  settings = ablation.get_config("table1-base").to_dict()
  assert report.paper_rows(settings, {"dataset": "shapes", "split": "validation"}) == []
