#!/usr/bin/env bash
# Measures everything that docs/PERFORMANCE.md says about a GPU, within ten minutes on a borrowed one.
#
#   benchmarks/gpu.sh [--data_dir=DIR] [--only=step,parts] [--minutes=10] [--out=DIR]
#
# `benchmarks/gpu.sh --help` lists what is measured. Paths are relative to the clone. Set PYTHON to use another
# interpreter than .venv/bin/python or, where there is none, python3. PyTorch with CUDA must be installed; TensorFlow is
# not needed if the data is prepared.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
command -v "$PYTHON" >/dev/null || PYTHON=python3
cd "$ROOT"
exec "$PYTHON" -u benchmarks/gpu.py "$@"
