"""Imports go one way, and what trains needs neither TensorFlow nor a data set library."""

import ast
import pathlib
import sys

import pytest

# Each may import what stands on a lower floor, and its own folder.
FLOORS = {
  "files": 0, "file_locks": 0, "json_files": 0, "messages": 0, "nested": 0, "parallel": 0, "rounding": 0,
  "compile_watch": 0, "distributed": 0, "interrupts": 0, "nvidia": 0, "workers": 0, "printable": 0, "processor": 0,
  "config": 1, "labels": 1, "download": 1,
  "config_fields": 2, "flag_errors": 2, "models": 2, "input_pipeline": 2, "evaluation": 2,
  "config_checks": 3, "training": 3, "visualize": 3, "tasks": 4, "spatial": 4,
  "build": 5, "run_data": 5, "out_of_memory": 5, "compile_ahead": 6, "inference": 6, "workdir": 6,
  "reporting": 7, "preflight": 7, "planning": 7, "picture_files": 7, "exporting": 7,
  "segmenter": 8, "submission": 8, "search_crf": 8, "evaluate": 8, "label_errors": 8, "example_pictures": 8,
  "serving": 9, "export": 9, "predict": 9, "train": 9, "panel": 9, "command_line": 9,
  "explain": 10, "compare": 10, "commands": 11, "main": 12, "__main__": 13, "__init__": 13,
}  # fmt: skip
ALLOWED = {  # Libraries that only these parts may import.
  "tensorflow": {"workdir"},
  "clu": {"workdir"},
  "wandb": {"workdir"},
  "tensorflow_datasets": {"input_pipeline"},
  "grain": {"input_pipeline"},
  "orbax": {"training"},
  "flax": {"models", "training", "build"},
  "ml_collections": {
    "config", "config_checks", "config_fields", "tasks", "spatial", "out_of_memory", "build", "run_data",
    "compile_ahead", "inference", "workdir", "preflight", "reporting", "exporting",
    "planning", "evaluate", "export", "predict", "submission", "search_crf", "train", "command_line", "flag_errors",
    "commands", "segmenter", "explain", "compare", "label_errors", "example_pictures", "serving",
  },
  "cv2": {"input_pipeline", "evaluation", "visualize"},
  "PIL": {"exporting", "input_pipeline", "submission", "visualize"},
  "safetensors": {"models"},
  "torch": {"exporting", "models"},
  "onnx": {"exporting"},
  "onnxruntime": {"exporting"},
  "pydensecrf": {"evaluation"},
  "matplotlib": {"visualize"},
  "jinja2": {"reporting"},
  "starlette": {"serving"},
  "uvicorn": {"serving"},
}  # fmt: skip
FILES = sorted(pathlib.Path("gcn_flax").rglob("*.py"))


def part(path):
  relative = path.relative_to("gcn_flax")
  return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path):
  """Every module that a file imports anywhere in it, `from a import b` as `a.b`."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_part_has_a_floor():
  assert {part(path) for path in FILES} == set(FLOORS)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_imports_only_from_below(path):
  here = part(path)
  for name in imports(path):
    names = name.split(".")
    if names[0] == "gcn_flax" and len(names) > 1 and names[1] in FLOORS and names[1] != here:
      assert FLOORS[names[1]] < FLOORS[here], f"{path} imports {name}"
    assert here in ALLOWED.get(names[0], {here}), f"{path} imports {name}"
    assert names[0] not in ("data", "configs", "tests"), f"{path} imports {name}"


@pytest.mark.parametrize("path", sorted(pathlib.Path("configs").glob("*.py")), ids=str)
def test_recipes_know_the_config_alone(path):
  """And other recipes, which they change."""
  assert all(name == "gcn_flax.config" or name.startswith("configs.") for name in imports(path))


@pytest.mark.parametrize("path", sorted(pathlib.Path("data").rglob("*.py")), ids=str)
def test_builders_import_only_labels_helpers_and_the_reader_of_pictures(path):
  helpers = ("interrupts", "json_files", "labels", "parallel", "printable", "input_pipeline.pictures")
  more = {"browse.py": ("input_pipeline", "visualize"), "prepare.py": ("file_locks", "input_pipeline")}
  allowed = tuple(f"gcn_flax.{name}" for name in helpers + more.get(path.name, ()))
  assert all(name.startswith(allowed) for name in imports(path) if name.startswith("gcn_flax"))


def test_the_reader_of_pictures_imports_nothing_slow():
  """Data preparation imports it."""
  libraries = {name.split(".")[0] for name in imports(pathlib.Path("gcn_flax/input_pipeline/pictures.py"))}
  assert libraries - sys.stdlib_module_names <= {"cv2", "gcn_flax", "numpy", "PIL"}


def test_the_standard_library_has_no_namesake():
  """`data`, `configs` and `launch` are top-level names: they must not hide a module of Python's."""
  assert not {"data", "configs", "gcn_flax", "tests", "benchmarks"} & set(sys.stdlib_module_names)
