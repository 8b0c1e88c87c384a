"""Names of files and classes cannot drive a terminal, and break no page, chart or sheet."""

import logging
import os
import xml.dom.minidom

import cv2
import numpy as np
import pytest

from data.prepare import main as prepare
from gcn_flax import commands
from gcn_flax.printable import one_line, printable
from gcn_flax.visualize import charts, tables, text

NAMES = ["road", "道路", "straße", r"$\bad$", "_x^", "\x1b[31mred", "lone\udcff", "two\nlines", "<b>&"]


@pytest.mark.parametrize(
  "name, shown",
  [
    ("Straße 道路 \u200d", "Straße 道路 \u200d"),
    ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
    ("a\udcff.png", r"a\xff.png"),
    ("\ud800", r"\ud800"),
    ("gpj.\u202exe", r"gpj.\u202exe"),
    ("a\nb", r"a\nb"),
  ],
)
def test_what_a_terminal_cannot_show_is_escaped(name, shown):
  assert printable(name) == shown
  printable(name).encode()


def test_the_lines_of_a_program_are_printable(capsys):
  assert one_line(ValueError("a\n b\x1b")) == r"a b\x1b"
  assert commands._fail("a\x1b[31m\n.png: bad.") == 1
  record = logging.LogRecord("gcn_flax", logging.INFO, "", 0, "skipped %s", ("a\x1b\udcff",), None)
  assert commands._Formatter("%(message)s").format(record) == r"skipped a\x1b\xff"
  assert capsys.readouterr().err == "error: a\\x1b[31m .png: bad.\n"
  print(tables.class_table(NAMES, [0.5] * len(NAMES), [0.1] * len(NAMES), {"mean_iou": 0.5}))
  assert "\x1b" not in capsys.readouterr().out


def test_charts_keep_every_name():
  size = len(NAMES)
  for svg in (
    charts.confusion(np.eye(size, dtype=np.int64), NAMES),
    charts.ranges({name: ([1, 2], [1, 2], [0, 0]) for name in NAMES}, "x", "y"),
  ):
    xml.dom.minidom.parseString(svg.encode())
    assert "道路" in svg and r"$\bad$" in svg and r"\x1b[31mred" in svg


@pytest.mark.parametrize("outlined", [False, True])
def test_sheets_show_names_in_any_script(outlined, monkeypatch):
  def drawn(name):
    picture = np.full((24, 200, 3), 128, np.uint8)
    text.draw_text(picture, name, 4, 16, outlined)
    return picture

  for name in NAMES:
    assert (drawn(name) != 128).any()
  assert (drawn("straße") != drawn("stra?e")).any()
  monkeypatch.setattr(text, "_fonts", lambda: [])  # A machine without a font for the letters.
  np.testing.assert_array_equal(drawn("道"), drawn(r"\u9053"))


def test_a_file_whose_name_is_not_text_is_named(tmp_path, capsys):
  for kind in ("images", "masks"):
    for split in ("train", "val"):
      (tmp_path / kind / split).mkdir(parents=True)
      for name in (b"a.png", b"b\xff\x1b.png") if split == "train" else (b"c.png",):
        if kind == "images":
          picture = np.full((32, 32, 3), 20 * len(split) + len(name), np.uint8)
        else:
          picture = np.full((32, 32), len(name) % 2, np.uint8)
        path = os.path.join(os.fsencode(tmp_path / kind / split), name)
        with open(path, "wb") as file:
          file.write(cv2.imencode(".png", picture)[1].tobytes())
  (tmp_path / "classes.txt").write_text("one\ntwo\n")
  assert prepare(["--dataset=folder", f"--manual_dir={tmp_path}", f"--data_dir={tmp_path}/data"]) == 1
  errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
  assert len(errors) == 2 and all("/train/b\\xff\\x1b.png: its name is not UTF-8. Rename it" in line for line in errors)
