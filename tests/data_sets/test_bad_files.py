"""Damaged, missing and unsuitable files are all reported by name, and nothing is written."""

import shutil
import warnings
import zipfile

import cv2
import numpy as np
import pytest
from PIL import Image

from data.archives import Archive
from data.prepare import prepare
from tests.data_sets import archives
from tests.data_sets.archives import jpeg, picture, png, rotated
from tests.data_sets.checks import faults, files_in
from tests.data_sets.folders import SHAPE, write_files, write_folder

PHOTO = picture(np.random.default_rng(11), SHAPE)
ZIPS = ("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip", "leftImg8bit_trainextra.zip", "gtCoarse.zip")
ARCHIVES = {
  "voc_segmentation": ("VOCtrainval_11-May-2012.tar", "VOC2012test.tar", "benchmark.tgz"),
  "coco_voc": ("annotations_trainval2017.zip", "train2017.zip", "val2017.zip"),
  "cityscapes": ZIPS[:2],
  "cityscapes_coarse": ZIPS[2:],
}
MAKERS = {
  "voc_segmentation": archives.voc,
  "coco_voc": archives.coco,
  "cityscapes": archives.cityscapes,
  "cityscapes_coarse": archives.cityscapes,
}
EACH_ARCHIVE = [(dataset, name) for dataset, names in ARCHIVES.items() for name in names]


def encoded(image, suffix):
  return cv2.imencode(suffix, image)[1].tobytes()


def saved(tmp_path, image, kind, **options):
  image.save(tmp_path / "saved", kind, **options)
  return (tmp_path / "saved").read_bytes()


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda tmp: jpeg(PHOTO)[:-200], "is damaged or truncated"),
    (lambda tmp: png(PHOTO)[:-300], "is damaged or truncated"),
    (lambda tmp: b"", "is damaged or truncated"),
    (lambda tmp: b"no picture at all", "is damaged or truncated"),
    (lambda tmp: png(PHOTO[..., 0]), "has mode L (grey). Convert it to 8-bit RGB"),
    (lambda tmp: jpeg(PHOTO[..., 0]), "has mode L (grey)"),
    (lambda tmp: saved(tmp, Image.fromarray(PHOTO).convert("CMYK"), "JPEG"), "has mode CMYK (print colours)"),
    (lambda tmp: saved(tmp, Image.fromarray(PHOTO).convert("RGBA"), "PNG"), "mode RGBA (with transparency)"),
    (lambda tmp: saved(tmp, Image.fromarray(PHOTO).convert("P"), "PNG"), "mode P (palette)"),
    (lambda tmp: png(PHOTO[..., 0] > 99), "mode 1 (black and white)"),
    (lambda tmp: png(PHOTO[..., 0].astype(np.uint16)), "has 16 bits per channel"),
    (lambda tmp: encoded(PHOTO.astype(np.uint16) * 257, ".png"), "has 16 bits per channel"),
    (lambda tmp: encoded(PHOTO.astype(np.uint16) * 257, ".tiff"), "16 bits"),
    (lambda tmp: rotated(PHOTO), "has EXIF orientation 6, which its mask does not share"),
    (lambda tmp: saved(tmp, Image.fromarray(PHOTO), "TIFF", tiffinfo={274: 3}), "has EXIF orientation 3,"),
  ],
  ids=[
    "truncated JPEG", "truncated PNG", "empty file", "text", "grey PNG", "grey JPEG", "CMYK", "RGBA", "palette",
    "1 bit", "grey 16 bits", "RGB PNG 16 bits", "RGB TIFF 16 bits", "rotated", "rotated TIFF",
  ],
)  # fmt: skip
def test_an_image_that_is_not_intact_rgb_is_reported(tmp_path, capfd, make, message):
  root = write_folder(tmp_path / "mine")
  (root / "images/train/b.png").write_bytes(make(tmp_path))
  (line,) = faults(capfd, "folder", root, tmp_path / "data")
  assert line.startswith(f"{root}/images/train/b.png ") and message in line


@pytest.mark.parametrize(
  "data, message",
  [
    (png(np.zeros((*SHAPE, 3), np.uint8)), "is a PNG of mode RGB. Save the mask as a PNG with one 8-bit channel"),
    (png(np.zeros((*SHAPE, 4), np.uint8)), "is a PNG of mode RGBA"),
    (png(np.zeros(SHAPE, np.uint16)), "is a PNG of mode I;16"),
    (jpeg(np.zeros(SHAPE, np.uint8)), "is a JPEG of mode L"),
    (png(np.zeros(SHAPE, np.uint8))[:-20], "is damaged or truncated"),
    (png(np.zeros((42, 55), np.uint8)), "is 42 x 55, but its image "),
    (png(np.zeros(SHAPE[::-1], np.uint8)), "is 56 x 42, but its image "),
    (png(np.full(SHAPE, 34, np.uint8)), "contains the values 34. Allowed are 0 to 18 and 255."),
    (png(np.resize(np.uint8([19, 254, 1]), SHAPE)), "contains the values 19, 254. Allowed are 0 to 18 and 255."),
  ],
  ids=["RGB", "RGBA", "16 bits", "JPEG", "truncated", "narrower", "rotated", "value 34", "two values"],
)
def test_a_mask_that_does_not_fit_is_reported(tmp_path, capfd, data, message):
  root = write_files(write_folder(tmp_path / "mine"), {"masks/val/d.png": data})
  (line,) = faults(capfd, "folder", root, tmp_path / "data")
  assert line.startswith(f"{root}/masks/val/d.png ") and message in line


FRACTION = "Make one, or keep a fifth of train for it with --val_fraction=0.2."


def remove(root, name):
  path = root / name
  if path.is_dir():
    shutil.rmtree(path)
  else:
    path.unlink()


def empty(root, split):
  for kind in ("images", "masks"):
    for path in (root / kind / split).iterdir():
      path.unlink()


def same_picture_in_both_splits(root):
  image = Image.open(root / "images/train/c.png")
  remove(root, "images/val/e.png")
  image.save(root / "images/val/e.bmp")


@pytest.mark.parametrize(
  "fault, expected",
  [
    (lambda root: remove(root, "masks/train/b.png"), "{root}/images/train/b.png has no mask in {root}/masks/train."),
    (lambda root: remove(root, "images/val/d.png"), "{root}/masks/val/d.png has no image in {root}/images/val."),
    (lambda root: empty(root, "val"), "{root}/images/val contains no image."),
    (lambda root: remove(root, "images/val"), "{root}/images has no folder val. {FRACTION}"),
    (lambda root: remove(root, "images/train"), "{root}/images has no folder train."),
    (
      lambda root: remove(root, "images"),
      "{root} has no folder images. It must contain images/<split>/ and masks/<split>/.",
    ),
  ],
  ids=["no mask", "no image", "empty", "no val", "no train", "no images"],
)
def test_missing_files_and_folders_are_reported(tmp_path, capfd, fault, expected):
  root = write_folder(tmp_path / "mine")
  fault(root)
  assert faults(capfd, "folder", root, tmp_path / "data") == [expected.format(root=root, FRACTION=FRACTION)]


def test_images_with_the_same_name_are_reported(tmp_path, capfd):
  root = write_files(write_folder(tmp_path / "mine"), {"images/train/a.jpg": jpeg(PHOTO)})
  assert faults(capfd, "folder", root, tmp_path / "data") == [
    f"{root}/images/train/{name} has the same name as another file, apart from the suffix. Rename one of them."
    for name in ("a.jpg", "a.png")
  ]


def test_files_of_other_types_are_reported(tmp_path, capfd):
  root = write_files(write_folder(tmp_path / "mine"), {"images/train/notes.txt": b"", "masks/val/d.npy": b""})
  found = faults(capfd, "folder", root, tmp_path / "data")
  assert f"{root}/images/train/notes.txt is not one of .jpg .jpeg .png .bmp .tif .tiff .webp. Remove it." in found
  assert f"{root}/masks/val/d.npy is not one of .png. Remove it." in found


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_two_names_of_a_split_are_reported(tmp_path, capfd, name):
  root = write_folder(tmp_path / "mine")
  for kind in ("images", "masks"):
    shutil.copytree(root / kind / "val", root / kind / name)
  assert faults(capfd, "folder", root, tmp_path / "data") == [
    f"{root}/images has both val and {name}, which are the same split. Merge the folders."
  ]


@pytest.mark.parametrize("name", ["rain 2024", "a+b", "rain.2024", "all"])
def test_a_folder_with_an_invalid_split_name_is_rejected(tmp_path, capfd, name):
  """TFDS would prepare such a split, but could not open it."""
  files = {f"images/{name}/f.png": png(PHOTO), f"masks/{name}/f.png": png(np.zeros(SHAPE, np.uint8))}
  root = write_files(write_folder(tmp_path / "mine"), files)
  (line,) = faults(capfd, "folder", root, tmp_path / "data")
  assert line.startswith(f"{root}/images/{name} is no valid split name.")


def test_an_image_in_two_splits_is_reported_even_in_another_format(tmp_path, capfd):
  root = write_folder(tmp_path / "mine")
  same_picture_in_both_splits(root)
  (line,) = faults(capfd, "folder", root, tmp_path / "data")
  assert f"{root}/images/train/c.png" in line and f"{root}/images/val/e.bmp" in line
  assert line.endswith("in another split. Remove one of them.")


def test_strips_that_no_jpeg_holds_are_reported_before_anything_is_written(tmp_path, capfd):
  root = write_folder(tmp_path / "mine")
  strip = np.zeros((2, 66_000, 3), np.uint8)
  write_files(root, {"images/train/b.png": png(strip), "masks/train/b.png": png(strip[..., 0])})
  (line,) = faults(capfd, "folder", root, tmp_path / "data", "--image_format=jpeg")
  assert line.startswith(f"{root}/images/train/b.png is 2 x 66000, but a JPEG holds up to 65,500 pixels per side")
  prepare("folder", str(root), str(tmp_path / "data"))


def test_names_that_cannot_be_ids_are_reported(tmp_path, capfd):
  root = write_folder(tmp_path / "mine")
  for kind in ("images", "masks"):
    (root / kind / "train/b.png").rename(root / kind / "train/two\nlines.png")
  lines = faults(capfd, "folder", root, tmp_path / "data")
  assert lines == [
    f"{root}/{kind}/train/two\\nlines.png: its name has control characters. Rename it." for kind in ("images", "masks")
  ]


def test_all_faults_are_reported_one_per_line(tmp_path, capfd):
  root = write_folder(tmp_path / "mine")
  files = {"images/train/a.png": jpeg(PHOTO)[:-200], "images/train/c.png": png(PHOTO[..., 0])}
  write_files(root, files | {"masks/train/b.png": png(np.full(SHAPE, 77, np.uint8)), "masks/val/e.png": b"x"})
  found = faults(capfd, "folder", root, tmp_path / "data")
  names = ["images/train/a.png", "masks/train/b.png", "images/train/c.png", "masks/val/e.png"]
  assert [line.partition(" ")[0] for line in found] == [f"{root}/{name}" for name in names]


def test_missing_files_of_all_splits_are_reported_together(tmp_path, capfd):
  root = write_folder(tmp_path / "mine")
  remove(root, "masks/train/b.png")
  remove(root, "images/train/c.png")
  remove(root, "masks/val/d.png")
  assert len(faults(capfd, "folder", root, tmp_path / "data")) == 3


def test_prepare_raises_what_main_prints(tmp_path):
  root = write_folder(tmp_path / "mine")
  for name in "ab":
    (root / f"images/train/{name}.png").write_bytes(b"")
  with pytest.raises(ValueError, match=r"train/a.png is damaged.*\n.*train/b.png is damaged"):
    prepare("folder", str(root), str(tmp_path / "data"))


@pytest.mark.parametrize("dataset, name", EACH_ARCHIVE)
def test_a_missing_archive_is_reported_with_its_origin(tmp_path, capfd, dataset, name):
  archives.write(tmp_path, {other: {} for other in ARCHIVES[dataset] if other != name})
  (line,) = faults(capfd, dataset, tmp_path, tmp_path / "data")
  assert line.startswith(f"not found in {tmp_path}: {name} (from http")
  assert line.count("(from http") == 1 and "data/README.md" in line


@pytest.mark.parametrize("dataset", ARCHIVES)
def test_all_missing_archives_are_reported(tmp_path, capfd, dataset):
  (line,) = faults(capfd, dataset, tmp_path, tmp_path / "data")
  assert all(f"{name} (from http" in line for name in ARCHIVES[dataset])


@pytest.mark.parametrize("manual_dir", ["", "nowhere"])
def test_a_manual_dir_that_is_no_folder_is_reported(tmp_path, capfd, manual_dir):
  (line,) = faults(capfd, "voc_segmentation", manual_dir, tmp_path / "data")
  assert f"--manual_dir={manual_dir!r}: not a folder" in line


@pytest.mark.parametrize("part", [0.0, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("dataset, name", EACH_ARCHIVE)
def test_a_truncated_archive_is_reported(tmp_path, capfd, dataset, name, part):
  archives.write(tmp_path, MAKERS[dataset]())
  truncate(tmp_path / name, part)
  found = faults(capfd, dataset, tmp_path, tmp_path / "data", "--partial")
  assert found and all(name in line for line in found)


def truncate(path, part):
  data = path.read_bytes().rstrip(b"\0")  # The padding of a tar holds nothing.
  path.write_bytes(data[: int(len(data) * part)])


@pytest.mark.parametrize("dataset", ARCHIVES)
def test_all_damaged_archives_are_reported(tmp_path, capfd, dataset):
  for name in ARCHIVES[dataset]:
    (tmp_path / name).write_bytes(b"<html>404 not found</html>" * 99)
  found = faults(capfd, dataset, tmp_path, tmp_path / "data")
  assert len(found) == len(ARCHIVES[dataset])
  for line, name in zip(found, ARCHIVES[dataset], strict=True):
    assert line.startswith(f"{tmp_path / name} is damaged (") and line.endswith("Download it again.")


def test_a_flipped_bit_in_a_zip_is_reported(tmp_path, capfd):
  files = archives.cityscapes()
  archives.write(tmp_path, files)
  name, picture = list(files[ZIPS[0]].items())[3]
  data = bytearray((tmp_path / ZIPS[0]).read_bytes())
  data[data.index(picture) + len(picture) // 2] ^= 1
  (tmp_path / ZIPS[0]).write_bytes(data)
  (line,) = faults(capfd, "cityscapes", tmp_path, tmp_path / "data", "--partial")
  assert line.startswith(f"{name} in {tmp_path / ZIPS[0]} is damaged (Bad CRC-32") and "Download it again" in line


def patched(root, offset, field):
  """Overwrites a field in the entry that describes an image of Cityscapes' archive; returns the image's name."""
  files = archives.cityscapes()
  archives.write(root, files)
  data = bytearray((root / ZIPS[0]).read_bytes())
  name = next(name for name in files[ZIPS[0]] if name.endswith("_leftImg8bit.png"))
  start = data.rindex(name.encode()) - 46  # Its entry in the central directory, at the end of the file.
  data[start + offset : start + offset + len(field)] = field
  (root / ZIPS[0]).write_bytes(data)
  return name


def test_an_encrypted_zip_is_reported(tmp_path, capfd):
  name = patched(tmp_path, 8, b"\1")
  (line,) = faults(capfd, "cityscapes", tmp_path, tmp_path / "data", "--partial")
  assert line.startswith(f"{name} in {tmp_path / ZIPS[0]} is encrypted. Download it again")


def test_a_file_of_gigabytes_in_a_zip_is_not_unpacked(tmp_path, capfd):
  name = patched(tmp_path, 24, b"\xf0" * 4)
  (line,) = faults(capfd, "cityscapes", tmp_path, tmp_path / "data", "--partial")
  assert line == f"{name} in {tmp_path / ZIPS[0]} claims 4,042,322,160 bytes, too many for it. Download it again."


def test_a_name_that_occurs_twice_in_an_archive_is_reported(tmp_path, capfd):
  archives.write(tmp_path, archives.cityscapes())
  name = "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png"
  with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / ZIPS[0], "a") as archive:
    warnings.simplefilter("ignore")
    archive.writestr(name, b"another")
  (line,) = faults(capfd, "cityscapes", tmp_path, tmp_path / "data", "--partial")
  assert line == f"{tmp_path / ZIPS[0]} contains files twice: {name}. Download it again."


def test_a_full_temporary_folder_is_not_mistaken_for_a_damaged_archive(tmp_path, monkeypatch):
  archives.write(tmp_path, archives.voc())
  with open("/dev/full", "r+b", buffering=0) as full:
    monkeypatch.setattr("data.archives.tempfile.TemporaryFile", lambda: full)
    with pytest.raises(OSError, match="no space to decompress .*benchmark.tgz. Set TMPDIR to a larger disk"):
      Archive(tmp_path / "benchmark.tgz", "benchmark_RELEASE/dataset")


def test_reading_leaves_nothing_in_the_temporary_folder(tmp_path, monkeypatch):
  (tmp_path / "temporary").mkdir()
  monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
  archives.write(tmp_path, archives.voc())
  prepare("voc_segmentation", str(tmp_path), str(tmp_path / "data"), partial=True)
  assert files_in(tmp_path / "temporary") == []
