"""Submissions to the benchmark servers of VOC and Cityscapes."""

import dataclasses
import logging
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from PIL import Image

from gcn_flax import files, inference
from gcn_flax.config_checks import check_config
from gcn_flax.input_pipeline.examples import Source
from gcn_flax.input_pipeline.pictures import check_image_id
from gcn_flax.labels import CITYSCAPES, VOC, voc_palette
from gcn_flax.parallel import parallel_map
from gcn_flax.preflight import check_pixels, preflight
from gcn_flax.printable import printable
from gcn_flax.rounding import ceil_div
from gcn_flax.run_data import RunData, eval_batches
from gcn_flax.tasks import segmentation
from gcn_flax.training import sharding
from gcn_flax.visualize import overlay
from gcn_flax.workdir.compatibility import training_settings
from gcn_flax.workdir.trained import Trained, load_trained
from gcn_flax.workdir.workdir import Workdir

_log = logging.getLogger(__name__)
_DATASETS = {"voc": "voc_segmentation", "cityscapes": "cityscapes"}
_MAX_FAULTS = 10  # Faults that an error lists.


def run(
  config: ml_collections.ConfigDict,
  workdir: Workdir | files.Path | str,
  kind: str,
  split: str = "",
  output: pathlib.Path | str = "",
  checkpoint: str = "best",
) -> pathlib.Path:
  """Predicts every image of a split, writes it as a server takes it, reads it back, and returns the folder.

  Args:
    config: config of the network and the evaluation.
    workdir: workdir of the run.
    kind: `voc` or `cityscapes`.
    split: name of the split, by default `test`.
    output: folder of the submission; by default one in the workdir.
    checkpoint: `best`, `last` or a step.

  Raises ValueError for what `preflight`, `load_trained` and `SubmissionFolder.check` reject, and for a folder that is
  not empty: it might hold the predictions of another network.
  """
  workdir, split = Workdir(workdir), split or "test"
  folder = open_folder(config, workdir, kind, split, output)
  data = preflight(config, workdir, split=split, labelled=False)
  files.check_writable(folder.folder)
  source = data.dataset(config.data.dataset).source(split)
  for index in range(len(source)):
    folder.path(source.image_id(index))  # Raises for names that a server would not take.
  trained = load_trained(config, workdir, checkpoint, data.label_set)
  count = predict_split(config, trained, folder, source)
  print(f"wrote {count} label maps to {printable(folder.folder)}, checked")
  return folder.folder


def check(
  config: ml_collections.ConfigDict,
  workdir: Workdir | files.Path | str,
  kind: str,
  split: str = "",
  output: pathlib.Path | str = "",
) -> int:
  """Reads a submission back and returns its number of label maps; arguments as for `run`.

  Raises ValueError for what the server would reject.
  """
  workdir, split = Workdir(workdir), split or "test"
  folder = open_folder(config, workdir, kind, split, output)
  count = folder.check(RunData(config).dataset(config.data.dataset).source(split))
  print(f"{count} label maps in {printable(folder.folder)}: complete")
  return count


def open_folder(
  config: ml_collections.ConfigDict, workdir: Workdir, kind: str, split: str, output: pathlib.Path | str
) -> "SubmissionFolder":
  """Returns the folder of a submission.

  Raises ValueError for a wrong config, for another data set, and for a folder in a bucket.
  """
  check_config(config, training=False)  # Its data sets are read below.
  check_pixels(config, f"--submission={kind}")
  if not output and workdir.is_remote:
    raise ValueError(f"--workdir={workdir} is in a bucket. Give a local folder for the label maps, --output=DIR.")
  default = workdir / f"submission_{kind}_{split}"
  target = pathlib.Path(output).expanduser().absolute() if output else default
  return SubmissionFolder.of(training_settings(config, workdir), kind, split, target)


def predict_split(
  config: ml_collections.ConfigDict, trained: Trained, folder: "SubmissionFolder", source: Source
) -> int:
  """Writes a label map of every image of a split, reads them back, and returns their number.

  Raises ValueError for a folder that is not empty, and as `SubmissionFolder.check`.
  """
  path = folder.folder
  if any(sharding.all_gather(jax.process_index() == 0 and path.is_dir() and any(path.iterdir()))):
    raise ValueError(f"--output: {path} is not empty. Remove its content, or use another folder.")
  path.mkdir(parents=True, exist_ok=True)
  progress = inference.Progress(f"predicting {source.split}", ceil_div(len(source), jax.process_count()))

  def examples() -> Iterator[tuple]:
    for example, output in inference.examples(trained.setup, trained.weights, eval_batches(config, source)):
      image, prediction = (segmentation.remove_padding(array, example["size"]) for array in (example["image"], output))
      yield str(example["image_id"]), image, prediction

  with inference.crf_postprocessing(config) as postprocess:

    def write(predicted: tuple[str, np.ndarray, np.ndarray]) -> None:
      image_id, image, prediction = predicted
      folder.write(image_id, postprocess(image, prediction))

    for _ in parallel_map(write, examples(), inference.num_threads(config)):
      progress.add()
  sharding.all_gather(None)  # Waits until all hosts have written.
  return folder.check(source)


@dataclasses.dataclass(frozen=True)
class SubmissionFolder:
  """A folder of label maps of one split, as a benchmark server takes it.

  Attributes:
    kind: `voc` for indexed PNGs of class numbers with VOC's palette,
      `results/VOC2012/Segmentation/comp6_test_cls/ID.png` (VOC2012 devkit, sections 5.3 and 5.4); `cityscapes` for PNGs
      of raw label ids, `ID_labelIds.png`, in one folder.
    folder: path of the folder.
  """

  kind: str
  folder: pathlib.Path

  @classmethod
  def of(cls, settings: Mapping[str, Any], kind: str, split: str, output: pathlib.Path) -> "SubmissionFolder":
    """Returns the folder of a split below `output`; `settings` are those of the training, as in `config.json`.

    Raises ValueError for another data set.
    """
    dataset = settings["data"]["dataset"]
    if dataset != _DATASETS[kind]:
      raise ValueError(
        f"--submission={kind} is for the data set {_DATASETS[kind]}, but config.data.dataset={dataset!r}. Use a "
        "workdir that was trained on it."
      )
    if kind == "cityscapes":
      return cls(kind, output)
    name = f"{competition(settings)}_{ {'validation': 'val'}.get(split, split) }_cls"
    return cls(kind, output / "results" / "VOC2012" / "Segmentation" / name)

  def path(self, image_id: str) -> pathlib.Path:
    """Returns the path of the label map of an image. Raises ValueError for an id that leads out of the folder."""
    check_image_id(image_id)
    if "/" in image_id:
      raise ValueError(f"the image id {image_id!r} has a folder, but {self.folder} takes files only. Rename the image.")
    return self.folder / f"{image_id}{'_labelIds' if self.kind == 'cityscapes' else ''}.png"

  def write(self, image_id: str, label: np.ndarray) -> None:
    """Writes the label map of an image, train ids uint8 `[H, W]`, at the size of the image."""
    if self.kind == "cityscapes":
      overlay.save_labels(self.path(image_id), _RAW_IDS[label])
    else:
      overlay.save_labels(self.path(image_id), label, voc_palette(256))

  def check(self, source: Source) -> int:
    """Reads the folder back and returns the number of label maps.

    Raises:
      ValueError: listing what the server would reject: files that are missing or belong to no image, cannot be read,
        have another size than their image, more than one channel, another palette, or values that are no class.
    """
    names = {self.path(source.image_id(index)).name: index for index in range(len(source))}
    there = {path.name for path in self.folder.glob("*")} if self.folder.is_dir() else set()
    missing, others = sorted(names.keys() - there), sorted(there - names.keys())
    faults = [f"{name} is missing" for name in missing] + [f"{name} belongs to no image" for name in others]
    for name in sorted(names.keys() & there):
      fault = self._fault(self.folder / name, source[names[name]]["image"].shape[:2])
      faults += [f"{name} {fault}"] if fault else []
    if faults:
      for fault in faults[_MAX_FAULTS:]:
        _log.warning("%s", fault)
      rest = f"; and {len(faults) - _MAX_FAULTS} more, listed above" if len(faults) > _MAX_FAULTS else ""
      raise ValueError(
        f"{self.folder} is not ready for the server, {len(missing)} of {len(names)} files are missing: "
        f"{'; '.join(faults[:_MAX_FAULTS])}{rest}."
      )
    return len(names)

  def _fault(self, path: pathlib.Path, size: Sequence[int]) -> str:
    """Returns the fault of a file; '' if there is none."""
    try:
      with Image.open(path, formats=["PNG"]) as image:
        image.load()
    except Exception as error:  # Decoders raise many kinds for damaged files.
      return f"cannot be read ({error})"
    wanted = "L" if self.kind == "cityscapes" else "P"
    if image.mode != wanted:
      return f"is of mode {image.mode} instead of {wanted}"
    if image.size[::-1] != tuple(size):
      return f"is {image.height} x {image.width}, its image {size[0]} x {size[1]}"
    if self.kind == "voc" and image.getpalette()[: 3 * 256] != [
      value for colour in voc_palette(256) for value in colour
    ]:
      return "has another palette than VOC's"
    allowed = _RAW_IDS if self.kind == "cityscapes" else np.arange(VOC.num_classes)
    values = np.unique(np.asarray(image))
    strange = np.setdiff1d(values, allowed)
    which = "which is no class" if strange.size == 1 else "which are no classes"
    return f"holds {', '.join(map(str, strange[:5]))}, {which}" if strange.size else ""


_RAW_IDS = np.array([np.flatnonzero(CITYSCAPES.raw_to_train == index)[0] for index in range(19)], np.uint8)


def competition(settings: Mapping[str, Any]) -> str:
  """Returns VOC's `comp5` for a network trained only on VOC's own segmentation images, else `comp6`."""
  mix = {(dataset, split) for dataset, split, _ in settings["data"]["train_mix"]}
  own = {("voc_segmentation", split) for split in ("train", "validation", "trainval")}
  given = settings["model"]["pretrained"] or settings["init_from"]
  return "comp5" if mix <= own and not given else "comp6"
