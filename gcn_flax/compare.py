"""Compares runs: settings, metrics, curves, classes, and predictions on the same pictures."""

import logging
from collections.abc import Mapping, Sequence

import ml_collections
import numpy as np

from gcn_flax import files
from gcn_flax.config import is_classifier
from gcn_flax.example_pictures import find_examples
from gcn_flax.panel import draw_panel
from gcn_flax.preflight import check_one_host, check_page_libraries
from gcn_flax.printable import printable
from gcn_flax.reporting import comparison, comparison_page
from gcn_flax.segmenter import load
from gcn_flax.workdir.run_names import name_runs
from gcn_flax.workdir.run_results import RunResults
from gcn_flax.workdir.workdir import Workdir

_log = logging.getLogger(__name__)
_PAGE = "compare.html"
_MAX_PICTURES = 6


def run(
  config: ml_collections.ConfigDict, workdir: Workdir | files.Path | str, others: Sequence[files.Path | str]
) -> Mapping[str, RunResults]:
  """Compares runs as far as each has got; prints tables and writes `compare.html` to the first workdir.

  The predictions are those of the best checkpoints, each with the config of its run, on pictures of the evaluation
  split of the first run if it is prepared, else on the samples of its workdir. Runs may differ in everything.

  Args:
    config: config of the first run, which names the pictures.
    workdir: workdir of the first run.
    others: workdirs of the others.

  Returns:
    The results of each run by its name.

  Raises:
    ValueError: if a workdir has no settings, or a damaged file, or is given twice.
  """
  check_one_host("compare")
  check_page_libraries()
  workdir = Workdir(workdir)
  workdir.check_writable(_PAGE)
  runs = {name: RunResults.read(path) for name, path in name_runs(workdir.path, others).items()}
  print(comparison.text(runs), flush=True)
  workdir.write(_PAGE, comparison_page.render(runs, _draw_predictions(config, workdir, runs)))
  print(f"wrote {_PAGE} to {printable(workdir)}")
  return runs


def _draw_predictions(
  config: ml_collections.ConfigDict, workdir: Workdir, runs: Mapping[str, RunResults]
) -> np.ndarray | None:
  """Draws the predictions of all networks of pixels that have a checkpoint; None without any, or without pictures."""
  networks = {}
  for name, results in runs.items():
    if results.workdir.is_begun and not is_classifier(results.config):
      try:
        networks[name] = load(results.workdir.path)
      except ValueError as error:
        _log.warning("WARNING: no predictions of %s: %s", name, error)
  if not networks:
    return None
  try:
    examples = find_examples(config, workdir, next(iter(networks.values())).classes, _MAX_PICTURES)
    return draw_panel(networks, examples)
  except (ValueError, OSError) as error:
    _log.warning("WARNING: no predictions are shown: %s", error)
    return None
