"""Preparation is all or nothing and writes each data set once; sources read it back as train ids."""

import fcntl
import json
import os
import re
import subprocess
import sys
import types

import cv2
import numpy as np
import pytest
from array_record.python import array_record_module
from PIL import Image

from data.faults import wrong_values
from data.prepare import main, prepare
from gcn_flax.input_pipeline.datasets import Dataset, dataset_folder, is_prepared, open_label_set, open_source
from gcn_flax.input_pipeline.examples import decode_image, decode_label
from gcn_flax.labels import CAMVID, DATASETS
from tests.conftest import write_street
from tests.data_sets.archives import blocks, jpeg, picture, png
from tests.data_sets.checks import by_id, error_lines, faults, files_in, stored_pictures
from tests.data_sets.folders import SHAPE, write_files, write_folder

PHOTO = picture(np.random.default_rng(20), SHAPE)
DEEP = PHOTO[..., 0].astype(np.uint16)


def times(folder):
  return {path: os.stat(path).st_mtime_ns for path in files_in(folder)}


def test_a_source_returns_the_images_and_masks(street, data_dir):
  source = open_source("camvid", "validation", data_dir)
  examples = by_id(source)
  assert sorted(examples) == [f"val{index}" for index in range(5)]
  for name, example in examples.items():
    image = cv2.imread(str(street / "images/val" / f"{name}.png"))[..., ::-1]
    mask = cv2.imread(str(street / "masks/val" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
    assert example["image"].dtype == example["label"].dtype == np.uint8
    np.testing.assert_array_equal(example["image"], image)
    np.testing.assert_array_equal(example["label"], mask)
  assert source.has_labels and source.label_set is CAMVID
  assert len(list(source)) == 5 and source[-1]["image_id"] == source[4]["image_id"]
  assert Dataset("camvid", data_dir).splits == {"train": 12, "validation": 5}


def test_preparing_again_changes_nothing(street, data_dir, capsys):
  before = times(data_dir)
  prepare("camvid", str(street), data_dir, partial=True)
  assert before == times(data_dir) and before
  output = capsys.readouterr().out
  assert "is already prepared" in output and "PARTIAL: 367 published" in output


def test_a_prepared_data_set_does_not_need_the_downloads(data_dir, capsys):
  assert main(["--dataset=camvid", f"--data_dir={data_dir}"]) == 0
  assert "is already prepared" in capsys.readouterr().out


def test_unpublished_counts_are_rejected_unless_partial(street, data_dir, tmp_path, capfd):
  (line,) = faults(capfd, "camvid", street, tmp_path / "data")
  assert "train 12 instead of 367, validation 5 instead of 101" in line and "--partial" in line
  assert not (tmp_path / "data").exists()
  assert Dataset("camvid", data_dir).partial == ["train 12 instead of 367", "validation 5 instead of 101"]
  (version,) = dataset_folder("camvid", data_dir).glob("*.*.*")
  metadata = json.loads((version / "metadata.json").read_text())
  assert metadata["partial"] == Dataset("camvid", data_dir).partial
  assert metadata["counts"] == {
    "train": 12,
    "validation": 5,
  }


def test_camvid_accepts_only_its_own_classes(tmp_path, capfd):
  write_street(tmp_path, "train", 3, seed=1)
  write_street(tmp_path, "val", 2, seed=2)
  cv2.imwrite(str(tmp_path / "masks/train/train1.png"), np.full((64, 96), 12, np.uint8))
  assert faults(capfd, "camvid", tmp_path, tmp_path / "data", "--partial") == [
    f"{tmp_path}/masks/train/train1.png contains the values 12. Allowed are 0 to 11 and 255."
  ]


def test_unknown_data_sets_and_splits_are_rejected_with_the_known_ones(tmp_path, capfd, data_dir):
  (line,) = faults(capfd, "voc", tmp_path, tmp_path / "data")
  assert line == f"data set 'voc': unknown. Use one of {', '.join(DATASETS)}."
  with pytest.raises(ValueError, match="'voc': unknown. Use one of"):
    open_source("voc", "train", str(tmp_path))
  with pytest.raises(ValueError, match="no split 'val'. Use one of train, validation"):
    open_source("camvid", "val", data_dir)


def test_a_data_set_that_is_not_prepared_is_rejected_with_the_command(tmp_path):
  for dataset in ("camvid", "folder", "cityscapes_coarse"):
    with pytest.raises(ValueError, match=f"not prepared .* run: python -m data.prepare --dataset={dataset}"):
      open_source(dataset, "train", str(tmp_path))
  assert not is_prepared("camvid", str(tmp_path)) and open_label_set("camvid", str(tmp_path)) is CAMVID
  with pytest.raises(ValueError, match="'folder' is not prepared"):
    open_label_set("folder", str(tmp_path))


def test_broken_stored_data_is_rejected_with_its_name():
  for broken in (b"", b"no picture", png(PHOTO)[:99]):
    with pytest.raises(ValueError, match="photo7: the image cannot be decoded"):
      decode_image(broken, "photo7")
  for broken, found in ((b"", "nothing"), (png(PHOTO), "uint8 (42, 56, 3)"), (png(DEEP), "uint16 (42, 56)")):
    with pytest.raises(ValueError, match="photo7: the label must decode to uint8 .* not to " + re.escape(found)):
      decode_label(broken, "photo7")


def test_buckets_are_rejected(street, tmp_path, capsys):
  assert main(["--dataset=camvid", f"--manual_dir={street}", "--data_dir=gs://bucket/data"]) == 1
  (line,) = error_lines(capsys.readouterr().err)
  assert "--data_dir='gs://bucket/data': must be a local path" in line
  with pytest.raises(ValueError, match="local paths only"):
    open_source("camvid", "train", "gs://bucket/data")


@pytest.fixture
def mixed_formats(tmp_path):
  """A folder whose images a and d are JPEG, c is BMP, and the rest PNG."""
  root = write_folder(tmp_path / "mine")
  for split, name in (("train", "a"), ("val", "d")):
    (root / f"images/{split}/{name}.png").unlink()
    write_files(root, {f"images/{split}/{name}.jpg": jpeg(PHOTO if name == "a" else 255 - PHOTO)})
  Image.open(root / "images/train/c.png").save(root / "images/train/c.bmp")
  (root / "images/train/c.png").unlink()
  return root


def test_as_jpeg_only_other_formats_are_encoded_again(mixed_formats, tmp_path):
  data_dir = str(tmp_path / "data")
  prepare("folder", str(mixed_formats), data_dir, image_format="jpeg")
  stored = stored_pictures("folder", "train", data_dir)
  assert stored["a"] == (mixed_formats / "images/train/a.jpg").read_bytes()
  examples = by_id(open_source("folder", "train", data_dir))
  for name in ("b.png", "c.bmp"):
    assert stored[name[0]].startswith(b"\xff\xd8\xff")
    original = np.asarray(Image.open(mixed_formats / "images/train" / name), int)
    error = np.abs(examples[name[0]]["image"] - original)
    assert 0 < error.mean() < 4
  for name, example in examples.items():
    np.testing.assert_array_equal(example["label"], np.asarray(Image.open(mixed_formats / f"masks/train/{name}.png")))


def test_as_original_jpeg_and_png_are_stored_byte_for_byte(mixed_formats, tmp_path):
  data_dir = str(tmp_path / "data")
  prepare("folder", str(mixed_formats), data_dir)
  stored = stored_pictures("folder", "train", data_dir)
  for name in ("a.jpg", "b.png"):
    assert stored[name[0]] == (mixed_formats / "images/train" / name).read_bytes()
  assert stored["c"].startswith(b"\x89PNG")


@pytest.mark.parametrize("first, then", [("original", "jpeg"), ("jpeg", "original")])
def test_a_prepared_data_set_in_another_format_is_rejected(mixed_formats, tmp_path, capsys, first, then):
  arguments = ["--dataset=folder", f"--manual_dir={mixed_formats}", f"--data_dir={tmp_path / 'data'}"]
  assert main([*arguments, f"--image_format={first}"]) == 0
  before = times(tmp_path / "data")
  assert main([*arguments, f"--image_format={first}"]) == 0
  capsys.readouterr()
  assert main([*arguments, f"--image_format={then}"]) == 1
  (line,) = error_lines(capsys.readouterr().err)
  assert f"--image_format={then}: " in line and f"was prepared with {first}. Remove that folder" in line
  assert before == times(tmp_path / "data")


def test_an_interrupted_preparation_is_no_data_set_and_is_removed_by_the_next(tmp_path, capsys):
  root, data_dir = write_folder(tmp_path / "mine"), str(tmp_path / "data")
  prepare("folder", str(root), data_dir)
  remains = tmp_path / "data/folder/incomplete.ABC123_1.0.0"
  (tmp_path / "data/folder/1.0.0").rename(remains)
  assert not is_prepared("folder", data_dir)
  with pytest.raises(ValueError, match="not prepared"):
    open_source("folder", "train", data_dir)
  prepare("folder", str(root), data_dir)
  assert not remains.exists() and f"removing {remains}" in capsys.readouterr().out
  assert Dataset("folder", data_dir).splits == {"train": 3, "validation": 2}


def full_disk(error, after):
  """Returns a stand-in for the array_record module, whose writer raises `error` after `after` records."""

  class Writer(array_record_module.ArrayRecordWriter):
    left = after

    def write(self, record):
      if not self.left:
        raise error
      self.left -= 1
      super().write(record)

  return types.SimpleNamespace(ArrayRecordWriter=Writer)


FULL_DISK = {
  "of the system": OSError(28, "No space left on device"),
  "of array_record": RuntimeError("INTERNAL: no space;\nshort write"),
}


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("error", FULL_DISK.values(), ids=FULL_DISK)
def test_a_full_disk_is_reported_in_one_line_and_leaves_nothing(tmp_path, monkeypatch, capfd, error, after):
  root, data_dir = write_folder(tmp_path / "mine"), tmp_path / "data"
  with monkeypatch.context() as patch:
    patch.setattr("tensorflow_datasets.core.file_adapters.array_record_module", full_disk(error, after))
    (line,) = faults(capfd, "folder", root, data_dir)
  assert " ".join(str(error).split()) in line and " GB are free" in line and "Nothing was kept" in line
  assert not is_prepared("folder", str(data_dir))
  prepare("folder", str(root), str(data_dir))
  assert Dataset("folder", str(data_dir)).splits == {"train": 3, "validation": 2}


_LIMITED = """
import resource, signal, sys
from data.prepare import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
sys.exit(main(sys.argv[1:]))
"""


def test_a_failed_write_is_reported_in_one_line_and_leaves_nothing(tmp_path):
  """A limit on the size of files stands in for a full disk."""
  root, data_dir = write_folder(tmp_path / "mine"), tmp_path / "data"
  noise = np.random.default_rng(30).integers(0, 256, (100, 100, 3)).astype(np.uint8)
  mask = png(blocks(np.random.default_rng(31), (100, 100), range(19)))
  files = {f"images/train/noise{turn}.png": png(np.rot90(noise, turn)) for turn in range(4)}
  write_files(root, files | {f"masks/train/noise{turn}.png": mask for turn in range(4)})
  arguments = ["--dataset=folder", f"--manual_dir={root}", f"--data_dir={data_dir}"]
  environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
  command = [sys.executable, "-c", _LIMITED, *arguments]
  run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
  assert run.returncode == 1, run.stderr
  (line,) = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
  assert " GB are free" in line and "Traceback" not in run.stderr
  assert files_in(data_dir) == [] and not is_prepared("folder", str(data_dir))
  assert main(arguments) == 0
  assert Dataset("folder", str(data_dir)).splits == {"train": 7, "validation": 2}


def test_allowed_values_are_formatted_as_ranges():
  assert wrong_values("m.png", [9, 34], [0, 1, 2, 5, 7, 8, 255]) == (
    "m.png contains the values 9, 34. Allowed are 0 to 2 and 5 and 7 to 8 and 255."
  )


def test_only_one_preparation_writes_at_a_time(tmp_path, capfd):
  root, data = write_folder(tmp_path / "mine"), tmp_path / "data"
  (data / "folder").mkdir(parents=True)
  held = os.open(data / "folder", os.O_RDONLY)
  fcntl.flock(held, fcntl.LOCK_EX)
  try:
    (line,) = faults(capfd, "folder", root, data)
    assert "another data.prepare is writing to it" in line
  finally:
    os.close(held)
  assert main(["--dataset=folder", f"--manual_dir={root}", f"--data_dir={data}"]) == 0


def test_the_largest_image_of_every_split_is_recorded(street, data_dir, voc):
  assert Dataset("camvid", data_dir).largest_image("validation") == (64, 96)
  examples = list(open_source("voc_segmentation", "train_aug", voc.data_dir))
  shapes = [example["image"].shape for example in examples]
  expected = tuple(max(shape[axis] for shape in shapes) for axis in (0, 1))
  assert Dataset("voc_segmentation", voc.data_dir).largest_image("train_aug") == expected
