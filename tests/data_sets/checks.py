"""Helpers of the data set tests: reading prepared data, and the faults that data.prepare reports."""

import os
import pathlib

import tensorflow_datasets as tfds

from data.prepare import main
from gcn_flax.input_pipeline.datasets import dataset_folder


def by_id(source):
  """Returns id -> example; no id may occur twice."""
  examples = {example["image_id"]: example for example in source}
  assert len(examples) == len(source)
  return examples


def stored_pictures(dataset, split, data_dir):
  """Returns image id -> the encoded image as it is stored."""
  (version,) = dataset_folder(dataset, data_dir).glob("*.*.*")
  builder = tfds.builder_from_directory(version)
  skip = {name: tfds.decode.SkipDecoding() for name in builder.info.features if name != "image_id"}
  return {record["image_id"].decode(): record["image"] for record in builder.as_data_source(split, decoders=skip)}


def files_in(folder):
  return sorted(str(pathlib.Path(root, name)) for root, _, names in os.walk(folder) for name in names)


def faults(capfd, dataset, root, data_dir, *options):
  """Returns the faults that a failed preparation reports, one per line on stderr; it may leave nothing behind."""
  assert main([f"--dataset={dataset}", f"--manual_dir={root}", f"--data_dir={data_dir}", *options]) == 1
  assert files_in(data_dir) == []
  return error_lines(capfd.readouterr().err)


def error_lines(stderr):
  """Returns the `error: ` lines of stderr; all others must belong to a progress bar."""
  lines = [line for line in stderr.splitlines() if line]
  errors = [line for line in lines if line.startswith("error: ")]
  assert all(
    "it/s]" in line or "?it" in line or line.startswith("sorting the records") for line in lines if line not in errors
  ), stderr
  return [line.removeprefix("error: ") for line in errors]
