"""What the tests of the data sets share: reading prepared data, and faults of a preparation."""

import os
import pathlib

import tensorflow_datasets as tfds

from data.prepare import main
from gcn_flax.input_pipeline.datasets import dataset_folder


def by_id(source):
  """Examples by their ids, of which none may stand there twice."""
  examples = {example["image_id"]: example for example in source}
  assert len(examples) == len(source)
  return examples


def stored_pictures(dataset, split, data_dir):
  """Image id -> the picture as it is stored, encoded."""
  (version,) = dataset_folder(dataset, data_dir).glob("*.*.*")
  builder = tfds.builder_from_directory(version)
  skip = {name: tfds.decode.SkipDecoding() for name in builder.info.features if name != "image_id"}
  return {record["image_id"].decode(): record["image"] for record in builder.as_data_source(split, decoders=skip)}


def files_in(folder):
  return sorted(str(pathlib.Path(root, name)) for root, _, names in os.walk(folder) for name in names)


def faults(capfd, dataset, root, data_dir, *options):
  """The faults that stop a preparation, one for each line on stderr; nothing may be left behind."""
  assert main([f"--dataset={dataset}", f"--manual_dir={root}", f"--data_dir={data_dir}", *options]) == 1
  assert files_in(data_dir) == []
  return error_lines(capfd.readouterr().err)


def error_lines(stderr):
  """The lines of stderr that begin with `error: `; the others may only be a progress bar's."""
  lines = [line for line in stderr.splitlines() if line]
  errors = [line for line in lines if line.startswith("error: ")]
  assert all(
    "it/s]" in line or "?it" in line or line.startswith("sorting the records") for line in lines if line not in errors
  ), stderr
  return [line.removeprefix("error: ") for line in errors]
