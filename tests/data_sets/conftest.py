"""Small copies of the official archives, each prepared once per session."""

import dataclasses
import pathlib

import pytest

from data.prepare import prepare
from tests.data_sets import archives


@dataclasses.dataclass(frozen=True)
class Prepared:
  """Archives, as archive -> file -> content, their folder, and the folder of the prepared data sets."""

  files: dict[str, dict[str, bytes]]
  root: pathlib.Path
  data_dir: str


def prepared(files, datasets, factory):
  root, data_dir = factory.mktemp("archives"), str(factory.mktemp("data"))
  archives.write(root, files)
  for dataset in datasets:
    prepare(dataset, str(root), data_dir, partial=True)
  return Prepared(files, root, data_dir)


@pytest.fixture(scope="session")
def voc(tmp_path_factory):
  return prepared(archives.voc(), ["voc_segmentation"], tmp_path_factory)


@pytest.fixture(scope="session")
def coco(tmp_path_factory):
  return prepared(archives.coco(), ["coco_voc"], tmp_path_factory)


@pytest.fixture(scope="session")
def cityscapes(tmp_path_factory):
  return prepared(archives.cityscapes(), ["cityscapes", "cityscapes_coarse"], tmp_path_factory)
