"""The record of a run."""

import re
import subprocess

from gcn_flax.workdir import record


def test_the_commit_is_that_of_a_repository_that_tracks_the_package(monkeypatch, tmp_path):
  def git(*arguments):
    options = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", tmp_path, *options, *arguments], check=True, capture_output=True)

  source = tmp_path / "record.py"
  source.write_text("")
  monkeypatch.setattr(record, "__file__", str(source))
  git("init")
  git("commit", "--allow-empty", "--message=another project")
  assert record.machine()["commit"] is None
  git("add", "record.py")
  git("commit", "--message=the package")
  assert re.fullmatch("[0-9a-f]{40}", record.machine()["commit"])
  source.write_text("changed")
  assert record.machine()["commit"].endswith("+")
