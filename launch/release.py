"""Writes a trained network as a folder to publish: weights, settings, metrics and a model card.

  python launch/release.py runs/quickstart releases/shapes --license=apache-2.0 --data_license=TEXT --intended_use=TEXT

The folder gets network.safetensors, config.json, metrics.json and README.md, a card in the form of Hugging Face. All
figures in it are those of the run's eval_<split>.json, which must be of the checkpoint that is released. The folder may
be a clone of a repository of Hugging Face; files that this command did not write are not replaced.
"""

import argparse
import json
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from gcn_flax import files, segmenter  # noqa: E402
from gcn_flax.download import sha256  # noqa: E402
from gcn_flax.exporting.weights import write_network  # noqa: E402
from gcn_flax.interrupts import interruptible  # noqa: E402
from gcn_flax.messages import flag  # noqa: E402
from gcn_flax.printable import print_error, printable  # noqa: E402
from gcn_flax.reporting.page import prediction_method  # noqa: E402
from gcn_flax.workdir.compatibility import training_settings  # noqa: E402
from gcn_flax.workdir.network_paths import NETWORK_FILE  # noqa: E402
from gcn_flax.workdir.run_results import RunResults, read_evaluation  # noqa: E402
from launch import model_card  # noqa: E402

_CARD = "README.md"
_FILES = (NETWORK_FILE, "config.json", "metrics.json", _CARD)
_LICENSES = "https://huggingface.co/docs/hub/repositories-licenses"


def write(
  workdir: str, folder: files.Path, license: str, data_license: str, intended_use: str, checkpoint: str = "best"
) -> model_card.Release:
  """Writes the folder of a release, and returns what its card says.

  Args:
    workdir: workdir of the run.
    folder: local folder to write to.
    license: licence of the weights, an identifier of Hugging Face; `other` for the text in `LICENSE` in the folder.
    data_license: licence of the data, a sentence.
    intended_use: what the network is for, in Markdown.
    checkpoint: `best`, `last` or a step.

  Raises ValueError for arguments that cannot be used, for a workdir without a checkpoint, `run.json` or the scores of
  the checkpoint, and for a classifier of whole images.
  """
  _check_license(folder, license)
  for name, text in (("data_license", data_license), ("intended_use", intended_use)):
    if not text.strip():
      raise ValueError(f"{flag(name, text)}: is empty. Say it in a sentence.")
  _check_folder(folder)
  run = RunResults.read(workdir)
  if not run.record:
    raise ValueError(f"{run.workdir / 'run.json'}: not found, and the card is made from it. Put it back.")
  model = segmenter.load(run.workdir.path, checkpoint)
  scores = _read_scores(run, model.trained.step)
  folder.mkdir(parents=True, exist_ok=True)
  write_network(folder / NETWORK_FILE, model.config, run.workdir, model.trained)
  release = model_card.Release(
    name=folder.name,
    license=license,
    data_license=data_license,
    intended_use=intended_use,
    address=f"https://HOST/PATH/{NETWORK_FILE}#sha256={sha256(folder / NETWORK_FILE)}",
    config=model.config,
    classes=model.classes,
    record=run.record,
    step=model.trained.step,
    evaluations=dict(zip(*run.evaluated(run.main_metric), strict=True)),
    scores=scores,
  )
  settings = training_settings(model.config, run.workdir)
  files.write(folder / "config.json", json.dumps(settings, indent=2) + "\n")
  files.write(folder / "metrics.json", json.dumps(scores, indent=2) + "\n")
  files.write(folder / _CARD, model_card.render(release))
  return release


def _check_license(folder: files.Path, license: str) -> None:
  """Raises ValueError for a licence that Hugging Face cannot list, and for one of one's own without its text."""
  if not re.fullmatch("[a-z0-9][a-z0-9.+-]*", license):
    raise ValueError(f"{flag('license', license)}: is no identifier. Use one of {_LICENSES}, such as apache-2.0.")
  text = folder / model_card.LICENSE_FILE
  if license == "other" and not text.is_file():
    raise ValueError(f"--license=other: {text} not found. Put the text of the licence there.")


def _check_folder(folder: files.Path) -> None:
  """Raises ValueError if the folder is not local or not writable, or if files of others would be replaced."""
  if files.is_remote(folder):
    raise ValueError(f"{folder}: is in a bucket. Write the release to a local folder, then upload it.")
  files.check_writable(folder)
  there = [folder / name for name in _FILES if (folder / name).exists()]
  card = folder / _CARD
  if there and not (card.is_file() and model_card.MARK in card.read_text(errors="replace")):
    raise ValueError(f"{there[0]}: was not written by this command. Remove it, or use another folder.")


def _read_scores(run: RunResults, step: int) -> dict[str, Mapping[str, Any]]:
  """Returns the content of `eval_<split>.json` by split.

  Raises ValueError if the evaluation split has none, and if one is of another checkpoint or made in another way than
  the network predicts when it is loaded.
  """
  paths = {run.workdir / f"eval_{run.config.data.eval_split}.json", *run.workdir.path.glob("eval_*.json")}
  scores = {path.stem.removeprefix("eval_"): read_evaluation(path) for path in sorted(paths)}
  own = prediction_method(json.loads(run.config.eval.to_json()))
  for split, found in scores.items():
    problem = (
      "not found" if not found
      else f"is of step {found['step']:,}, not of {step:,}, which is released" if found["step"] != step
      else f"is of {prediction_method(found['eval'])}, but the run's settings say {own}"
      if prediction_method(found["eval"]) != own
      else "is of another canvas than the run's" if "eval_size_of_training" in found
      else ""
    )  # fmt: skip
    if problem:
      command = f"python -m gcn_flax --mode=eval {flag('workdir', run.workdir)} --split={split} --checkpoint={step}"
      raise ValueError(f"{run.workdir / f'eval_{split}.json'}: {problem}. Evaluate that checkpoint: {command}")
  return scores


@interruptible
def main(argv: Sequence[str]) -> int:
  """Writes the folder, and prints how the network is loaded. Returns the exit status."""
  parser = argparse.ArgumentParser(prog="launch/release.py", description="Writes a network as a folder to publish.")
  parser.add_argument("workdir", help="workdir of the run")
  parser.add_argument("folder", help="folder of the release")
  parser.add_argument("--license", required=True, help=f"licence of the weights: one of {_LICENSES}")
  parser.add_argument("--data_license", required=True, help="licence of the data it was trained on, a sentence")
  parser.add_argument("--intended_use", required=True, help="what it is for, and what not, in Markdown")
  parser.add_argument("--checkpoint", default="best", help="best (default), last, or a step")
  given = parser.parse_args(argv)
  try:
    release = write(**vars(given) | {"folder": files.path(given.folder)})
  except (OSError, ValueError) as error:
    print_error(error)
    return 1
  size = (files.path(given.folder) / NETWORK_FILE).stat().st_size
  print(f"wrote {printable(given.folder)}: {', '.join(_FILES)}; {NETWORK_FILE} has {size / 1e6:.1f} MB")
  print(f'here:     gcn_flax.load("{printable(given.folder)}")')
  print(f'anywhere: gcn_flax.load("{release.address}")')
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
