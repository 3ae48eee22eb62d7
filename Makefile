# make demo and make test set up everything by themselves: all they need is Python >= 3.11 and make.
PYTHON ?= python3
VENV := .venv
LOWEST := .venv-lowest
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.docs-ready
BENCH_READY := $(VENV)/.bench-ready
# one worker a core, a thread each; a file stays in one worker, so that what its tests share is made once
WORKERS := -n auto --dist loadfile
PYTEST := $(BIN)/python -m pytest $(WORKERS)

.PHONY: help setup demo test test-full test-lowest lint format types docs proofs bench gpu claims clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1: /p' $(MAKEFILE_LIST)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"make: got Python {sys.version.split()[0]} as $(PYTHON); expected 3.11 or newer. To mend: make PYTHON=/path/to/python3.11 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,examples]'
	@touch $@

$(DOCS_READY): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@

$(BENCH_READY): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[benchmarks]'
	@touch $@

setup: $(READY)  ## the virtual environment, made or brought up to date

demo: $(READY)  ## trains SimCLR on generated pictures for a minute and shows what it learned; how DINO collapses; objects on other backgrounds
	$(BIN)/python examples/simclr.py --demo
	$(BIN)/python examples/collapse.py --demo
	$(BIN)/python examples/saliency.py --demo

test: $(READY)  ## the tests (what CI runs)
	$(PYTEST)

test-full: $(READY) test-lowest  ## the tests that take too long for `make test`, and all tests on the lowest versions
	$(PYTEST) -m full

$(LOWEST)/.ready: pyproject.toml
	@test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev,examples]' 'torch==2.11.*' 'torchvision==0.26.*' 'numpy<2.4'
	@touch $@

test-lowest: $(LOWEST)/.ready  ## the tests on the lowest versions of torch and torchvision that are supported
	$(LOWEST)/bin/python -m pytest $(WORKERS)

lint: $(READY)  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(READY)  ## mypy --strict on src
	$(BIN)/mypy

docs: $(DOCS_READY)  ## the documentation, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

proofs: $(READY)  ## docs/proofs.md and docs/adapters.md from the registry, the promises and the tests
	$(BIN)/python -m tests.registry
	$(BIN)/python -m tests.backbones.test_adapt_page

bench: $(BENCH_READY)  ## the microbenchmarks, into benchmarks/results/
	$(BIN)/python -m benchmarks

gpu: $(READY)  ## on a GPU: all tests of the kernels and all their timings, into benchmarks/results/kernels/ and docs/kernels.md
	$(BIN)/python -m benchmarks.kernels

claims: $(READY)  ## the papers' claims, small: TIER=cpu (default) | quick | gpu
	$(BIN)/python -m benchmarks.claims --tier $(or $(TIER),cpu)

clean:
	rm -rf $(VENV) $(LOWEST) site build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
