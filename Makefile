# Each target sets up .venv by itself: Python 3.11 or newer, make and a C compiler are all it takes.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check

.PHONY: quickstart quickstart-pointwise test test-slow lint format bench bench-input clean

quickstart: $(VENV)/product  ## Trains a small GCN on generated scenes: minutes on a laptop.
	$(RUN) -m data.prepare --dataset=shapes --data_dir=runs/data
	$(RUN) -m gcn_flax.main --config=configs/quickstart.py --workdir=runs/quickstart

quickstart-pointwise: $(VENV)/product  ## The same with 1 x 1 heads, the paper's baseline.
	$(RUN) -m data.prepare --dataset=shapes --data_dir=runs/data
	$(RUN) -m gcn_flax.main --config=configs/quickstart.py:pointwise --workdir=runs/quickstart_pointwise

test: $(VENV)/dev  ## The default tests: under 10 minutes on 2 cores.
	JAX_PLATFORMS=cpu $(RUN) -m pytest -n auto --dist=worksteal

test-slow: $(VENV)/dev  ## The tests that take minutes each.
	JAX_PLATFORMS=cpu $(RUN) -m pytest -m slow

lint: $(VENV)/dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: $(VENV)/dev
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

bench: $(VENV)/dev  ## ResNet-50 GCN against the same network in PyTorch, on this machine.
	$(RUN) benchmarks/step.py --json=runs/bench_step.json

bench-input: $(VENV)/dev  ## Decoding and augmentation against a PyTorch DataLoader, on this machine.
	$(RUN) benchmarks/input.py --json=runs/bench_input.json

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "error: Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; say make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/product: requirements.txt constraints.txt | $(VENV)/bin/python
	$(PIP) install -q -r requirements.txt -c constraints.txt
	touch $@

$(VENV)/dev: requirements-dev.txt $(VENV)/product
	$(PIP) install -q -r requirements-dev.txt -c constraints.txt
	touch $@
