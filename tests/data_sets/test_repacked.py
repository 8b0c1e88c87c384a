"""Archives that were unpacked and packed again are read like official ones, or the command that helps is named."""

import io
import subprocess
import sys
import tarfile
import zipfile

import pytest

from data.archives import Archive, open_archives
from tests.data_sets import archives

TOP = "VOCdevkit/VOC2012"
FILES = {f"{TOP}/JPEGImages/a.jpg": b"a", f"{TOP}/ImageSets/Segmentation/train.txt": b"a\n"}
REPACKED = {
  "official": {},
  "a folder above": {name: f"my download/{name}" for name in FILES},
  "without the top folder": {name: name.removeprefix("VOCdevkit/") for name in FILES},
  "content alone": {name: name.removeprefix(f"{TOP}/") for name in FILES},
  "backslashes": {name: name.replace("/", "\\") for name in FILES},
  "current folder": {name: f"./{name}" for name in FILES},
}


def pack(path, files):
  if path.suffix == ".zip":
    with zipfile.ZipFile(path, "w") as archive:
      for name, data in files.items():
        info = zipfile.ZipInfo()
        info.filename = name
        archive.writestr(info, data)
  else:
    with tarfile.open(path, "w") as archive:
      for name, data in files.items():
        info = tarfile.TarInfo(name)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("suffix", ["zip", "tar"])
@pytest.mark.parametrize("way", REPACKED)
def test_repacked_archives_have_the_official_names(tmp_path, way, suffix):
  path = tmp_path / f"archive.{suffix}"
  pack(path, {REPACKED[way].get(name, name): data for name, data in FILES.items()})
  archive = Archive(path, TOP)
  assert archive.names == set(FILES) and all(archive.read(name) == data for name, data in FILES.items())


def test_files_that_a_mac_adds_are_skipped(tmp_path):
  added = {f"__MACOSX/{TOP}/JPEGImages/._a.jpg": b"", f"{TOP}/._JPEGImages": b"", f"{TOP}/.DS_Store": b""}
  pack(tmp_path / "archive.zip", FILES | added)
  assert Archive(tmp_path / "archive.zip", TOP).names == set(FILES)


def test_two_copies_in_one_archive_are_refused(tmp_path):
  pack(tmp_path / "archive.zip", FILES | {f"copy/{name}": data for name, data in FILES.items()})
  with pytest.raises(ValueError, match="contains files twice"):
    Archive(tmp_path / "archive.zip", TOP)


@pytest.mark.parametrize("dataset, maker", [("cityscapes", archives.cityscapes), ("coco_voc", archives.coco)])
def test_data_sets_are_read_from_repacked_archives(tmp_path, dataset, maker):
  from data.prepare import prepare

  for name, files in maker().items():
    pack(tmp_path / name, {f"{dataset}/{path}": data for path, data in files.items()})
  prepare(dataset, str(tmp_path), str(tmp_path / "data"), partial=True)


@pytest.mark.parametrize("name", ["archive.zip", "archive.tar", "archive.tgz"])
def test_unpacked_archives_are_named_with_the_command_that_packs_them(tmp_path, name):
  for path, data in FILES.items():
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_bytes(data)
  with pytest.raises(ValueError, match="Pack the folder VOCdevkit again") as error:
    open_archives(tmp_path, {name: (TOP, "somewhere")})
  command = str(error.value)[str(error.value).index("(cd") :].removesuffix(".").replace("python", sys.executable)
  subprocess.run(["bash", "-c", command], check=True)
  (archive,) = open_archives(tmp_path, {name: (TOP, "somewhere")})
  assert archive.names == set(FILES)


def test_archives_of_other_names_and_places_are_named(tmp_path):
  pack(tmp_path / "archive (1).zip", FILES)
  with pytest.raises(ValueError, match=r"If archive \(1\).zip is archive.zip: mv '.*archive \(1\).zip' .*archive.zip"):
    open_archives(tmp_path, {"archive.zip": (TOP, "somewhere")})
  (tmp_path / "below").mkdir()
  (tmp_path / "archive (1).zip").rename(tmp_path / "below/archive.zip")
  with pytest.raises(ValueError, match=f"use --manual_dir={tmp_path}/below"):
    open_archives(tmp_path, {"archive.zip": (TOP, "somewhere")})
