"""data.browse counts every pixel of a prepared data set and shows it as training sees it."""

import cv2
import numpy as np

from data.browse import class_counts, class_table, main
from gcn_flax.input_pipeline.datasets import open_source
from gcn_flax.labels import CAMVID
from gcn_flax.visualize import overlay


def test_counts_are_those_of_the_whole_split(data_dir):
  source = open_source("camvid", "train", data_dir)
  pixels, images = class_counts(source)
  maps = [example["label"] for example in source]
  for value in range(256):
    assert pixels[value] == sum(int((label == value).sum()) for label in maps)
    assert images[value] == sum(bool((label == value).any()) for label in maps)


def test_images_with_one_class_are_shown_with_it_and_counted(class_data_dir, tmp_path, capsys):
  sheet = tmp_path / "sheet.png"
  arguments = [f"--data_dir={class_data_dir}", f"--output={sheet}"]
  assert main(["--dataset=class_folder", "--split=train", "--count=5", *arguments]) == 0
  output = capsys.readouterr().out
  rows = [line.split() for line in output.splitlines()[1:]]
  assert rows == [["class", "images"], ["blue", "8"], ["green", "8"], ["red", "8"]]
  assert cv2.imread(str(sheet)).shape[1] == 4 * 208 + 8


def test_only_the_rarest_of_many_classes_are_listed():
  lines = class_table([f"c{index}" for index in range(50)], np.arange(50) * 2, max_classes=3).splitlines()
  assert lines[1].split() == ["c0", "0", "NEVER", "OCCURS"] and lines[3].split() == ["c2", "4"]
  assert lines[4] == "  ... and 47 classes with up to 98 images" and len(lines) == 5


def test_the_command_writes_a_sheet_and_prints_a_table(data_dir, tmp_path, capsys):
  sheet = tmp_path / "looks" / "sheet.png"
  arguments = [f"--data_dir={data_dir}", f"--output={sheet}"]
  assert main(["--dataset=camvid", "--split=validation", "--count=3", *arguments]) == 0
  output = capsys.readouterr().out
  assert "5 examples; 3 of them in" in output and "PARTIAL: train 12 instead of 367" in output
  assert all(name in output for name in CAMVID.classes)
  picture = cv2.imread(str(sheet))
  assert picture.shape[1] == 2 * 480 + 3 * 8 and picture.shape[0] > 3 * 320


def test_errors_are_one_line(data_dir, tmp_path, capsys):
  for arguments, message in [
    (["--dataset=camvid", "--split=val"], "no split 'val'. Use one of train, validation"),
    (["--dataset=kitti"], "data set 'kitti': unknown. Use one of shapes"),
    (["--dataset=camvid", "--count=0"], "--count=0: must be at least 1. The default is 8."),
  ]:
    assert main([*arguments, f"--data_dir={data_dir}", f"--output={tmp_path / 'no.png'}"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
  assert main(["--dataset=camvid", f"--data_dir={data_dir}", f"--output={tmp_path}/new/sheet"]) == 1
  assert f"must end in .png or .jpg. Use for instance --output={tmp_path}/new/sheet.png." in capsys.readouterr().err
  assert not any(tmp_path.iterdir())


def test_an_overlay_colours_classes_leaves_void_and_names_regions():
  image = np.full((80, 120, 3), 200, np.uint8)
  label = np.zeros((80, 120), np.uint8)
  label[:, 60:] = 3
  label[:10] = 255
  blended = overlay.blend(image, label, CAMVID)
  expected = 0.45 * 200 + 0.55 * np.array(CAMVID.palette[3])
  assert np.abs(blended[50, 100] - expected).max() <= 1
  assert (blended[3, 3] == 200).all() and (blended[40, 60] == 255).all()
  named = overlay.name_regions(blended, label, CAMVID)
  assert (named[:, 60:] != blended[:, 60:]).any() and (named[:, :50] != blended[:, :50]).any()
  assert (overlay.name_regions(blended, label, CAMVID, min_pixels=10_000) == blended).all()
