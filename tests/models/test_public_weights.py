"""Addresses of public weights: those of the documentation, of the errors and of the installed torchvision agree."""

import importlib.util
import pathlib
import re

from gcn_flax.models import public_weights
from tests.test_main import ROOT

PAGE = (ROOT / "docs" / "WEIGHTS.md").read_text()


def test_addresses_are_those_of_the_installed_torchvision():
  """Read from its source, because it cannot be imported beside every build of PyTorch; nothing is fetched."""
  package = importlib.util.find_spec("torchvision").submodule_search_locations[0]
  source = (pathlib.Path(package) / "models" / "resnet.py").read_text()
  for backbone in public_weights.BACKBONES:
    table = re.search(
      rf"class {backbone.replace('resnet', 'ResNet')}_Weights\(.*?IMAGENET1K_V1.*?url=\"(.*?)\"", source, re.DOTALL
    )
    assert public_weights.torchvision_command(backbone) == f"curl -LO {table[1]}"


def test_the_documentation_has_the_command_of_each_file():
  commands = set(re.findall(r"curl [^`\n]*", PAGE))
  wanted = [
    command(backbone)
    for backbone in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
    for command in (public_weights.timm_command, public_weights.torchvision_command)
  ]
  assert commands == set(wanted) and len(wanted) == 10
