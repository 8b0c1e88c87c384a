"""Names of images and masks that do not agree are explained once, with the command that mends them."""

import os
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from PIL import Image

from data.folder.affixes import find_affixes
from data.folder.pairs import find_pairs
from data.prepare import prepare
from tests.data_sets.archives import picture, png
from tests.data_sets.checks import faults
from tests.data_sets.folders import SHAPE, write_files, write_folder

STEMS = [f"aachen_{number:06d}_000019" for number in (0, 7, 12)]


def write(root, images, masks):
  """Writes empty files and returns the folders of images and masks."""
  for folder, names in (("images", images), ("masks", masks)):
    write_files(root / folder / "train", dict.fromkeys(names, b""))
    (root / folder / "train").mkdir(parents=True, exist_ok=True)
  return root / "images/train", root / "masks/train"


def problems(folders):
  with pytest.raises(ValueError) as error:
    find_pairs(*folders)
  return str(error.value).splitlines()


def run(line, begin="(cd "):
  """Runs the command at the end of a message."""
  command = line[line.index(begin) :].replace("python -c", f"{sys.executable} -c")
  subprocess.run(["bash", "-c", command], check=True)


@pytest.mark.parametrize(
  "image, mask",
  [
    ("{}.jpg", "{}_mask.png"),
    ("{}.JPG", "mask_{}.PNG"),
    ("{}.jpg", "GT {} (L).png"),
    ("{}.jpg", "{}.jpg.png"),
    ("{}_leftImg8bit.png", "{}_gtFine_labelIds.png"),
    ("img_{}.jpg", "mask_{}.png"),
    ("{}_image.jpg", "{}.png"),
  ],
)
def test_affixes_are_named_with_the_command_that_removes_them(tmp_path, image, mask):
  folders = write(tmp_path / "my data", [image.format(stem) for stem in STEMS], [mask.format(stem) for stem in STEMS])
  (line,) = problems(folders)
  assert line.startswith(f"3 of 3 images in {folders[0]} have masks of other names in {folders[1]}, such as ")
  assert image.format(STEMS[0]) in line and mask.format(STEMS[0]) in line
  run(line)
  assert [(image.stem, mask.stem) for image, mask in find_pairs(*folders)] == [(stem, stem) for stem in STEMS]


def test_of_several_kinds_of_masks_the_class_numbers_are_taken(tmp_path):
  kinds = ("color", "instanceIds", "labelIds")
  folders = write(
    tmp_path, [f"{stem}.png" for stem in STEMS], [f"{stem}_{kind}.png" for stem in STEMS for kind in kinds]
  )
  renaming, rest = problems(folders)
  assert "*_labelIds.png" in renaming and "contains 6 more files (aachen_000000_000019_color.png, " in rest


def test_renaming_keeps_files_that_are_already_there(tmp_path):
  folders = write(tmp_path, ["a.png", "b.png", "c.png"], ["a.png", "a_mask.png", "b_mask.png", "c_mask.png"])
  (folders[1] / "a.png").write_bytes(b"kept")
  run(problems(folders)[0])
  assert (folders[1] / "a.png").read_bytes() == b"kept" and (folders[1] / "b.png").is_file()


@pytest.mark.parametrize(
  "images, masks",
  [(["frame_1"], ["frame_10"]), (["1", "2"], ["11", "12"]), (["a", "b", "c"], ["x", "y", "z"]), (["a"], [])],
)
def test_numbers_and_strangers_are_no_affixes(images, masks):
  assert find_affixes(set(images), set(masks)) is None


def test_other_files_are_listed_beside_affixes(tmp_path):
  folders = write(tmp_path, ["a.png", "b.png", "x.png"], ["a_mask.png", "b_mask.png"])
  assert problems(folders)[1:] == [f"{folders[0]}/x.png has no mask in {folders[1]}."]


def test_two_forms_of_unicode_are_one_name(tmp_path):
  decomposed, composed = (unicodedata.normalize(form, "Münster") for form in ("NFD", "NFC"))
  folders = write(tmp_path, [f"{decomposed}.jpg"], [f"{composed}.png"])
  assert find_pairs(*folders) == [(folders[0] / f"{decomposed}.jpg", folders[1] / f"{composed}.png")]
  (folders[0] / f"{composed}.jpg").touch()
  assert [" has the same name as another file" in line for line in problems(folders)] == [True, True]


def test_other_letter_case_is_named_with_the_command(tmp_path):
  folders = write(tmp_path, ["a.JPG", "b.jpg"], ["A.png", "b.PNG"])
  line = problems(folders)[0]
  assert line.endswith(f"has no mask in {folders[1]}. Rename A.png: mv -n {folders[1]}/A.png {folders[1]}/a.png")


def test_nested_folders_are_named_with_the_command_that_flattens_them(tmp_path):
  names = ["x.png", "aachen/a 1.png", "bochum/more/a 1.png"]
  folders = write(tmp_path, names, names)
  lines = problems(folders)
  assert len(lines) == 2 and all("contains folders (aachen, bochum)" in line for line in lines)
  for line in lines:
    run(line)
  assert [image.name for image, _ in find_pairs(*folders)] == ["aachen_a 1.png", "bochum_more_a 1.png", "x.png"]


@pytest.mark.parametrize(
  "content, cure",
  [
    ('{"shapes": []}', "(a.json): python -m data.annotations --format=labelme --input={root} --output={root}_masks"),
    ('{"images": []}', "(a.json): python -m data.annotations --format=coco --input={root} --output={root}_masks"),
    ("{}", "export them as PNG masks"),
    ("[" * 100_000, "export them as PNG masks"),
  ],
  ids=["labelme", "coco", "other", "nested"],
)
def test_annotations_beside_images_are_no_masks(tmp_path, content, cure):
  folders = write(tmp_path, ["a.jpg", "a.json"], [])
  (folders[0] / "a.json").write_text(content)
  line, missing = problems(folders)
  assert "contains 1 .json files (a.json), which are annotations, not masks" in line
  assert cure.replace("{root}", str(tmp_path)) in line
  assert "contains no mask for the 1 images of" in missing
  run(line, "mkdir ")
  assert len(problems(folders)) == 1 and (tmp_path / "annotations_train/a.json").is_file()


def test_masks_of_other_formats_are_named_with_the_command_that_converts_them(tmp_path):
  folders = write(tmp_path, ["a.jpg"], [])
  mask = np.arange(6, dtype=np.uint8).reshape(2, 3)
  Image.fromarray(mask).save(folders[1] / "a.tif")
  (line,) = problems(folders)
  run(line, "python -c")
  ((_, converted),) = find_pairs(*folders)
  np.testing.assert_array_equal(np.asarray(Image.open(converted)), mask)


def test_a_folder_of_masks_under_another_name_is_named(tmp_path):
  folders = write(tmp_path, ["a.jpg"], ["a.png"])
  (tmp_path / "masks").rename(tmp_path / "labels")
  (line,) = problems(folders)
  assert line.endswith(f"If they are in {tmp_path}/labels: mv {tmp_path}/labels {tmp_path}/masks")
  (tmp_path / "labels/train/a.png").rename(tmp_path / "labels/train/a.txt")
  (line,) = problems(folders)
  assert "It must contain the masks of the 1 images in" in line
  assert line.endswith(
    f"--format=yolo --input={tmp_path} --output={tmp_path}_masks. Then use --manual_dir={tmp_path}_masks."
  )


def swap(root):
  for kind in ("images", "masks"):
    for split in ("train", "val"):
      (root / split).mkdir(exist_ok=True)
      (root / kind / split).rename(root / split / kind)
    (root / kind).rmdir()


def rename_val(root):
  for kind in ("images", "masks"):
    (root / kind / "val").rename(root / kind / "dev")


@pytest.mark.parametrize("change, begin", [(swap, "(cd "), (rename_val, "mv ")], ids=["levels", "dev"])
def test_splits_in_other_places_are_named_with_the_command_that_moves_them(tmp_path, capfd, change, begin):
  root = write_folder(tmp_path / "mine")
  change(root)
  (line,) = faults(capfd, "folder", root, tmp_path / "data")
  run(line, begin)
  prepare("folder", str(root), str(tmp_path / "data"))


def test_broken_links_are_named(tmp_path):
  folders = write(tmp_path, ["a.png"], ["a.png", "b.png"])
  (folders[0] / "b.png").symlink_to(tmp_path / "gone.png")
  assert problems(folders) == [f"{folders[0]}/b.png is a link to a file that does not exist. Remove it."]


def test_files_that_systems_add_are_ignored(tmp_path):
  root = write_folder(tmp_path / "mine")
  write_files(root, dict.fromkeys(("images/train/desktop.ini", "images/__MACOSX/a.png", "masks/val/@eaDir/d.png"), b""))
  prepare("folder", str(root), str(tmp_path / "data"))


def test_a_folder_above_is_named(tmp_path, capfd):
  write_folder(tmp_path / "download/mine")
  (line,) = faults(capfd, "folder", tmp_path / "download", tmp_path / "data")
  assert line.endswith(f"Use --manual_dir={tmp_path}/download/mine.")


@pytest.mark.parametrize("dataset", ["folder", "class_folder"])
def test_names_that_are_not_utf_8_are_reported_in_one_line(tmp_path, capfd, dataset):
  root = write_folder(tmp_path / "mine")
  for kind in ("images", "masks"):
    os.rename(root / kind / "train/a.png", os.fsencode(root / kind) + b"/train/stra\xdfe.png")
  if dataset == "class_folder":
    for split in ("train", "val"):
      (root / split).mkdir()
      for kind in ("images", "masks"):
        (root / kind / split).rename(root / split / kind)
    (root / "images").rmdir()
    (root / "masks").rmdir()
  lines = faults(capfd, dataset, root, tmp_path / "data")
  assert len(lines) == 2 and all(r"stra\xdfe.png: its name is not UTF-8. Rename it" in line for line in lines)


def test_class_folders_of_two_forms_of_unicode_are_one_class(tmp_path):
  rng = np.random.default_rng(0)
  for split, form in (("train", "NFD"), ("val", "NFC")):
    for name in ("Kälte", "Hitze"):
      write_files(tmp_path / "mine" / split / unicodedata.normalize(form, name), {"a.png": png(picture(rng, SHAPE))})
  prepare("class_folder", str(tmp_path / "mine"), str(tmp_path / "data"))


def test_a_data_dir_that_is_not_utf_8_is_refused_at_once(tmp_path):
  with pytest.raises(ValueError, match="--data_dir=.*may not contain .* and must be UTF-8"):
    prepare("shapes", "", os.fsdecode(os.fsencode(tmp_path) + b"/stra\xdfe"))
