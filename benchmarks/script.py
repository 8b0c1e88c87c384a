"""Arguments, JSON output and the description of the machine, common to all benchmarks."""

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import sys
from collections.abc import Iterable

from gcn_flax.processor import cpu_model, num_cores


def parser(description: str) -> argparse.ArgumentParser:
  """Returns a parser with the flag --json."""
  result = argparse.ArgumentParser(description=description)
  result.add_argument("--json", default="", help="file to write the figures to")
  return result


def write_json(path: str | pathlib.Path, figures: dict) -> None:
  """Writes figures to a file, in one move so that an interrupted benchmark leaves a whole file; '' writes nothing."""
  if not str(path):
    return
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_suffix(".new")
  partial.write_text(json.dumps(figures, indent=2) + "\n")
  partial.replace(path)


def machine(packages: Iterable[str]) -> dict:
  """Returns the processor, cores, load, date, versions and command of this measurement."""
  versions = {"python": platform.python_version()}
  for name in packages:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # OpenCV, for one, has several names.
      versions[name] = importlib.metadata.version(name)
  return {
    "cpu": cpu_model(),
    "cores": num_cores(),
    "load_average": os.getloadavg()[0],
    "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "versions": versions,
    "command": f"python benchmarks/{pathlib.Path(sys.argv[0]).name} {shlex.join(sys.argv[1:])}".strip(),
  }


def headline(machine: dict) -> str:
  """Returns two lines to print above the figures: the machine, date and versions, then the command."""
  versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
  return (
    f"{machine['cpu']}, {machine['cores']} cores, load average {machine['load_average']:.1f} at the start; "
    f"{machine['date']}; {versions}.\n`{machine['command']}`\n"
  )
