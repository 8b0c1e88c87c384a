# Each target creates .venv if needed. Requires Python 3.11 or newer, make and a C compiler; the tests also need C++.
# GPU=1 adds JAX's packages for NVIDIA GPUs to it, for the CUDA that fits the driver; GPU=0 does not. The default is 1
# where nvidia-smi lists a GPU.

PYTHON ?= python3
GPU ?= $(shell nvidia-smi --list-gpus >/dev/null 2>&1 && echo 1)
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check

PRODUCT := $(VENV)/product $(if $(filter 1,$(GPU)),$(VENV)/gpu)
CONSTRAINTS := -c constraints.txt
# Not 3.13, for which pydensecrf2 1.1 does not compile. The variable is for pyenv's shims.
NEWEST_PYTHON ?= $(if $(shell PYENV_VERSION=3.12 python3.12 --version 2>/dev/null),PYENV_VERSION=3.12 python3.12,$(PYTHON))

.DEFAULT_GOAL := help
.PHONY: help quickstart quickstart-pointwise test test-newest test-slow test-long fuzz lint format results-shapes rehearse \
  bench bench-parts bench-growth bench-startup bench-gpu bench-tpu bench-eval bench-input chaos clean

help:  ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-22s%s\n", $$1, $$2}' Makefile

quickstart: $(PRODUCT)  ## Train a small GCN on generated scenes: minutes on a laptop.
	$(RUN) -m data.prepare --dataset=shapes --data_dir=runs/data
	$(RUN) -m gcn_flax.main --config=configs/quickstart.py --workdir=runs/quickstart

quickstart-pointwise: $(PRODUCT)  ## The same with 1 x 1 heads, the paper's baseline.
	$(RUN) -m data.prepare --dataset=shapes --data_dir=runs/data
	$(RUN) -m gcn_flax.main --config=configs/quickstart.py:pointwise --workdir=runs/quickstart_pointwise

test: $(VENV)/browser  ## Run the default tests: at most 5 minutes on 2 cores.
	JAX_PLATFORMS=cpu $(RUN) -m pytest -n auto --dist=worksteal --durations=10

test-newest:  ## Run the default tests with Python 3.12 and the newest versions of all packages, in .venv-newest.
	rm -f .venv-newest/product .venv-newest/dev # There may be newer versions than last time.
	$(MAKE) test VENV=.venv-newest PYTHON="$(NEWEST_PYTHON)" CONSTRAINTS=--upgrade

# Two at a time: they take gigabytes of memory, and many start several processes.
test-slow: $(VENV)/browser  ## Run the slow tests: two processes, kill and resume, large networks, benchmarks.
	JAX_PLATFORMS=cpu $(RUN) -m pytest -m "slow and not long" -n 2 --dist=worksteal --durations=10 --ignore=tests/fuzz

test-long: $(VENV)/browser  ## Run the tests that are too long for continuous integration: six minutes.
	JAX_PLATFORMS=cpu $(RUN) -m pytest -m long --durations=10

fuzz: $(VENV)/browser  ## Run the fuzzer of state files and command lines: ten minutes on 2 cores.
	JAX_PLATFORMS=cpu $(RUN) -m pytest -m slow -n 2 --dist=worksteal --durations=10 tests/fuzz

lint: $(VENV)/dev  ## Check style and format with ruff.
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: $(VENV)/dev  ## Fix style and format.
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

results-shapes: $(VENV)/dev  ## Train and measure all that docs/RESULTS.md says of generated scenes: 40 minutes on 2 cores.
	$(RUN) -m data.prepare --dataset=shapes --data_dir=runs/data
	$(RUN) launch/ablation.py --table=1 --data=shapes --data_dir=runs/data
	$(RUN) launch/ablation.py --table=2 --data=shapes --data_dir=runs/data --cells=gcn-k7,trivial-k7
	$(RUN) launch/ablation.py --table=3 --data=shapes --data_dir=runs/data --cells=gcn-k7,stack-k7
	$(RUN) launch/ablation.py --table=5 --data=shapes --data_dir=runs/data
	mkdir -p docs/runs/shapes && cp runs/ablation/shapes/*-seed*.json docs/runs/shapes/
	$(RUN) docs/figures/shapes_studies.py --root=runs/ablation/shapes
	$(RUN) docs/figures/results.py

rehearse: $(PRODUCT) $(VENV)/crf  ## Run the commands of docs/REPRODUCE.md in small, archives to submissions: ten minutes.
	$(RUN) launch/rehearse.py

bench: $(VENV)/dev  ## Time ResNet-50 GCN against the same network in PyTorch.
	$(RUN) benchmarks/step.py --json=runs/bench_step.json

bench-parts: $(VENV)/dev  ## Time each part of that network against PyTorch's.
	$(RUN) benchmarks/parts.py --json=runs/bench_parts.json

bench-growth: $(VENV)/dev  ## Time train steps for growing k, crop, batch, depth and classes.
	$(RUN) benchmarks/growth.py --json=runs/bench_growth.json

bench-startup: $(PRODUCT)  ## Time the start of training, cold and after a preemption.
	$(RUN) benchmarks/startup.py --json=runs/bench_startup.json

bench-gpu: $(PRODUCT) $(VENV)/dev  ## Measure a GPU in ten minutes: steps beside PyTorch, start, input wait, parts, evaluation.
	PYTHON=$(RUN) benchmarks/gpu.sh

bench-tpu: $(VENV)/dev  ## Estimate the train step on v5e, v6e and v5p with the TPU compiler: half an hour.
	$(RUN) benchmarks/compile_tpu.py --json=runs/bench_tpu.json

bench-eval: $(VENV)/dev  ## Measure images per second and memory of evaluation at 1024 x 2048.
	$(RUN) benchmarks/evaluation.py --json=runs/bench_evaluation.json

bench-input: $(VENV)/dev  ## Measure decoding and augmentation against a PyTorch DataLoader.
	$(RUN) benchmarks/input.py --json=runs/bench_input.json

chaos: $(PRODUCT)  ## Kill a training run thirty times and compare it with an undisturbed one: 15 minutes.
	$(RUN) benchmarks/chaos.py --kills=30 --json=runs/chaos.json

clean:  ## Remove the environment and the caches of tests and linter.
	rm -rf $(VENV) .venv-newest .pytest_cache .ruff_cache

# The tests of pages need Chromium: the system's, Debian's package, or one downloaded by Playwright.
$(VENV)/browser: $(VENV)/dev
	for name in chromium chromium-browser google-chrome; do command -v $$name && exit; done; \
	  { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -qqy --no-install-recommends chromium; } >/dev/null || \
	  $(RUN) -m playwright install chromium || echo "no browser found or installed: tests of pages will fail"
	touch $@

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "error: Python 3.11 or newer is required, but $(PYTHON) is " + sys.version.split()[0] + ". Use make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/product: requirements.txt constraints.txt | $(VENV)/bin/python
	$(PIP) install -q -r requirements.txt $(CONSTRAINTS)
	touch $@

$(VENV)/gpu: requirements-gpu.txt requirements-gpu-cuda13.txt constraints.txt $(VENV)/product
	file=$$($(RUN) -m gcn_flax.nvidia) && echo "NVIDIA GPU: installing $$file; make GPU=0 leaves it out" && \
	  $(PIP) install -q -r $$file -c constraints.txt
	touch $@

$(VENV)/crf: requirements-crf.txt $(VENV)/product
	$(PIP) install -q -r requirements-crf.txt $(CONSTRAINTS)
	touch $@

$(VENV)/dev: requirements-dev.txt requirements-crf.txt $(VENV)/product
	$(PIP) install -q -r requirements-dev.txt $(CONSTRAINTS)
	touch $@
