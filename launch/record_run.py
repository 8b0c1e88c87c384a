"""Writes what a finished run reached, and how, as one JSON file for docs/runs.

  python launch/record_run.py runs/camvid docs/runs/camvid_cpu_resnet_tiny_0.json

launch/records.py says what the file has.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from launch import records  # noqa: E402


def main(argv: Sequence[str]) -> int:
  """Writes the record. Returns the exit status."""
  parser = argparse.ArgumentParser(prog="launch/record_run.py", description="Writes what a run reached as JSON.")
  parser.add_argument("workdir", type=pathlib.Path)
  parser.add_argument("output", type=pathlib.Path)
  args = parser.parse_args(argv)
  try:
    records.write(records.record(args.workdir), args.output)
  except (OSError, ValueError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
