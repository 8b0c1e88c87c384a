"""Which pictures --images stands for, and which files their predictions may replace."""

import logging
import os

import numpy as np
import pytest

from gcn_flax.picture_files import find_pictures, overlay_path
from gcn_flax.visualize import overlay

LABEL = np.zeros((4, 5), np.uint8)


@pytest.fixture
def folder(tmp_path):
  """Empty files: pictures in two folders, and others beside them."""
  for name in ("a.jpg", "b.png", "photo [1].jpg", "notes.txt", "notes.json", ".hidden.jpg", "deep/c.jpg", "up/D.JPG"):
    (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "in" / name).touch()
  return tmp_path / "in"


@pytest.mark.parametrize(
  "patterns, names",
  [
    (["*.jpg"], ["a.jpg", "photo [1].jpg"]),
    (["photo [1].jpg"], ["photo [1].jpg"]),
    (["[ab].*"], ["a.jpg", "b.png"]),
    (["."], ["a.jpg", "b.png", "photo [1].jpg"]),
    (["*"], ["a.jpg", "b.png", "photo [1].jpg"]),
    (["**/*"], ["a.jpg", "b.png", "deep/c.jpg", "photo [1].jpg", "up/D.JPG"]),
    (["up"], ["up/D.JPG"]),
    (["*.txt"], ["notes.txt"]),
    (["b*", "*.png", "a.jpg"], ["b.png", "a.jpg"]),
  ],
)
def test_files_folders_and_patterns(folder, tmp_path, patterns, names):
  found = find_pictures([str(folder / pattern) for pattern in patterns], tmp_path / "out")
  assert list(found) == [folder / name for name in names]
  assert all(target.parent == tmp_path / "out" for target in found.values())


def test_folders_with_brackets_are_taken_literally(folder, tmp_path):
  renamed = folder.rename(tmp_path / "data [2]")
  assert list(find_pictures([f"{renamed}/a.*"], tmp_path / "out")) == [renamed / "a.jpg"]


def test_relative_paths_and_the_home_folder(folder, tmp_path, monkeypatch):
  monkeypatch.chdir(folder)
  monkeypatch.setenv("HOME", str(folder))
  assert [str(path) for path in find_pictures(["*.png"], tmp_path)] == ["b.png"]
  assert list(find_pictures(["~/b*"], tmp_path)) == [folder / "b.png"]


def test_files_that_are_left_aside_are_counted(folder, tmp_path, caplog, monkeypatch):
  monkeypatch.setattr(logging.getLogger("gcn_flax"), "propagate", True)
  with caplog.at_level(logging.INFO, logger="gcn_flax"):
    find_pictures([f"{folder}/*"], tmp_path / "out")
  assert "2 of 5 files are left aside, they are no pictures" in caplog.text


@pytest.mark.parametrize(
  "pattern, message",
  [
    ("{}/up/*.jpg", "matches no picture. {}/up/D.JPG is there, in another case. Use --images='{}/up/*.JPG'."),
    ("{}/up/d.jpg", "matches no picture. {}/up/D.JPG is there, in another case. Use --images='{}/up/*.JPG'."),
    ("{}/deep/*.tif", "matches no picture. {}/deep/c.jpg is there. Use --images='{}/deep/*.jpg'."),
    ("{}/nowhere/*.jpg", "matches no picture. There is no folder {}/nowhere. Use a file"),
    ("{}/empty/*.jpg", "matches no picture. There is no picture in {}/empty. Use a file"),
    ("{}/empty", "holds no file that ends in .jpg, .jpeg, .png, .bmp, .tif, .tiff, .webp. Use another folder."),
    ("{}/outer", "Use --images='{}/outer/**/*.png' for {}/outer/inner/x.png."),
    ("", "names nothing. Use a file, a folder or a pattern"),
  ],
)
def test_what_matches_nothing_is_answered_with_what_is_there(folder, tmp_path, pattern, message):
  (folder / "empty").mkdir()
  (folder / "outer/inner").mkdir(parents=True)
  (folder / "outer/inner/x.png").touch()
  with pytest.raises(ValueError) as error:
    find_pictures([pattern.replace("{}", str(folder))], tmp_path / "out")
  assert str(error.value).startswith("--images=") and message.replace("{}", str(folder)) in str(error.value)


def test_names_that_are_not_utf8(folder, tmp_path):
  name = os.fsencode(folder) + b"/stra\xdfe.jpg"
  open(name, "wb").close()
  (path,) = find_pictures([f"{folder}/stra*"], tmp_path / "out")
  assert os.fsencode(path) == name


def test_files_that_would_be_written_twice_or_beside_their_picture(folder, tmp_path):
  (folder / "a.png").touch()
  with pytest.raises(ValueError, match=r"a.jpg and .*a.png would both become .*a.png"):
    find_pictures([f"{folder}/a.*"], tmp_path / "out")
  with pytest.raises(ValueError, match="holds the picture .*b.png, and may hold its mask"):
    find_pictures([f"{folder}/b.png"], folder)
  with pytest.raises(ValueError, match="--output=.*b.png is a file. Use a folder"):
    find_pictures([f"{folder}/a.jpg"], folder / "b.png")


def true_mask(path):
  path.write_bytes(b"a mask")


def link_to_a_prediction(path):
  overlay.save_labels(path.parent / "other.png", LABEL)
  path.symlink_to(path.parent / "other.png")


@pytest.mark.parametrize("name", ["a.png", "a_overlay.jpg"])
@pytest.mark.parametrize(
  "make", [true_mask, link_to_a_prediction, lambda path: path.symlink_to("nowhere"), lambda path: path.mkdir()]
)
def test_nothing_but_predictions_is_replaced(folder, tmp_path, name, make):
  output = tmp_path / "out"
  output.mkdir()
  make(output / name)
  message = f"--output={output} holds {name}, which would be replaced and is no prediction. Use another folder."
  with pytest.raises(ValueError, match=f"^{message}$"):
    find_pictures([f"{folder}/a.jpg"], output)
  find_pictures([f"{folder}/b.png"], output)


def test_predictions_are_replaced(folder, tmp_path):
  target = find_pictures([f"{folder}/a.jpg"], tmp_path)[folder / "a.jpg"]
  overlay.save_labels(target, LABEL, [[0, 0, 0]] * 256)
  overlay_path(target).write_bytes(overlay.encode_jpeg(np.zeros((4, 5, 3), np.uint8)))
  assert find_pictures([f"{folder}/a.jpg"], tmp_path) == {folder / "a.jpg": target}
