"""Masks drawn from labelme's, COCO's and Ultralytics' annotations are those that the annotations were traced from."""

import importlib
import json
import logging
import os
import re
import shlex

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from data.annotations import main
from data.prepare import prepare
from gcn_flax.input_pipeline.datasets import Dataset, open_label_set
from tests.data_sets.archives import png
from tests.data_sets.checks import error_lines, files_in
from tests.test_main import ROOT

SIZE = (96, 128)
CLASSES = ("disc", "leaf", "plate")
FEW_STEPS = ("--config.total_steps=2", "--config.model.kernel_size=3", "--config.eval.num_pictures=0")
_FINE = 8  # Contours run through the centres of pixels, COCO's polygons along their edges.


def scene(seed):
  """Returns an image and a mask of one disc, leaf and plate each, which do not touch."""
  rng = np.random.default_rng(seed)
  mask = np.zeros(SIZE, np.uint8)
  x, y = (int(value) for value in rng.integers(-3, 4, 2))
  cv2.circle(mask, (24 + x, 28 + y), 19, 1, -1)
  cv2.ellipse(mask, (80 + x, 28 + y), (30, 14), int(rng.integers(0, 20)), 0, 360, 2, -1)
  cv2.rectangle(mask, (12 + x, 60 + y), (100 + x, 86 + y), 3, -1)
  image = np.array([[90, 90, 90], [220, 60, 60], [60, 200, 60], [60, 60, 220]])[mask]
  return np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8), mask


def contours(mask, value, scale=1):
  """Returns the outlines, (x, y) of the corners, of the pixels of one value."""
  big = np.kron((mask == value).astype(np.uint8), np.ones((scale, scale), np.uint8))
  found, _ = cv2.findContours(big, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
  offset = 0.5 if scale > 1 else 0.0
  return [((contour[:, 0] + offset) / scale).tolist() for contour in found]


def write(path, content):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def shape(label, points, kind="polygon"):
  return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}}


def labelme_file(name, shapes, size=SIZE):
  return {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": name, "imageData": None,
          "imageHeight": size[0], "imageWidth": size[1]}  # fmt: skip


def write_labelme(root, count=3, folder=""):
  """Writes images with a JSON file each; returns the masks by name."""
  masks = {}
  for index in range(count):
    image, mask = scene(index)
    shapes = [shape(CLASSES[value - 1], points) for value in (1, 2, 3) for points in contours(mask, value)]
    write(root / folder / f"p{index}.png", png(image))
    write(root / folder / f"p{index}.json", labelme_file(f"p{index}.png", shapes))
    masks[f"p{index}"] = mask
  return masks


def coco_file(images, annotations):
  return {
    "images": [{"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]} for number, name in images],
    "annotations": [{"id": number, **annotation} for number, annotation in enumerate(annotations, 1)],
    "categories": [{"id": 10 * value, "name": name} for value, name in enumerate(CLASSES, 1)][::-1],
  }


def write_coco(root, count=3, folder=""):
  images, annotations, masks = [], [], {}
  for index in range(count):
    image, mask = scene(index)
    name = f"p{index}.png"
    write(root / "photos" / name, png(image))
    images.append((index, name))
    for value in (1, 2, 3):
      outline = [np.ravel(points).tolist() for points in contours(mask, value, _FINE)]
      code = coco_mask.encode(np.asfortranarray(mask == value).astype(np.uint8))
      code = {"size": code["size"], "counts": code["counts"].decode()}
      annotations.append(
        {"image_id": index, "category_id": 10 * value, "iscrowd": 0, "segmentation": code if value == 3 else outline}
      )
    masks[f"p{index}"] = mask
  write(root / folder / "instances.json", coco_file(images, annotations))
  return masks


def yolo_lines(mask):
  for value in (1, 2, 3):
    for points in contours(mask, value):
      yield " ".join([str(value - 1), *(f"{number:.6f}" for number in np.ravel(points / np.array(SIZE[::-1])))])


def write_yolo(root, count=3, folder=""):
  masks = {}
  for index in range(count):
    image, mask = scene(index)
    write(root / "images" / folder / f"p{index}.png", png(image))
    write(root / "labels" / folder / f"p{index}.txt", "\n".join(yolo_lines(mask)).encode())
    masks[f"p{index}"] = mask
  write(root / "data.yaml", b"path: .\ntrain: images/train\nnames:\n  0: disc\n  1: leaf\n  2: plate\n")
  return masks


WRITERS = {"labelme": write_labelme, "coco": write_coco, "yolo": write_yolo}


def convert(name, root, *options):
  return main([f"--format={name}", f"--input={root}", f"--output={root.parent / 'out'}", *options])


def read_mask(path):
  return np.asarray(Image.open(path))


def iou(mask, other, value):
  return np.sum((mask == value) & (other == value)) / np.sum((mask == value) | (other == value))


def faults(capfd, name, root, *options):
  """Returns the errors of a conversion that must fail and leave nothing behind."""
  before = files_in(root.parent)
  assert convert(name, root, *options) == 1
  assert files_in(root.parent) == before and not (root.parent / "out").exists()
  stderr = capfd.readouterr().err
  return error_lines("\n".join(line for line in stderr.splitlines() if "drawing masks" not in line))


@pytest.mark.parametrize("name", WRITERS)
def test_masks_traced_and_drawn_again_are_the_same(tmp_path, name, capsys):
  masks = WRITERS[name](tmp_path / "in")
  before = files_in(tmp_path / "in")
  assert convert(name, tmp_path / "in") == 0 and files_in(tmp_path / "in") == before
  assert "wrote" in (output := capsys.readouterr().out) and "--val_fraction=0.2" in output
  assert (tmp_path / "out/classes.txt").read_text().split() == ["background", *CLASSES]
  assert sorted(path.stem for path in (tmp_path / "out/images").iterdir()) == sorted(masks)
  for stem, mask in masks.items():
    drawn = read_mask(tmp_path / f"out/masks/{stem}.png")
    assert drawn.dtype == np.uint8 and set(np.unique(drawn)) == {0, 1, 2, 3}
    assert min(iou(mask, drawn, value) for value in range(4)) > 0.97
    found = next((tmp_path / "in").rglob(f"{stem}.png"))
    assert (tmp_path / f"out/images/{stem}.png").read_bytes() == found.read_bytes()


def test_a_folder_is_prepared_as_it_was_written(tmp_path):
  write_labelme(tmp_path / "in", 5)
  assert convert("labelme", tmp_path / "in") == 0
  prepare("folder", str(tmp_path / "out"), str(tmp_path / "data"), val_fraction=0.2)
  assert Dataset("folder", str(tmp_path / "data")).splits == {"train": 4, "validation": 1}
  assert open_label_set("folder", str(tmp_path / "data")).classes == ("background", *CLASSES)


def test_splits_stay_apart(tmp_path, capsys):
  write_labelme(tmp_path / "labelme/in", 3, "train")
  write_labelme(tmp_path / "labelme/in", 1, "val")
  write_yolo(tmp_path / "yolo/in", 3, "train")
  write_yolo(tmp_path / "yolo/in", 1, "val")
  write_coco(tmp_path / "coco/in")
  (tmp_path / "coco/in/instances.json").rename(tmp_path / "coco/in/instances_train2017.json")
  image, _ = scene(9)
  write(tmp_path / "coco/in/more/q.png", png(image))
  write(tmp_path / "coco/in/instances_val2017.json", coco_file([(0, "q.png")], []))
  for name in WRITERS:
    assert convert(name, tmp_path / name / "in") == 0
    found = [
      path.relative_to(tmp_path / name / "out/masks").parts[0] for path in (tmp_path / name).rglob("out/masks/*/*")
    ]
    assert sorted(found) == ["train"] * 3 + ["val"], name
  assert "--val_fraction" not in capsys.readouterr().out


def test_labelme_draws_every_shape_in_its_order(tmp_path):
  image, _ = scene(0)
  shapes = [
    shape("plate", [[100, 80], [20, 10]], "rectangle"),
    shape("disc", [[60, 45], [60, 65]], "circle"),
    shape("__ignore__", [[55, 40], [65, 40], [65, 50], [55, 50]]),
    shape("_background_", [[0, 0], [30, 0], [30, 20], [0, 20]]),
    shape("disc", [[105, 5], [115, 5], [115, 15], [105, 15]]),
    shape("plate", [[100, 0], [127, 20]], "rectangle"),  # The larger, but later.
  ]
  write(tmp_path / "in/a.png", png(image))
  write(tmp_path / "in/a.json", labelme_file("..\\elsewhere\\a.png", shapes))  # Moved since, from Windows.
  assert convert("labelme", tmp_path / "in") == 0
  drawn = read_mask(tmp_path / "out/masks/a.png")
  assert (tmp_path / "out/classes.txt").read_text().split() == ["background", "disc", "plate"]
  assert drawn[45, 60] == 255 and drawn[60, 60] == 1 and drawn[75, 95] == 2 and drawn[15, 25] == 0 and drawn[90, 5] == 0
  assert np.sum(drawn == 1) + np.sum(drawn == 255) == pytest.approx(np.pi * 20**2, rel=0.05)
  assert drawn[10, 110] == 2
  drawn = drawn[:, :100]
  assert np.sum(drawn > 0) == 71 * 80 - 11 * 11


def test_of_overlapping_objects_the_smaller_counts_and_crowds_are_void(tmp_path):
  image, _ = scene(0)
  large, small = [[10, 10, 90, 10, 90, 80, 10, 80]], [[30, 30, 50, 30, 50, 50, 30, 50]]
  right = np.broadcast_to(np.arange(SIZE[1]) >= 40, SIZE)
  crowd = coco_mask.encode(np.asfortranarray(right.astype(np.uint8)))
  crowd["counts"] = crowd["counts"].decode()
  kinds = [(10, crowd, 1), (10, small, 0), (20, large, 0)]
  write(tmp_path / "coco/in/a.png", png(image))
  annotations = [
    {"image_id": 0, "category_id": category, "segmentation": each, "iscrowd": is_crowd}
    for category, each, is_crowd in kinds
  ]
  write(tmp_path / "coco/in/a.json", coco_file([(0, "a.png")], annotations))
  assert convert("coco", tmp_path / "coco/in") == 0
  drawn = read_mask(tmp_path / "coco/out/masks/a.png")
  assert drawn[40, 35] == 1 and drawn[70, 20] == 2 and drawn[90, 5] == 0 and ((drawn == 255) == right).all()
  write(tmp_path / "yolo/in/images/a.png", png(image))
  write(tmp_path / "yolo/in/labels/a.txt", b"0 .3 .3 .4 .3 .4 .5 .3 .5\n1 .1 .1 .8 .1 .8 .8 .1 .8\n")
  write(tmp_path / "yolo/in/data.yaml", b"names: [disc, leaf]\n")
  assert convert("yolo", tmp_path / "yolo/in") == 0
  drawn = read_mask(tmp_path / "yolo/out/masks/a.png")
  assert drawn[38, 45] == 1 and drawn[70, 60] == 2


def test_images_without_annotations(tmp_path, capsys):
  """In labelme they were not looked at; the other tools list what holds no object, but for a test split."""
  image, _ = scene(7)
  for name in WRITERS:
    WRITERS[name](tmp_path / name / "in")
  write(tmp_path / "labelme/in/new.png", png(image))
  assert convert("labelme", tmp_path / "labelme/in") == 0
  assert "note: 1 images without a .json file are left out" in capsys.readouterr().out
  assert not (tmp_path / "labelme/out/images/new.png").exists()
  write_yolo(tmp_path / "splits/in", 2, "train")
  for name in ("train/new", "test/unseen"):
    write(tmp_path / f"splits/in/images/{name}.png", png(image))
  assert convert("yolo", tmp_path / "splits/in") == 0
  assert not read_mask(tmp_path / "splits/out/masks/train/new.png").any()
  assert (tmp_path / "splits/out/images/test/unseen.png").exists() and not (tmp_path / "splits/out/masks/test").exists()


@pytest.mark.parametrize(
  "background, first, value",
  [("ground", ["ground", *CLASSES], 0), ("ignore", [*CLASSES], 255), ("plate", ["plate", "disc", "leaf"], 0)],
)
def test_the_background_has_a_name_or_is_void(tmp_path, background, first, value):
  masks = write_labelme(tmp_path / "in", 1)
  assert convert("labelme", tmp_path / "in", f"--background={background}") == 0
  assert (tmp_path / "out/classes.txt").read_text().split() == first
  drawn = read_mask(tmp_path / "out/masks/p0.png")
  np.testing.assert_array_equal(drawn == value, masks["p0"] == 0 if background != "plate" else masks["p0"] % 3 == 0)
  np.testing.assert_array_equal(drawn == first.index("leaf"), masks["p0"] == 2)


def edit(path, change):
  content = json.loads(path.read_text())
  change(content)
  path.write_text(json.dumps(content))


def set_shape(root, **values):
  edit(root / "p1.json", lambda content: content["shapes"][1].update(values))


def rotate(path):
  """Turns a picture as phones do; labelme shows it as it was."""
  image = Image.open(path).rotate(90, expand=True)
  image.getexif()[0x0112] = 6
  image.save(path, exif=image.getexif())


def set_line(root, text):
  (root / "labels/p1.txt").write_text(text)


def edit_coco(root, **values):
  edit(root / "instances.json", lambda content: content["annotations"][4].update(values))


FAULTS = {  # Case -> (format, change of the folder, message).
  "labelme, no file": (
    "labelme",
    lambda root: [path.unlink() for path in root.glob("*.json")],
    "{root} contains no .json file",
  ),
  "labelme, damaged": (
    "labelme",
    lambda root: (root / "p1.json").write_text("{"),
    "{root}/p1.json: damaged (it is not JSON",
  ),
  "labelme, another file": (
    "labelme",
    lambda root: write(root / "p1.json", {}),
    "{root}/p1.json: damaged ('imagePath' is missing). Save it again",
  ),
  "labelme, no image": (
    "labelme",
    lambda root: (root / "p1.png").unlink(),
    "{root}/p1.json: its image p1.png is not in {root}. Put it",
  ),
  "labelme, damaged image": (
    "labelme",
    lambda root: (root / "p1.png").write_bytes(b"x"),
    "{root}/p1.png is damaged or truncated",
  ),
  "labelme, another size": (
    "labelme",
    lambda root: write(root / "p1.png", png(np.zeros((50, 60, 3), np.uint8))),
    "{root}/p1.json was drawn on an image of 96 x 128, but {root}/p1.png is 50 x 60. Put the image back",
  ),
  "labelme, rotated": ("labelme", lambda root: rotate(root / "p1.png"), "{root}/p1.png has EXIF orientation 6, which"),
  "labelme, a line": (
    "labelme",
    lambda root: set_shape(root, shape_type="line"),
    "{root}/p1.json shape 2 (leaf) is a line, which is not read. Draw",
  ),
  "labelme, two points": (
    "labelme",
    lambda root: set_shape(root, points=[[1, 2], [3, 4]]),
    "{root}/p1.json shape 2 (leaf) has 2 points. A polygon needs",
  ),
  "labelme, out of range": (
    "labelme",
    lambda root: set_shape(root, points=[[1, 2], [3, 4], [300, 5]]),
    "{root}/p1.json shape 2 (leaf) has the point (300, 5) outside of the image, which is 96 x 128. Correct it.",
  ),
  "labelme, unknown class": (
    "labelme",
    lambda root: (root / "labels.txt").write_text("__ignore__\n_background_\ndisc\nplate\nleaves"),
    "{root}/p0.json shape 2: 'leaf' is not in {root}/labels.txt. Add it there, or correct the label.",
  ),
  "labelme, no name": (
    "labelme",
    lambda root: set_shape(root, label="a=b"),
    "{root}: its classes 'background', 'a=b', ",
  ),
  "labelme, in one split only": (
    "labelme",
    lambda root: write_labelme(root, 1, "train"),
    "{root}/p0.png is in none of the folders train, as others in {root} are.",
  ),
  "coco, unknown class": (
    "coco",
    lambda root: edit_coco(root, category_id=5),
    "{root}/instances.json annotation 5: category_id 5 is not among its cat",
  ),
  "coco, unknown image": (
    "coco",
    lambda root: edit_coco(root, image_id=5),
    "{root}/instances.json annotation 5: image_id 5 is not among its images",
  ),
  "coco, a box": (
    "coco",
    lambda root: edit_coco(root, segmentation=[]),
    "{root}/instances.json: 1 of 9 annotations have no outline ('segmentation'), such as annotation 5. Boxes are not",
  ),
  "coco, no image": (
    "coco",
    lambda root: (root / "photos/p1.png").unlink(),
    "{root}/instances.json: its image p1.png is not in {root}.",
  ),
  "coco, out of range": (
    "coco",
    lambda root: edit_coco(root, segmentation=[[0, 0, 9, 9, -9, 300]]),
    "{root}/instances.json annotation 5 (leaf) has the point (-9, 300) outside of the image",
  ),
  "coco, another size": (
    "coco",
    lambda root: edit_coco(root, segmentation={"size": [9, 9], "counts": [81]}),
    "{root}/instances.json annotation 5 (leaf) has a run-length code of size [9, 9], but the image is [96, 128].",
  ),
  "coco, rubbish": (
    "coco",
    lambda root: edit_coco(root, segmentation=[["a"]]),
    "{root}/instances.json annotation 5 (leaf) has a polygon that",
  ),
  "coco, broken code": (
    "coco",
    lambda root: edit_coco(root, segmentation={"size": [96, 128]}),
    "{root}/instances.json annotation 5 (leaf) cannot be drawn",
  ),
  "coco, two images": (
    "coco",
    lambda root: write(root / "other/p1.png", b""),
    "{root}/instances.json: its image p1.png may be {root}/other/p1.png or",
  ),
  "yolo, unknown class": (
    "yolo",
    lambda root: set_line(root, "7 0 0 1 0 1 1"),
    "{root}/labels/p1.txt line 1 has class 7, which the YAML file does not",
  ),
  "yolo, a box": (
    "yolo",
    lambda root: set_line(root, "\n0 .5 .5 .1 .1"),
    "{root}/labels/p1.txt line 2 is a box, not a polygon.",
  ),
  "yolo, rubbish": (
    "yolo",
    lambda root: set_line(root, "disc 0 0 1 0 1 1"),
    "{root}/labels/p1.txt line 1 is not a class number",
  ),
  "yolo, odd": (
    "yolo",
    lambda root: set_line(root, "0 0 0 1 0 1 1 1"),
    "{root}/labels/p1.txt line 1 is not a class number",
  ),
  "yolo, nan": (
    "yolo",
    lambda root: set_line(root, "0 0 0 1 0 nan 1"),
    "{root}/labels/p1.txt line 1 is not a class number",
  ),
  "yolo, pixels": (
    "yolo",
    lambda root: set_line(root, "0 0 0 50 0 50 50"),
    "{root}/labels/p1.txt line 1 (disc) has the point (6400, 0) outside of the image",
  ),
  "yolo, no names": ("yolo", lambda root: (root / "data.yaml").unlink(), "{root} contains no YAML file with names:"),
  "yolo, no image": (
    "yolo",
    lambda root: (root / "images/p1.png").unlink(),
    "{root}/labels/p1.txt has no image of the same name.",
  ),
  "yolo, no labels": (
    "yolo",
    lambda root: [path.unlink() for path in root.glob("labels/*")],
    "none of 3 images like {root}/images/p0.png has a label file",
  ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_is_one_line_and_nothing_is_written(tmp_path, capfd, case):
  name, change, expected = FAULTS[case]
  root = tmp_path / "in"
  WRITERS[name](root)
  change(root)
  lines = faults(capfd, name, root)
  assert lines[0].startswith(expected.format(root=root)), lines
  assert len(lines) == (3 if case == "labelme, unknown class" else 1)


def test_every_fault_is_listed(tmp_path, capfd):
  write_labelme(tmp_path / "in")
  for index in (0, 2):
    edit(tmp_path / f"in/p{index}.json", lambda content: content["shapes"][0].update(points=[[1, 2]]))
  assert len(faults(capfd, "labelme", tmp_path / "in")) == 2


def test_folders_that_cannot_be_used_are_refused(tmp_path, capfd):
  root = tmp_path / "in"
  (line,) = faults(capfd, "labelme", root)
  assert line == f"--input={root}: not a folder. Use the folder of the images and annotations."
  write_labelme(root)
  assert main(["--format=labelme", f"--input={root}", f"--output={root}/masks"]) == 1
  assert "is in --input. Use a folder beside it" in capfd.readouterr().err
  write(tmp_path / "out/mine.txt", b"kept")
  assert convert("labelme", root) == 1 and os.listdir(tmp_path / "out") == ["mine.txt"]
  assert "exists and is not an empty folder" in capfd.readouterr().err


def test_preparing_annotations_names_the_command(tmp_path, capfd):
  from data.prepare import main as prepare_main

  root = tmp_path / "in"
  write_labelme(root)
  assert prepare_main(["--dataset=folder", f"--manual_dir={root}", f"--data_dir={tmp_path / 'data'}"]) == 1
  (line,) = error_lines(capfd.readouterr().err)
  assert f"python -m data.annotations --format=labelme --input={root} --output={root}_masks. Then use" in line


@pytest.mark.slow
@pytest.mark.usefixtures("fast_runs")
def test_forty_annotated_pictures_become_a_network_by_the_commands_of_the_documentation(tmp_path, monkeypatch):
  """With a small network and few steps."""
  page = (ROOT / "data/README.md").read_text()
  (block,) = re.findall(r"^```\n(python -m data.annotations .*?)^```", page, re.MULTILINE | re.DOTALL)
  write_labelme(tmp_path / "PHOTOS", 40)
  monkeypatch.chdir(tmp_path)
  logger = logging.getLogger("gcn_flax")
  for name in ("propagate", "level", "handlers"):  # The command line sets them.
    monkeypatch.setattr(logger, name, getattr(logger, name))
  for command in block.splitlines():
    _, _, module, *arguments = shlex.split(command)
    if module == "gcn_flax.main":
      arguments = ["gcn_flax", f"--config={ROOT}/configs/folder.py:resnet_tiny", *arguments[1:], *FEW_STEPS]
    assert importlib.import_module(module).main(arguments) == 0, command
  assert Dataset("folder", "DATA").splits == {"train": 32, "validation": 8}
  workdir = tmp_path / "runs/folder"
  assert json.loads((workdir / "config.json").read_text())["data"]["crop_size"] == list(SIZE)
  assert json.loads((workdir / "eval_validation.json").read_text())["step"] == 2
  assert json.loads((workdir / "run.json").read_text())["classes"] == ["background", *CLASSES]
