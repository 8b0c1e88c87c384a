"""A prepared data set whose description is damaged is named, with the command that prepares it again."""

import json
import shutil

import pytest

from data.prepare import main
from gcn_flax.input_pipeline.datasets import Dataset
from tests.test_json_files import RUBBISH

NOT_JSON = ("empty", "binary", "a number", "no keys", "nested")
METADATA = {
  "classes are numbers": {"classes": [1]},
  "a colour is a number": {"palette": [5]},
  "a size is a text": {"largest": {"train": ["64", "96"], "validation": [64, 96]}},
  "no size of a split": {"largest": {"train": [64, 96]}},
  "no format": {"image_format": None},
}


@pytest.fixture
def version(data_dir, tmp_path):
  """The folder of a prepared data set that may be damaged."""
  shutil.copytree(data_dir, tmp_path / "data")
  return next((tmp_path / "data").glob("camvid/*"))


def assert_named(version, path):
  data_dir = version.parent.parent
  with pytest.raises(
    ValueError, match=f"^{path}.*: damaged .*Remove {version} and run: python -m data.prepare"
  ) as caught:
    Dataset("camvid", str(data_dir))
  assert "\n" not in str(caught.value) and f"--data_dir={data_dir}" in str(caught.value)


@pytest.mark.parametrize("name", NOT_JSON)
def test_files_that_are_no_json_are_named(version, name, capfd):
  for file in ("metadata.json", "dataset_info.json", "features.json"):
    before = (version / file).read_bytes()
    (version / file).write_bytes(RUBBISH[name])
    assert_named(version, version / file if name != "no keys" or file == "metadata.json" else version)
    if file != "features.json":  # Which preparation does not read.
      assert main(["--dataset=camvid", f"--data_dir={version.parent.parent}"]) == 1
      errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
      assert len(errors) == 1 and "damaged" in errors[0] and "repeat the same command" in errors[0]
    (version / file).write_bytes(before)


@pytest.mark.parametrize("name", METADATA)
def test_values_of_another_kind_are_named(version, name):
  path = version / "metadata.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | METADATA[name]))
  assert_named(version, path)


@pytest.mark.parametrize("name", ["a?b", "a*", "[a]xb", "a\udcffb"])
def test_a_data_dir_that_is_a_pattern_is_not_prepared(version, name, capfd):
  """TFDS would find the data set beside it."""
  version.parent.parent.rename(version.parent.parent.parent / "axb")
  assert main(["--dataset=camvid", f"--data_dir={version.parent.parent.parent / name}"]) == 1
  (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
  assert "--data_dir=" in line and "Use another folder." in line


def test_a_data_dir_that_is_not_utf_8_is_refused():
  with pytest.raises(ValueError, match=r"data_dir='/a.udcffb': records are read from UTF-8 paths only"):
    Dataset("camvid", "/a\udcffb")


def test_a_missing_file_of_records_is_named(version):
  """Only of a split that is read: others may have been removed to save room."""
  (path,) = version.glob("*-train.array_record*")
  path.unlink()
  dataset = Dataset("camvid", str(version.parent.parent))
  assert len(dataset.source("validation")) == 5
  with pytest.raises(ValueError, match=f"^{path}: missing. Remove {version} and run: python -m data.prepare"):
    dataset.source("train")


def test_missing_features_are_named(version):
  (version / "features.json").unlink()
  assert_named(version, version)
