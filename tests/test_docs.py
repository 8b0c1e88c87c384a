"""The words of code and documentation, and every command that they print."""

import argparse
import ast
import contextlib
import importlib
import io
import pathlib
import re
import shlex

import pytest

from gcn_flax import command_line
from tests.test_main import ROOT

SOURCES = [
  path
  for folder in ("gcn_flax", "configs", "data", "launch", "benchmarks", "docs", "tests")
  for path in sorted((ROOT / folder).rglob("*.py"))
]
PAGES = [
  ROOT / "README.md",
  ROOT / "CONTRIBUTING.md",
  ROOT / "data" / "README.md",
  *sorted((ROOT / "docs").glob("*.md")),
]

BAD_BEGINNINGS = ("What", "Whether", "Where", "How", "Of", "Those", "As", "These", "Such", "The same")

# Words that people who look for a feature search for.
FIELD_WORDS = (
  "mIoU", "test-time augmentation", "TTA", "sliding window", "mixed precision", "gradient accumulation",
  "gradient checkpointing", "data parallel", "SyncBN", "space-to-depth", "im2col", "transposed convolution", "citation",
)  # fmt: skip

# Names of earlier versions.
GONE = (
  "Forms", "of_platform", "PLAIN", "widen", "unstride", "by_parity", "of_scores", "_of_last", "_of_planes", "HostShare",
  "on_each", "to_each", "of_this_host", "given_weights", "first_state", "first_weights", "first weights",
  "open_trained", "trained_weights", "data_facts", "OF_THE_WEIGHTS",
)  # fmt: skip


def docstrings(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
      text = ast.get_docstring(node)
      if text:
        yield getattr(node, "name", "module"), text


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_begin_with_a_verb_or_a_noun(path):
  bad = [
    f"{name}: {text.splitlines()[0]}"
    for name, text in docstrings(path)
    if re.match(rf"({'|'.join(BAD_BEGINNINGS)})\b", text)
  ]
  assert not bad


@pytest.mark.parametrize("word", GONE)
def test_old_names_are_gone(word):
  found = [
    str(path.relative_to(ROOT))
    for path in (*SOURCES, *PAGES, ROOT / "Makefile")
    if path != pathlib.Path(__file__) and re.search(rf"(?<![A-Za-z0-9]){word}(?![A-Za-z0-9])", path.read_text())
  ]
  assert not found


@pytest.mark.parametrize("word", FIELD_WORDS)
def test_words_of_the_field_are_found(word):
  assert any(word.lower() in path.read_text().lower() for path in PAGES)


def test_the_path_from_main_to_the_jitted_step_is_as_long_as_documented():
  text = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
  rows = re.findall(r"^\| `(\S+\.py)` \| (\d+) \| `([\w.]+)` \| (\d+) \|", text, re.MULTILINE)
  assert len(rows) == 7
  for file, file_lines, function, lines in rows:
    source = (ROOT / file).read_text()
    node = ast.parse(source)
    for name in function.split("."):
      node = next(child for child in ast.walk(node) if getattr(child, "name", "") == name)
    assert (len(source.splitlines()), node.end_lineno - node.lineno + 1) == (int(file_lines), int(lines)), function


def commands():
  """Yields (file, command) of each command in the documentation and in docstrings."""
  for path in PAGES:
    for block in re.findall(r"^ *```\w*\n(.*?)^ *```", path.read_text(), re.MULTILINE | re.DOTALL):
      yield from ((path, line) for line in _lines(block))
    for span in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)):
      yield from ((path, line) for line in _lines(span))
  for path in SOURCES:
    for _, text in docstrings(path):
      yield from ((path, line) for line in _lines(text))


def _lines(text):
  for line in re.sub(r"\\\n\s*", "", text).splitlines():
    line = re.sub(r"^\$ ", "", line.strip())
    if re.match(
      r"(\w+=\S+ )*(python3?|\.venv/bin/python) (-m (gcn_flax|data|pip)|\S+\.py)|make \w|launch/\w+\.sh", line
    ):
      yield re.sub(r"\s+#.*|[.,;:]$", "", line)


COMMANDS = sorted({(str(path.relative_to(ROOT)), line) for path, line in commands()})


def test_commands_are_found():
  assert len(COMMANDS) > 60 and {place for place, _ in COMMANDS} >= {"README.md", "data/README.md", "configs/camvid.py"}


@pytest.mark.parametrize(
  "place, command", COMMANDS, ids=[f"{place}-{index}" for index, (place, _) in enumerate(COMMANDS)]
)
def test_commands_parse(place, command, monkeypatch):
  """Files exist, flags exist, modes take them, fields of the config exist; placeholders stand in capitals."""
  monkeypatch.chdir(ROOT)
  words = [word for word in shlex.split(command) if not re.fullmatch(r"\w+=\S*", word) or word.startswith("-")]
  while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
    words = words[1:]
  if words[0] == "make":
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert words[1] in targets
  elif words[0].endswith(".sh"):
    assert (ROOT / words[0]).exists()
  elif words[1:3] == ["-m", "pip"]:
    assert all((ROOT / word).exists() for word in words if word.endswith(".txt"))
  elif words[1] == "-m" and words[2] in ("gcn_flax", "gcn_flax.main"):
    check_command_line(words[2:])
  elif words[1] == "-m":
    check_flags(importlib.import_module(words[2]).main, words[3:])
  else:
    assert (ROOT / words[1]).exists()


def check_command_line(words):
  words = [re.sub(r"\[.*?\]", "", word) for word in words]
  if "--help" in words:
    return
  joined = " ".join(words)
  given = [word for word in words if "..." not in word]
  if "--config=" not in joined:
    given.append("--config=configs/quickstart.py")
  if "--workdir=" not in joined:
    given.append("--workdir=W")
  given = [word.replace("configs/NAME.py", "configs/quickstart.py") for word in given]
  command_line.parse(given)


def check_flags(main, words):
  """Raises AssertionError if a command that argparse parses does not know its flags."""
  words = [word for word in words if word not in ("...",)]
  if "--help" in words:
    return

  class Parsed(Exception):
    pass

  original = argparse.ArgumentParser.parse_args

  def parse_args(self, argv=None, namespace=None):
    original(self, argv, namespace)
    raise Parsed

  argparse.ArgumentParser.parse_args = parse_args
  errors = io.StringIO()
  try:
    with contextlib.redirect_stderr(errors), pytest.raises(Parsed):
      main(["program", *words] if _takes_program(main) else words)
  except SystemExit as error:
    raise AssertionError(errors.getvalue()) from error
  finally:
    argparse.ArgumentParser.parse_args = original


def _takes_program(main):
  return False
