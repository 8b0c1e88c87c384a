"""Writing is atomic, also beside other writers and before a power cut; paths are checked before work."""

import os
import threading

import pytest

from gcn_flax import files


def test_writers_at_once_leave_one_of_the_contents_whole(tmp_path):
  """Two writers with one temporary file would lose it to each other, and a reader would see it empty."""
  path, contents, errors = tmp_path / "report.html", [b"a" * 100_000, b"b" * 50_000], []
  files.write(path, contents[0])

  def work(act):
    try:
      for _ in range(100):
        act()
    except Exception as error:
      errors.append(error)

  def read():
    assert path.read_bytes() in contents

  acts = [lambda: files.write(path, contents[0]), lambda: files.write(path, contents[1]), read]
  threads = [threading.Thread(target=work, args=[act]) for act in acts]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not errors and [each.name for each in tmp_path.iterdir()] == ["report.html"]


def test_no_link_is_followed(tmp_path):
  precious = tmp_path / "precious"
  precious.write_text("mine")
  for name in ("state.json", "state.json.tmp"):
    (tmp_path / name).symlink_to(precious)
  files.write(tmp_path / "state.json", "{}")
  assert precious.read_text() == "mine" and (tmp_path / "state.json").read_text() == "{}"


def test_the_disk_has_the_content_before_the_name(monkeypatch, tmp_path):
  calls, replace = [], os.replace
  monkeypatch.setattr(os, "fsync", lambda descriptor: calls.append(os.readlink(f"/proc/self/fd/{descriptor}")))
  monkeypatch.setattr(os, "replace", lambda *paths: calls.append("") or replace(*paths))
  files.write(tmp_path / "state.json", "{}")
  content, name, folder = calls
  assert content.startswith(f"{tmp_path}/.") and name == "" and folder == str(tmp_path)


def test_a_write_that_fails_leaves_nothing(tmp_path):
  (tmp_path / "state.json").mkdir()
  with pytest.raises(IsADirectoryError):
    files.write(tmp_path / "state.json", "{}")
  assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_damaged_files_are_kept_beside_each_other(tmp_path):
  path = tmp_path / "scores.json"
  for content in ("one", "two"):
    path.write_text(content)
    files.keep_damaged(path)
  assert (tmp_path / "scores.json.damaged").read_text() == "one"
  assert (tmp_path / "scores.json.damaged.1").read_text() == path.read_text() == "two"


def test_a_folder_to_write_to_is_checked(monkeypatch, tmp_path):
  files.check_writable(tmp_path / "new" / "run")
  (tmp_path / "file").write_text("")
  (tmp_path / "link").symlink_to(tmp_path / "nowhere")
  for name in ("file", "link"):
    with pytest.raises(ValueError, match=f"{name}: not a folder. Rename it, or use another folder"):
      files.check_writable(tmp_path / name / "run")
  monkeypatch.setattr(os, "access", lambda *_: False)  # The tests may run as root, who may write anywhere.
  with pytest.raises(ValueError, match=f"^{tmp_path}: not writable. Change its permissions"):
    files.check_writable(tmp_path / "new")


def test_the_folder_of_an_unknown_user_is_named():
  with pytest.raises(ValueError, match="^'~no_such_user/run': there is no such user."):
    files.path("~no_such_user/run")


def test_a_new_file_takes_the_place_of_the_old_one_only_when_it_is_whole(tmp_path):
  path = tmp_path / "network"
  path.write_bytes(b"old")
  with pytest.raises(KeyError), files.replacing(path) as file:
    file.write(b"new")
    raise KeyError
  assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
  with files.replacing(path) as file:
    file.write(b"new")
    assert path.read_bytes() == b"old"
  assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]
