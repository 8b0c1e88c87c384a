# Each target sets up .venv by itself: Python 3.11 or newer, make and a C compiler are all it takes, for tests C++ too.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check

.PHONY: quickstart quickstart-pointwise ablation-shapes test test-slow lint format bench bench-parts bench-growth bench-startup bench-tpu \
  bench-eval bench-input chaos clean

quickstart: $(VENV)/product  ## Trains a small GCN on generated scenes: minutes on a laptop.
	$(RUN) -m data.prepare --dataset=shapes --data_dir=runs/data
	$(RUN) -m gcn_flax.main --config=configs/quickstart.py --workdir=runs/quickstart

quickstart-pointwise: $(VENV)/product  ## The same with 1 x 1 heads, the paper's baseline.
	$(RUN) -m data.prepare --dataset=shapes --data_dir=runs/data
	$(RUN) -m gcn_flax.main --config=configs/quickstart.py:pointwise --workdir=runs/quickstart_pointwise

test: $(VENV)/browser  ## The default tests: under 10 minutes on 2 cores.
	JAX_PLATFORMS=cpu $(RUN) -m pytest -n auto --dist=worksteal

test-slow: $(VENV)/browser  ## The tests that take minutes each.
	JAX_PLATFORMS=cpu $(RUN) -m pytest -m slow

ablation-shapes: $(VENV)/product  ## Tables 1 and 5 of the paper on generated scenes: half an hour on 2 cores.
	$(RUN) -m data.prepare --dataset=shapes --data_dir=runs/data
	$(RUN) launch/ablation.py --table=1 --data=shapes --data_dir=runs/data
	$(RUN) launch/ablation.py --table=5 --data=shapes --data_dir=runs/data

lint: $(VENV)/dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: $(VENV)/dev
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

bench: $(VENV)/dev  ## ResNet-50 GCN against the same network in PyTorch, on this machine.
	$(RUN) benchmarks/step.py --json=runs/bench_step.json

bench-parts: $(VENV)/dev  ## Each part of that network against PyTorch's, on the CPU.
	$(RUN) benchmarks/parts.py --json=runs/bench_parts.json

bench-growth: $(VENV)/dev  ## How the cost of a train step grows with k, crop, batch, depth and classes, on this machine.
	$(RUN) benchmarks/growth.py --json=runs/bench_growth.json

bench-startup: $(VENV)/product  ## From the command to the first step, cold and after a preemption.
	$(RUN) benchmarks/startup.py --json=runs/bench_startup.json

bench-tpu: $(VENV)/dev  ## The train step on v5e, v6e and v5p chips, by their compiler alone: half an hour.
	$(RUN) benchmarks/compile_tpu.py --json=runs/bench_tpu.json

bench-eval: $(VENV)/dev  ## Images a second and memory of evaluation at 1024 x 2048, on this machine.
	$(RUN) benchmarks/evaluation.py --json=runs/bench_evaluation.json

bench-input: $(VENV)/dev  ## Decoding and augmentation against a PyTorch DataLoader, on this machine.
	$(RUN) benchmarks/input.py --json=runs/bench_input.json

chaos: $(VENV)/product  ## Kills a training thirty times and compares it with one left alone: a quarter of an hour.
	$(RUN) benchmarks/chaos.py --kills=30 --json=runs/chaos.json

$(VENV)/browser: $(VENV)/dev  ## The report is opened in Chromium: the system's, Debian's, or one that Playwright fetches.
	for name in chromium chromium-browser google-chrome; do command -v $$name && exit; done; \
	  { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -qqy --no-install-recommends chromium; } >/dev/null || \
	  $(RUN) -m playwright install chromium || echo "no browser was found or fetched: tests/test_report.py will fail"
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "error: Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; say make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/product: requirements.txt constraints.txt | $(VENV)/bin/python
	$(PIP) install -q -r requirements.txt -c constraints.txt
	touch $@

$(VENV)/dev: requirements-dev.txt requirements-crf.txt $(VENV)/product
	$(PIP) install -q -r requirements-dev.txt -c constraints.txt
	touch $@
